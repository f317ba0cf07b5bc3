"""The `features` verb in process, with a tiny random model."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.features.table_files import SUFFIXES, read_table

from .conftest import contents, noise

Features = Callable[..., tuple[int, str, str]]


@pytest.fixture
def features(command: Callable[..., tuple[int, str, str]]) -> Features:
    """features(path, *options): exit code, stdout and stderr, with the tiny model on the CPU."""
    return functools.partial(command, "features")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "cats/b.png", "cats/c.png")):
        Image.fromarray(noise(40 + 8 * seed, seed=seed)).save(folder / name)
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_becomes_a_table(features: Features, photos: Path, tmp_path: Path, suffix: str) -> None:
    code, out, err = features(photos, "-o", tmp_path / f"t{suffix}")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path}/t{suffix}: 3 images computed, in ")
    table = read_table(tmp_path / f"t{suffix}")
    assert table.names == [f"{photos.as_posix()}/{name}" for name in ("a.png", "cats/b.png", "cats/c.png")]
    assert (table.labels, table.errors) == ([None, "cats", "cats"], [None] * 3)
    assert table.features.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(table.features, axis=1), 1, atol=1e-3)
    assert not list(tmp_path.glob("*.parts"))


def test_the_options_reach_the_features(features: Features, photos: Path, tmp_path: Path, model_folder: Path) -> None:
    from maerestore.features import FeatureExtractor, Whitening

    options = ["--pooling", "cls+mean", "--layers", -1, 0, "--scales", 1, 0.5, "--size", 24, "--no-normalize",
               "--precision", "fp32", "--quiet", "--workers", 1, "--batch-size", 2]  # fmt: skip
    assert features(photos, "-o", tmp_path / "t.npy", *options) == (0, "", "")
    extractor = FeatureExtractor.from_pretrained(
        model_folder, pooling="cls+mean", layers=(-1, 0), scales=(1, 0.5), size=24, normalize=False, precision="fp32",
        device="cpu",
    )  # fmt: skip
    expected = extractor([photos / name for name in ("a.png", "cats/b.png", "cats/c.png")]).numpy()
    table = read_table(tmp_path / "t.npy")
    assert table.features.shape == (3, 2 * 2 * 2 * 32)
    np.testing.assert_allclose(table.features, expected, atol=1e-4)
    assert table.facts["fingerprint"] == extractor.fingerprint
    assert table.facts["model"] == str(model_folder)

    Whitening.fit(expected, 2, fingerprint=extractor.fingerprint).save(tmp_path / "white.safetensors")
    white = ["--whiten", tmp_path / "white.safetensors", "--float16"]
    assert features(photos, "-o", tmp_path / "w.npy", *options, *white)[0] == 0
    assert np.load(tmp_path / "w.npy").dtype == np.float16
    assert np.load(tmp_path / "w.npy").shape == (3, 2)
    code, _, err = features(photos, "-o", tmp_path / "t.npy", *options, *white[:2])
    assert (code, err.count("\n")) == (2, 1)


def test_a_second_run_does_what_is_new(features: Features, photos: Path, tmp_path: Path) -> None:
    assert features(photos, "-o", tmp_path / "t.npy")[0] == 0
    Image.fromarray(noise(seed=9)).save(photos / "new.png")
    (photos / "a.png").unlink()
    (photos / "broken.png").write_bytes(b"no image")
    code, out, err = features(photos, "-o", tmp_path / "t.npy")
    assert code == 1
    assert ": 2 images computed, 2 were there, 1 removed; 1 of 4 images has an error, in " in out
    assert err.count("\n") == 1
    assert err.startswith(f"maerestore features: no feature for {photos.as_posix()}/broken.png: ")
    code, out, err = features(photos, "-o", tmp_path / "t.npy")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"maerestore features: no feature for {photos.as_posix()}/broken.png: ")
    assert err.endswith(" (found in an earlier run; --retry tries it again)\n")
    code, out, err = features(photos, "-o", tmp_path / "t.npy", "--json")
    assert (code, err) == (1, "")
    done = json.loads(out)
    assert {key: done[key] for key in ("images", "computed", "kept", "dropped", "dim", "dtype", "engine")} == {
        "images": 4, "computed": 0, "kept": 4, "dropped": 0, "dim": 32, "dtype": "float32", "engine": "local",
    }  # fmt: skip
    assert [error["image"] for error in done["errors"]] == [f"{photos.as_posix()}/broken.png"]
    assert json.loads(features(photos, "-o", tmp_path / "t.npy", "--json", "--retry")[1])["computed"] == 1


def test_one_image_is_told_in_the_singular(features: Features, photos: Path, tmp_path: Path) -> None:
    assert ": 1 image computed, in " in features(photos / "a.png", "-o", tmp_path / "t.npy")[1]
    assert ": 0 images computed, 1 was there, in " in features(photos / "a.png", "-o", tmp_path / "t.npy")[1]


def test_where_no_image_can_be_read_no_table_is_written(features: Features, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    for options in ([], ["--json"], ["--quiet"]):
        code, out, err = features(photos / "broken.png", "-o", tmp_path / "t.npy", *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"maerestore features: no feature for {photos.as_posix()}/broken.png: ")
        assert err.endswith("; '{}' is not written.\n".format(tmp_path / "t.npy"))
    assert not list(tmp_path.glob("t.npy*"))
    # Rows that are there are no reason to lose them.
    assert features(photos, "-o", tmp_path / "t.npy")[0] == 1
    before = contents(tmp_path)
    assert features(photos / "broken.png", "-o", tmp_path / "t.npy", "--retry", "--overwrite")[0] == 2
    assert contents(tmp_path) == before


def test_another_model_or_other_options_are_refused(features: Features, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    assert features(photos, "-o", out)[0] == 0
    before = contents(tmp_path)
    for options, message in (
        (["--pooling", "cls"], "holds features with pooling mean, not cls"),
        (["--size", 24], "with size None, not 24"),
        (["--float16"], "with dtype float32, not float16"),
    ):
        code, _, err = features(photos, "-o", out, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
        assert contents(tmp_path) == before
    assert features(photos, "-o", out, "--precision", "fp32")[0] == 0  # the same features, but for rounding
    assert features(photos, "-o", out, "--pooling", "cls", "--overwrite")[0] == 0
    assert read_table(out).facts["options"]["pooling"] == "cls"


def test_two_at_once_are_one_too_many(features: Features, photos: Path, tmp_path: Path) -> None:
    from maerestore.features.store import FeatureStore

    with FeatureStore(tmp_path / "t.npy"):
        code, _, err = features(photos, "-o", tmp_path / "t.npy")
    assert (code, err.count("\n")) == (2, 1)
    assert "another process works in" in err


def test_uris_and_tables_of_paths_are_sources(features: Features, photos: Path, tmp_path: Path) -> None:
    import pandas as pd

    assert features(photos.as_uri(), "-o", tmp_path / "t.npy")[0] == 0
    assert read_table(tmp_path / "t.npy").labels == [None, "cats", "cats"]
    names = [str(photos / name) for name in ("cats/c.png", "a.png")]
    pd.DataFrame({"path": names}).to_parquet(tmp_path / "list.parquet")
    assert features(tmp_path / "list.parquet", "-o", tmp_path / "u.npy")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "u.npy"), np.load(tmp_path / "t.npy")[[2, 0]], atol=2e-2)
    assert read_table(tmp_path / "u.npy").names == names


def test_ray_is_asked_for_by_name(
    features: Features, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other engine gets what the verb was told."""
    from types import ModuleType

    from maerestore.features.run import Report, extract

    told: dict[str, Any] = {}

    def extract_ray(items, settings, out, *, address, ray_workers, **more):  # type: ignore[no-untyped-def]
        told.update(address=address, ray_workers=ray_workers)
        return extract(items, settings, out, **more)

    fake = ModuleType("maerestore.features.distributed")
    fake.extract_ray = extract_ray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    options = ["--engine", "ray", "--ray-address", "auto", "--ray-workers", 2, "--json"]
    code, out, _ = features(photos, "-o", tmp_path / "t.npy", *options)
    assert (code, json.loads(out)["engine"]) == (0, "ray")
    assert told == {"address": "auto", "ray_workers": 2}

    def extract_shards(sources, settings, out, **more):  # type: ignore[no-untyped-def]
        told.update(sources=sources, out=out, **more)
        return Report()

    other = ModuleType("maerestore.features.shards")
    other.extract_shards = extract_shards  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, other.__name__, other)
    assert features(photos, "s3://bucket/more", "-o", "s3://bucket/out/", *options, "--float16")[0] == 0
    assert told["sources"] == [str(photos), "s3://bucket/more"]
    assert (told["out"], told["half"], told["ray_workers"]) == ("s3://bucket/out/", True, 2)
    uris = ["s3://key:secret@bucket/more?region=x", "-o", "s3://key:secret@bucket/out/?region=x"]
    for flags in (["--json"], []):
        code, out, err = features(*uris, "--engine", "ray", *flags)
        assert (code, err, "s3://bucket/out/" in out) == (0, "", True)
        assert "secret" not in out
        assert (told["sources"], told["out"]) == (uris[:1], uris[2])


