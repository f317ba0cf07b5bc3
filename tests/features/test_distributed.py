"""Features and fills through Ray on this machine, with two actors: the same as in one process."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maerestore.cli.main import main
from maerestore.errors import MaerestoreError
from maerestore.features.items import find_items
from maerestore.features.loaders import ExtractorSettings
from maerestore.features.options import FeatureOptions
from maerestore.features.run import extract
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_files import read_table

from .test_remote import png, tar_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow

TINY = {
    "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mask_embed": True,
}  # fmt: skip
OPTIONS = FeatureOptions(precision="fp32", size=32)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Ray on this machine, once for all tests here."""
    from maerestore.cluster import _QUIET

    before = dict(os.environ)
    os.environ.update(_QUIET)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model of random weights."""
    import torch

    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MaskedAutoencoder(MAEConfig(**TINY))
    folder = tmp_path_factory.mktemp("model")
    save_autoencoder(made, folder)
    return str(folder)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with a corrupt image in it, a tar, a URI and a table of bytes; 22 images, of several shapes."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/cats", "far"):
        Path(folder).mkdir(parents=True)
    for k in range(6):
        Path(f"photos/cats/{k}.png").write_bytes(png(k, (20 + k, 30)))
        Path(f"far/{k}.png").write_bytes(png(10 + k, (33, 20 + k)))
    Path("photos/cut.png").write_bytes(png(0)[:200])
    tar_of(Path("s.tar"), {f"{k}.png": png(20 + k) for k in range(5)} | {"0.cls": b"dogs"})
    pq.write_table(pa.table({"image": [png(30 + k, (40, 25)) for k in range(4)]}), "t.parquet", row_group_size=2)
    return ["photos", "s.tar", Path("far").absolute().as_uri(), "t.parquet"]


def assert_same(one: FeatureTable, other: FeatureTable) -> None:
    assert one.names == other.names
    assert one.labels == other.labels
    assert one.errors == other.errors
    assert (one.sizes == other.sizes).all()
    assert (one.mtimes == other.mtimes).all()
    assert {**one.facts, "dtype": ""} == {**other.facts, "dtype": ""}
    np.testing.assert_allclose(one.features, other.features, atol=1e-5)


def test_a_table_is_that_of_one_process_and_goes_on_where_it_was_cut_off(
    sources: list[str], model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from maerestore.features.distributed import extract_ray
    from maerestore.features.remote import find_sources

    settings = ExtractorSettings(model=model, options=OPTIONS, device="cpu", batch_size=4)
    items = find_sources(sources)
    assert len(items) == 22
    extract(items, settings, Path("local.parquet"))

    class CutOff(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done:
            raise CutOff

    with pytest.raises(CutOff):
        extract_ray(items, settings, Path("ray.parquet"), ray_workers=1, shard=5, progress=stop)
    assert not Path("ray.parquet").exists()

    arguments = ["features", *sources, "-o", "ray.parquet", "--model", model, "--size", "32", "--precision", "fp32"]
    capfd.readouterr()
    assert main([*arguments, "--device", "cpu", "--engine", "ray", "--ray-workers", "2", "--json"]) == 1
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert (told["images"], told["computed"], told["kept"]) == (22, 17, 5)
    assert [error["image"] for error in told["errors"]] == ["photos/cut.png"]
    assert err.count("\n") <= 1  # nothing of Ray's; the damaged image may have been in the part that was kept
    assert "cut.png" in err or not err
    assert_same(read_table(Path("ray.parquet")), read_table(Path("local.parquet")))


def test_a_folder_of_shards(sources: list[str], model: str, capfd: pytest.CaptureFixture[str]) -> None:
    from maerestore.features.shards import extract_shards, read_shards

    Path("bad.tar").write_bytes(b"no tar" * 500)
    settings = ExtractorSettings(model=model, options=OPTIONS, device="cpu", batch_size=4)
    uri = Path("out").absolute().as_uri() + "/"
    report = extract_shards([*sources, "bad.tar"], settings, uri, ray_workers=2, loose=5, half=True)
    assert (report.images, report.computed, report.kept) == (23, 23, 0)
    assert sorted(name for name, _ in report.errors) == ["bad.tar", "photos/cut.png"]
    written = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    assert len(written) == 6  # 13 loose images are three shards; two tars and a table
    assert sorted(os.listdir("out")) == ["facts.json", "plan.json", *sorted(written)]

    from maerestore.features.remote import find_sources

    extract(find_sources(sources), settings, Path("local.parquet"))
    local = read_table(Path("local.parquet"))
    found = join_tables(list(read_shards("out")))
    rows = [found.names.index(name) for name in local.names]
    np.testing.assert_allclose(found.rows(rows).features, local.features, atol=1e-3)  # halves
    assert found.rows(rows).labels == local.labels

    # One is cut off, one is lost, one is of a file that is gone: only those are done.
    of = {tuple(read_table(Path("out", name)).names): name for name in written}
    tar = next(name for names, name in of.items() if "s.tar/0.png" in names)
    table = next(name for names, name in of.items() if names[0].startswith("t.parquet"))
    Path("out", tar).write_bytes(Path("out", tar).read_bytes()[:-50])
    Path("out", table).unlink()
    Path("bad.tar").unlink()
    again = extract_shards(sources, settings, "out/", ray_workers=1, loose=5, half=True)
    assert (again.images, again.computed, again.kept, again.dropped) == (22, 9, 13, 1)
    after = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    assert len(after) == 5
    assert {name for name in after if after[name] == written[name]} == set(after) - {tar, table}

    with pytest.raises(MaerestoreError, match="--overwrite"):
        other = replace(settings, options=FeatureOptions(precision="fp32", size=24))
        extract_shards(sources, other, "out/", ray_workers=1, half=True)
    assert {path.name for path in Path("out").glob("*.parquet")} == set(after)


def test_an_error_in_an_actor_is_told_in_one_line(sources: list[str], model: str) -> None:
    from maerestore.features.distributed import ray_engine

    good = ExtractorSettings(model=model, options=OPTIONS, device="cpu")
    engine = ray_engine(replace(good, model="no/such/model"), ray_workers=1)
    with pytest.raises(MaerestoreError, match="no/such/model") as caught:
        extract(find_items(sources[:2]), good, Path("t.npy"), engine=engine)
    assert len(str(caught.value).splitlines()) == 1


def test_fills_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 12:25] = 255
    Image.fromarray(mask).save("mask.png")
    rows = ["photo,mask"]
    for k in range(6):
        Path(f"{k}.png").write_bytes(png(k, (40, 30)))
        rows.append(f"{k}.png,mask.png")
    Path("pairs.csv").write_text("\n".join([*rows, "gone.png,mask.png"]))
    arguments = ["inpaint", "--table", "pairs.csv", "--model", model, "--device", "cpu", "--precision", "fp32"]
    assert main([*arguments, "-o", "local", "--quiet"]) == 1
    assert main([*arguments, "-o", "far", "--quiet", "--engine", "ray", "--ray-workers", "2"]) == 1
    assert sorted(os.listdir("far")) == sorted(os.listdir("local")) == [f"{k}.png" for k in range(6)]
    for k in range(6):
        one, other = (np.asarray(Image.open(f"{folder}/{k}.png"), dtype=int) for folder in ("local", "far"))
        assert abs(one - other).max() <= 1
        assert (other[10:20, 12:25] != np.asarray(Image.open(f"{k}.png"))[10:20, 12:25]).any()
