from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.features.index import kinds
from maerestore.features.index.image_index import Change, ImageIndex
from maerestore.features.options import FeatureOptions
from maerestore.features.table_files import read_table, write_table
from maerestore.image import InputError

from .helpers import clustered, cosines, toy_table

KINDS = kinds.KINDS
N = 300


def current(index: ImageIndex) -> str:
    return (index.folder / "current").read_text()


def first_hits(index: ImageIndex, features: np.ndarray) -> list[str]:
    return [hits[0].name for hits in index.search(features, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_is_found_after_opening(folder: Path, kind: str) -> None:
    features = clustered(N)
    built = ImageIndex.build(folder, toy_table(features), kind=kind)
    index = ImageIndex.open(folder)
    assert (len(index), index.kind, index.names) == (N, kind, [f"{i}.png" for i in range(N)])
    assert index.facts["fingerprint"] == "f" * 64
    [hits] = index.search(features[5:6] * 7, k=4)
    assert (hits[0].name, len(hits), hits[0].folder) == ("5.png", 4, str(Path.cwd()))
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert built.search(features[:3]) == index.search(features[:3])
    assert np.allclose(index.features(["7.png"])[0], features[7] / np.linalg.norm(features[7]), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_change_and_go(folder: Path, kind: str) -> None:
    features, others = clustered(N), clustered(50, seed=9)
    index = ImageIndex.build(folder, toy_table(features[:-20]), kind=kind)
    names = [f"{i}.png" for i in range(N)]
    assert index.add(toy_table(features[-40:], names[-40:])) == Change(added=20, unchanged=20)
    assert index.add(toy_table(others[:5], names[:5], mtime=2)) == Change(replaced=5)
    assert index.add(toy_table(others[5:8], names[5:8], size=2)) == Change(replaced=3)
    assert len(index) == N
    assert first_hits(index, others[:8]) == names[:8]
    assert not set(first_hits(index, features[:8])) & set(names[:8])
    assert index.remove([*names[10:20], names[10]]) == 10
    for opened in (index, ImageIndex.open(folder)):
        assert len(opened) == len(opened.names) == N - 10
        found = opened.search(features[10:20], 20)
        assert not {hit.name for hits in found for hit in hits} & set(names[10:20])
        assert np.mean([a == b for a, b in zip(first_hits(opened, features[20:]), names[20:], strict=True)]) > 0.97
    assert index.add(toy_table(features[10:20], names[10:20])) == Change(added=10)
    assert first_hits(index, features[10:20]) == names[10:20]


@pytest.mark.parametrize("kind", KINDS)
def test_dead_rows_are_swept_out(folder: Path, kind: str) -> None:
    features = clustered(N)
    index = ImageIndex.build(folder, toy_table(features), kind=kind)
    rows = []
    for start in range(0, 120, 20):
        index.remove([f"{i}.png" for i in range(start, start + 20)])
        rows.append(len(index._snapshot.entries))
        assert rows[-1] <= len(index) / (1 - kinds.DEAD_SHARE)
    assert rows[-1] < N
    assert (rows[0] == N) == (kind != "flat")
    assert first_hits(index, features[120:130]) == [f"{i}.png" for i in range(120, 130)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_can_become_empty_and_full_again(folder: Path, kind: str) -> None:
    features = clustered(N)
    index = ImageIndex.build(folder, toy_table(features), kind=kind)
    index.remove(index.names)
    for opened in (index, ImageIndex.open(folder)):
        assert (len(opened), opened.names, opened.search(features[:2]), opened.duplicates()) == (0, [], [[], []], [])
    assert index.add(toy_table(features)) == Change(added=N)
    assert index.kind == kind
    assert first_hits(index, features[:5]) == [f"{i}.png" for i in range(5)]


def test_what_is_there_and_unchanged_writes_nothing(folder: Path) -> None:
    features = clustered(30)
    index = ImageIndex.build(folder, toy_table(features))
    before = current(index)
    assert index.add(toy_table(features)) == Change(unchanged=30)
    assert index.remove([]) == 0
    assert current(index) == before


def test_a_model_given_by_a_relative_path_is_kept_by_its_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "features").mkdir()
    kept = {"models/m": f"{tmp_path}/models/m", "features": "features", "org/name": "org/name"}
    for number, (model, name) in enumerate(kept.items()):
        index = ImageIndex.build(tmp_path / str(number), toy_table(clustered(3), model=model))
        assert index.facts["model"] == name
        assert index.add(toy_table(clustered(4), model=model)) == Change(added=1, unchanged=3)


def test_an_image_that_is_in_two_tables_counts_once(folder: Path, tmp_path: Path) -> None:
    features = clustered(5)
    names = [f"{i}.png" for i in range(5)]
    write_table(toy_table(features[:3], names[:3]), tmp_path / "a.npy")
    write_table(toy_table(features[2:], names[2:]), tmp_path / "b.npy")
    index = ImageIndex.build(folder, [tmp_path / "a.npy", tmp_path / "b.npy"])
    assert index.names == names
    for other in (toy_table(features[3:], names[2:4]), toy_table(features[2:], names[2:], mtime=2)):
        write_table(other, tmp_path / "b.npy")
        with pytest.raises(InputError, match=r"two images are named '2\.png'"):
            ImageIndex.build(folder, [tmp_path / "a.npy", tmp_path / "b.npy"], overwrite=True)


def test_the_kind_changes_with_the_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "FLAT_UNTIL", 300)
    monkeypatch.setattr(kinds, "HNSW_UNTIL", 600)
    features = clustered(700)
    index = ImageIndex.build(folder, toy_table(features[:290]))
    seen = [index.kind]
    for start, end in ((290, 310), (310, 590), (590, 700)):
        index.add(toy_table(features[start:end], [f"{i}.png" for i in range(start, end)]))
        seen.append(index.kind)
        assert first_hits(index, features[start : start + 5]) == [f"{i}.png" for i in range(start, start + 5)]
    index.remove([f"{i}.png" for i in range(500)])
    seen.append(index.kind)
    assert seen == ["flat", "hnsw", "hnsw", "ivfpq", "flat"]
    assert first_hits(index, features[600:605]) == [f"{i}.png" for i in range(600, 605)]


def test_a_rebuild_changes_the_kind_without_the_images(folder: Path) -> None:
    features = clustered(N)
    index = ImageIndex.build(folder, toy_table(features))
    index.remove(["0.png"])
    for kind in ("hnsw", "ivfpq", "flat"):
        index.rebuild(kind)
        assert (index.kind, ImageIndex.open(folder).kind, len(index)) == (kind, kind, N - 1)
        assert first_hits(index, features[1:6]) == [f"{i}.png" for i in range(1, 6)]
    with pytest.raises(ValueError, match="kind must be one of"):
        index.rebuild("tree")


def test_features_of_others_are_refused(folder: Path) -> None:
    features = clustered(20)
    index = ImageIndex.build(folder, toy_table(features))
    before = current(index)
    for table in (toy_table(features, model="other", fingerprint="0" * 64), toy_table(features[:, :8])):
        with pytest.raises(InputError, match="holds features of model 'toy' with other weights or options") as caught:
            index.add(table)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"features must be \(Q, 16\), got shape \(20, 8\)"):
        index.search(features[:, :8])
    assert current(index) == before


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_feature_without_direction_is_refused(folder: Path, value: float) -> None:
    features = clustered(4)
    features[2] = value
    with pytest.raises(InputError, match=r"the feature of '2.png' has no direction"):
        ImageIndex.build(folder, toy_table(features))


def test_rows_with_errors_are_left_out(folder: Path) -> None:
    table = toy_table(np.where(np.arange(4)[:, None] == 1, np.nan, clustered(4)))
    table.errors[1] = "damaged"
    index, change = ImageIndex.build_with_report(folder, table)
    assert index.names == ["0.png", "2.png", "3.png"]
    assert change == Change(added=3, errors=[("1.png", "damaged")])


@pytest.mark.parametrize("kind", KINDS)
def test_folders_whose_names_are_no_utf8(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        here = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
        here.mkdir()
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    monkeypatch.chdir(here)
    features = clustered(N)
    ImageIndex.build(here / "index", toy_table(features[:-1]), kind=kind)
    index = ImageIndex.open(here / "index")
    assert index.add(toy_table(features[-1:], ["new.png"])) == Change(added=1)
    assert first_hits(ImageIndex.open(here / "index"), features[-3:]) == [f"{N - 3}.png", f"{N - 2}.png", "new.png"]
    assert index.search(features[:1], 1)[0][0].folder == f"{tmp_path}/caf\\xe9"
    write_table(toy_table(features), here / "t.parquet")
    assert read_table(here / "t.parquet").names == [f"{i}.png" for i in range(N)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_of_nearly_all_finds_all(folder: Path, kind: str) -> None:
    features = np.concatenate([np.repeat(clustered(1), 2 * N, 0), clustered(N, seed=1)])
    index = ImageIndex.build(folder, toy_table(features), kind=kind)
    index.remove([f"{i}.png" for i in range(10)])
    for k in (N, 3 * N):
        hits = index.search(features[-1:], k)[0]
        assert len({hit.name for hit in hits}) == min(k, 3 * N - 10)
        assert hits[0].name == f"{3 * N - 1}.png"
        expected = np.sort(cosines(features[-1:], features[10:])[0])[::-1][: len(hits)]
        assert np.allclose([hit.score for hit in hits], expected, atol=2e-3)


@pytest.mark.parametrize("name", ["dim", "fingerprint", "wanted", "kind"])
def test_facts_that_are_missing_are_told(folder: Path, name: str) -> None:
    ImageIndex.build(folder, toy_table(clustered(3)))
    path = folder / "00000000/index.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))
    with pytest.raises(InputError, match="is damaged"):
        ImageIndex.open(folder)


def test_bad_arguments_are_named(folder: Path) -> None:
    table = toy_table(clustered(3))
    with pytest.raises(InputError, match=r"two images are named 'a.png'"):
        ImageIndex.build(folder, toy_table(clustered(2), ["a.png", "a.png"]))
    with pytest.raises(ValueError, match="kind must be one of"):
        ImageIndex.build(folder, table, kind="tree")
    assert not folder.exists()
    index = ImageIndex.build(folder, table)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
        index.search(clustered(1), 0)
    with pytest.raises(InputError, match=r"no image 'x.png' in index"):
        index.remove(["0.png", "x.png"])
    assert len(ImageIndex.open(folder)) == 3
    with pytest.raises(InputError, match="exists: add to it, choose another folder, or add --overwrite"):
        ImageIndex.build(folder, table)
    assert len(ImageIndex.build(folder, toy_table(clustered(5)), overwrite=True)) == 5


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_damaged_files_are_told(folder: Path, kind: str) -> None:
    ImageIndex.build(folder, toy_table(clustered(N)), kind=kind)
    files = sorted((folder / "00000000").iterdir())
    assert len(files) == (3 if kind == "flat" else 4)
    for path in files:
        whole = path.read_bytes()
        damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole)), "gone": None}
        for content in damaged.values():
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(InputError, match=r"is damaged|cannot be read") as caught:
                ImageIndex.open(folder).search(clustered(1))
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    assert len(ImageIndex.open(folder).search(clustered(1))[0]) == 10