BAD = {
    "no path": ("{0}/none -o {0}/t.npy", "does not exist"),
    "no image": ("{0}/empty -o {0}/t.npy", "no image in"),
    "no output": ("{0}", "-o"),
    "folder": ("{0} -o {0}/out/", "which --engine ray writes"),
    "far table": ("{0} -o s3://bucket/t.npy", "a single table is written on this machine: name a file, or a folder"),
    "far table, Ray": ("{0} -o s3://bucket/t.npy --engine ray", "a single table is written on this machine"),
    "suffix": ("{0} -o {0}/t.csv", "use .parquet, .npy, .safetensors"),
    "output folder": ("{0} -o {0}/none/t.npy", "does not exist: create it first"),
    "output is no table": ("{0} -o {0}/mine.npy", "add --overwrite"),
    "patch": ("{0} -o {0}/t.npy --pooling patch", "a grid for each image"),
    "pooling": ("{0} -o {0}/t.npy --pooling sum", "sum"),
    "layers": ("{0} -o {0}/t.npy --layers 7", "layers must lie in -2 to 1"),
    "layer twice": ("{0} -o {0}/t.npy --layers 1 1", "layers names one twice"),
    "scales": ("{0} -o {0}/t.npy --scales nan", "scales must be"),
    "size": ("{0} -o {0}/t.npy --size 0", "'0' is no whole number of at least 1"),
    "workers": ("{0} -o {0}/t.npy --workers 0", "'0' is no whole number of at least 1"),
    "model": ("{0} -o {0}/t.npy --model nonesuch", "no model 'nonesuch'"),
    "whiten": ("{0} -o {0}/t.npy --whiten {0}/none.safetensors", "none.safetensors"),
    "ray address": ("{0} -o {0}/t.npy --ray-address auto", "--ray-address goes with --engine ray"),
    "ray workers": ("{0} -o {0}/t.npy --ray-workers 2", "--ray-workers goes with --engine ray"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(features: Features, photos: Path, case: str) -> None:
    command, message = BAD[case]
    (photos / "empty").mkdir()
    (photos / "mine.npy").write_bytes(b"mine")
    before = contents(photos)
    code, out, err = features(*command.format(photos).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert contents(photos) == before


def test_a_table_of_images_is_not_replaced_by_its_features(
    features: Features, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"path": [str(photos / "a.png")]}), "src.parquet")
    Path("linked.parquet").symlink_to("src.parquet")
    before = Path("src.parquet").read_bytes()
    for source in ("src.parquet", tmp_path / "src.parquet", (tmp_path / "src.parquet").as_uri(), "linked.parquet"):
        for flags in ([], ["--overwrite"]):
            code, out, err = features(photos, source, "-o", "src.parquet", *flags)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert "would replace the input" in err
    assert Path("src.parquet").read_bytes() == before
    assert features("src.parquet", "-o", "other.parquet")[0] == 0


def test_a_bad_folder_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from maerestore.cli.main import main; "
        f"assert main(['features', {str(tmp_path)!r}, '-o', {str(tmp_path / 't.npy')!r}]) == 2; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_pyarrow_parquet_gets_one_line(
    features: Features, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = features(photos, "-o", tmp_path / "t.parquet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'maerestore[features]'" in err
