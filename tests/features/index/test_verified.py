"""Near-duplicates whose features are similar, and whose pictures decide."""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.features.index import looks
from maerestore.features.index.duplicates import DuplicateReport
from maerestore.features.index.image_index import ImageIndex
from maerestore.features.index.pictures import Pictures, decode
from maerestore.features.items import Item, as_utf8

from .helpers import toy_table
from .scenes import cropped, scene

DIM, OTHERS = 64, 100


def similar(n: int, cosine: float, seed: int = 0) -> np.ndarray:
    """(n, DIM): any two have about this cosine."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=DIM), rng.normal(size=(n, DIM))
    common /= np.linalg.norm(common)
    own -= (own @ common)[:, None] * common
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return np.sqrt(cosine) * common + np.sqrt(1 - cosine) * own


def index_of(
    folder: Path, names: Sequence[str | Path], features: np.ndarray, kind: str = "flat", sizes: Sequence[int] = ()
) -> ImageIndex:
    """An index of some images, and of a hundred others that are similar to none, and have no files."""
    rest = np.random.default_rng(9).normal(size=(OTHERS, DIM))
    every = np.concatenate([features, rest / np.linalg.norm(rest, axis=1, keepdims=True)])
    table = toy_table(every, [*map(str, names), *(f"none/{i}.png" for i in range(OTHERS))])
    table.sizes[: len(names)] = sizes or range(len(names), 0, -1)
    return ImageIndex.build(folder / "index", table, kind=kind, overwrite=True)


def groups(report: DuplicateReport) -> list[list[str]]:
    """The last parts of the names, first the one to keep, then the others in the order of the alphabet."""
    found = [[Path(name).name for name in group.names] for group in report.groups]
    return sorted([names[0], *sorted(names[1:])] for names in found)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three scenes: a with four copies, b with one in a tar, and c; in the order of their sizes."""
    a, b, c = scene(1), scene(2), scene(3)
    a.save(tmp_path / "a.png")
    a.convert("L").save(tmp_path / "a-gray.png")
    a.resize((90, 60)).save(tmp_path / "a-small.png")
    a.save(tmp_path / "a-50.jpg", quality=50)
    cropped(a, 0.07).save(tmp_path / "a-cut.png")
    for name, picture in (("b.png", b), ("c.png", c)):
        picture.save(tmp_path / name)
    b.point(lambda level: int(0.8 * level + 20)).save(tmp_path / "pale.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "pale.png", "./deep/b-pale.png")
    names = [
        "a.png",
        "b.png",
        "c.png",
        "a-gray.png",
        "a-small.png",
        "a-50.jpg",
        "a-cut.png",
        "shard.tar/deep/b-pale.png",
    ]
    return [tmp_path / name for name in names]


COPIES = [["a.png", "a-50.jpg", "a-cut.png", "a-gray.png", "a-small.png"], ["b.png", "b-pale.png"]]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_pictures_decide_between_copies_and_similar_pictures(tmp_path: Path, photos: list[Path], kind: str) -> None:
    index = index_of(tmp_path, photos, similar(len(photos), 0.9), kind)
    report = index.duplicates_with_report()
    assert groups(report) == COPIES
    assert (report.threshold, report.pairs, report.read, report.unread) == (0.8, 28, 8, 0)
    assert all(score > 0.8 for group in report.groups for score in group.scores)
    assert index.duplicates() == report.groups


def test_without_pictures_all_that_is_similar_is_one_group(tmp_path: Path, photos: list[Path]) -> None:
    report = index_of(tmp_path, photos, similar(len(photos), 0.9)).duplicates_with_report(0.8, verify=False)
    assert [len(group.names) for group in report.groups] == [8]
    assert (report.pairs, report.read, report.unread) == (28, 0, 0)


def test_the_order_of_the_images_does_not_matter(tmp_path: Path, photos: list[Path]) -> None:
    features, order = similar(len(photos), 0.9), list(range(len(photos)))
    sizes = [9, 9, 5, 4, 9, 3, 2, 1]
    told = []
    for seed in range(4):
        random.Random(seed).shuffle(order)
        index = index_of(tmp_path, [photos[i] for i in order], features[order], sizes=[sizes[i] for i in order])
        told.append(index.duplicates())
    assert all([group.names for group in one] == [group.names for group in told[0]] for one in told)
    assert Path(told[0][0].names[0]).name == "a-small.png"  # of two files of one size, the first by name


def test_a_group_has_only_what_the_first_picture_shows(tmp_path: Path) -> None:
    """A cut of a cut is no near-duplicate of the whole, though of the cut."""
    whole = scene(4)
    pictures = [whole, whole.crop((36, 0, 360, 240)), whole.crop((72, 0, 360, 240))]
    names = [tmp_path / f"{i}.png" for i in range(3)]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(name)
    features = similar(3, 0.9)
    assert groups(index_of(tmp_path, names, features).duplicates_with_report()) == [["0.png", "1.png"]]
    report = index_of(tmp_path, names, features, sizes=[2, 3, 1]).duplicates_with_report()
    assert groups(report) == [["1.png", "0.png", "2.png"]]
    report = index_of(tmp_path, names, features, sizes=[2, 1, 3]).duplicates_with_report()
    assert groups(report) == [["2.png", "1.png"]]


def test_copies_that_only_another_copy_leads_to_are_found(tmp_path: Path) -> None:
    names = [tmp_path / f"{quality}.jpg" for quality in (90, 70, 50)]
    for name in names:
        scene(5).save(name, quality=int(name.stem))
    one, other = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2)))[0].T
    angles = np.radians([0, 30, 60])[:, None]
    index = index_of(tmp_path, names, np.cos(angles) * one + np.sin(angles) * other)
    [group] = index.duplicates()
    assert len(group.names) == 3
    assert min(group.scores) < 0.6