def test_a_later_format_is_told(folder: Path) -> None:
    ImageIndex.build(folder, toy_table(clustered(3)))
    path = folder / "00000000/index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(InputError, match="has format 2: this version reads 1"):
        ImageIndex.open(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_goes_on_while_another_writes(folder: Path, kind: str) -> None:
    features = clustered(N)
    ImageIndex.build(folder, toy_table(features[:-1]), kind=kind)
    early, busy = ImageIndex.open(folder), ImageIndex.open(folder)
    busy.search(features[:1])
    ImageIndex.open(folder).add(toy_table(features[-1:], ["new.png"]))
    for reader in (early, busy):  # one has read the faiss index, the other finds it gone
        assert first_hits(reader, features[:5]) == [f"{i}.png" for i in range(5)]
    assert early.add(toy_table(features[-1:], ["new.png"])) == Change(unchanged=1)


def test_writers_wait_for_each_other(folder: Path) -> None:
    features = clustered(41)
    ImageIndex.build(folder, toy_table(features[:1]))
    failed = []

    def add(first: int) -> None:
        try:
            index = ImageIndex.open(folder)
            for i in range(first, first + 10):
                index.add(toy_table(features[i : i + 1], [f"{i}.png"]))
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=add, args=(1 + 10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    index = ImageIndex.open(folder)
    assert sorted(index.names) == sorted(f"{i}.png" for i in range(41))
    assert first_hits(index, features) == [f"{i}.png" for i in range(41)]


def test_a_table_on_disk_is_a_source(folder: Path, tmp_path: Path) -> None:
    from maerestore.features.table_files import write_table

    features = clustered(8)
    for suffix in ("parquet", "npy", "safetensors"):
        write_table(toy_table(features), tmp_path / f"table.{suffix}")
    index = ImageIndex.build(folder, [tmp_path / "table.parquet"])
    assert index.add([tmp_path / "table.npy"]) == Change(unchanged=8)
    write_table(toy_table(features, [f"x{i}.png" for i in range(8)]), tmp_path / "more.safetensors")
    assert index.add(tmp_path / "more.safetensors") == Change(added=8)
    write_table(toy_table(features, fingerprint="0" * 64), tmp_path / "other.npy")
    with pytest.raises(InputError, match="features of different models or options"):
        index.add([tmp_path / "table.npy", tmp_path / "other.npy"])


def test_a_table_of_another_model_is_refused_before_images_are_computed(folder: Path, tmp_path: Path) -> None:
    class Busy:
        """An extractor that may be loaded, but not used."""

        name, fingerprint, dim, batch_size, pixels_wanted = "toy", "0" * 64, 16, 8, 8
        options = FeatureOptions()

        def __call__(self, images: Any) -> Any:
            raise AssertionError

    features = clustered(8)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_table(toy_table(features), tmp_path / "table.npy")
    sources = [tmp_path / "table.npy", tmp_path / "a.png"]
    with pytest.raises(InputError, match="features of different models or options"):
        ImageIndex.build(folder, sources, Busy())  # type: ignore[arg-type]
    index = ImageIndex.build(folder, toy_table(features, fingerprint="0" * 64))
    with pytest.raises(InputError, match=r"holds features of model 'toy' with other weights.*the same --whiten"):
        index.add(sources, Busy())  # type: ignore[arg-type]