def test_features_decide_where_a_picture_cannot_be_read(tmp_path: Path, photos: list[Path]) -> None:
    for cosine, expected in ((0.95, []), (0.995, ["a.png", "b.png", "c.png"])):
        index = index_of(tmp_path, ["gone/a.png", "s3://bucket/b.png", "gone.tar/c.png"], similar(3, cosine))
        report = index.duplicates_with_report()
        assert groups(report) == ([expected] if expected else [])
        assert (report.pairs, report.read, report.unread) == (3, 0, 3)
    assert index.duplicates(0.999) == []
    assert len(index_of(tmp_path, ["x/a.png", "x/b.png"], similar(2, 0.95)).duplicates(0.9, verify=False)) == 1


def test_one_picture_that_cannot_be_read_is_compared_by_its_features(tmp_path: Path, photos: list[Path]) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(photos[0].read_bytes()[:2000])
    index = index_of(tmp_path, [photos[0], photos[1], damaged], similar(3, 0.995))
    report = index.duplicates_with_report()
    assert groups(report) == [["a.png", "damaged.png"]]  # b.png is seen to be another picture
    assert (report.read, report.unread) == (2, 1)
    assert index_of(tmp_path, [photos[0], damaged], similar(2, 0.95)).duplicates() == []


def test_only_what_similar_features_propose_is_read_and_only_once(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(item: Item | None, at_least: int) -> np.ndarray | None:
        assert item is not None
        assert at_least == looks.SIDE
        read.append(Path(item.name).name)
        return decode(item, at_least)

    monkeypatch.setattr(looks, "decode", counting)
    features = similar(len(photos), 0.9)
    features[1:3] = np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, 2)))[0].T  # b and c: similar to nothing
    index = index_of(tmp_path, photos, features)
    done: list[tuple[str, int, int]] = []
    report = index.duplicates_with_report(progress=lambda *now: done.append(now))
    assert sorted(read) == ["a-50.jpg", "a-cut.png", "a-gray.png", "a-small.png", "a.png", "b-pale.png"]
    assert groups(report) == COPIES[:1]
    assert done[-1] == ("pictures", 6, 6)
    read.clear()
    index.duplicates(verify=False)
    assert read == []


def test_many_thumbnails_are_kept_in_a_file(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "_MOST_IN_MEMORY", 0)
    monkeypatch.setattr(looks, "_AT_ONCE", 2)
    assert groups(index_of(tmp_path, photos, similar(len(photos), 0.9)).duplicates_with_report()) == COPIES


@pytest.mark.parametrize("colours", [("white", "white"), ("white", "black"), ((0, 0, 254), (110, 0, 0))])
def test_plain_pictures_are_compared_level_by_level(tmp_path: Path, colours: tuple[str, str]) -> None:
    names = [tmp_path / "0.png", tmp_path / "1.png"]
    for name, colour in zip(names, colours, strict=True):
        Image.new("RGB", (50, 40), colour).save(name)
    alike = colours[0] == colours[1]
    assert len(index_of(tmp_path, names, similar(2, 0.995)).duplicates()) == alike
    assert index_of(tmp_path, names, similar(2, 0.95)).duplicates() == []  # what is small is not seen


def test_pictures_whose_names_are_no_utf_8_are_found(tmp_path: Path) -> None:
    stored = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (9, 9), "teal").save(tmp_path / stored)
    except OSError:
        pytest.skip("the file system takes no such names")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / stored, arcname=stored)
    found = [Pictures().find(name, str(tmp_path)) for name in (as_utf8(stored), f"shard.tar/{as_utf8(stored)}")]
    assert [decode(item, 9).shape for item in found] == [(9, 9, 3)] * 2
