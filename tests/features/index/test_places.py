"""Which images of an index are one file, and which only have one name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.index.image_index import Change, ImageIndex
from maerestore.features.index.places import match_images, working_folder
from maerestore.image import InputError

from .helpers import clustered, toy_table

KINDS = kinds.KINDS
N = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


def current(index: ImageIndex) -> str:
    return (index.folder / "current").read_text()


def first_hits(index: ImageIndex, features: np.ndarray) -> list[str]:
    return [hits[0].name for hits in index.search(features, 1)]


def picture(path: str, size: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(bytes(size))


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a/photos/1.png and b/photos/1.png; the working directory is a."""
    for room in "ab":
        picture(f"{tmp_path}/{room}/photos/1.png", 1)
    monkeypatch.chdir(tmp_path / "a")
    return tmp_path


def test_another_image_of_the_same_name_is_refused(folder: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, name = clustered(3), "photos/1.png"
    index = ImageIndex.build(folder, toy_table(features[:1], [name]))
    monkeypatch.chdir(rooms / "b")
    before = current(index)
    for table in (toy_table(features[1:2], [name]), toy_table(features[1:2], [name], size=2)):
        with pytest.raises(
            InputError, match=r"has another image named 'photos/1\.png', added from the folder"
        ) as caught:
            index.add(table)
        assert str(rooms / "a") in str(caught.value)
        assert str(rooms / "b/photos/1.png") in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has another image named"):
        index.unchanged([name], np.int64([1]), np.int64([1]))
    assert current(index) == before
    full = str(rooms / "b/photos/1.png")
    assert index.add(toy_table(features[1:2], [full])) == Change(added=1)
    assert (index.names, first_hits(index, features[:2])) == ([name, full], [name, full])
    # A path means the file that it leads to, not the image that was added under that name elsewhere.
    assert np.array_equal(index.features(name), index.features(full))
    monkeypatch.chdir(rooms / "a")
    assert not np.array_equal(index.features(name), index.features(full))
    monkeypatch.chdir(rooms)  # where it leads nowhere, it is a name
    assert not np.array_equal(index.features(name), index.features(full))
    monkeypatch.chdir(rooms / "b")
    # The same place from elsewhere is the same image.
    assert index.add(toy_table(features[1:2], [name])) == Change(unchanged=1)
    assert index.add(toy_table(features[:1], ["../a/photos/1.png"])) == Change(unchanged=1)
    # What is not there any more was moved.
    Path("../a/photos/1.png").unlink()
    assert index.remove([full]) == 1
    assert index.add(toy_table(features[:1], [name])) == Change(unchanged=1)
    assert index.add(toy_table(features[2:], [name], size=3)) == Change(replaced=1)
    [[hit]] = index.search(features[2:], 1)
    assert (hit.name, hit.folder, hit.score) == (name, str(rooms / "b"), pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_is_one_image_however_it_is_named(folder: Path, rooms: Path, kind: str) -> None:
    features = clustered(N)
    names = ["photos/1.png", *[f"{i}.png" for i in range(N - 2)], str(rooms / "a/photos/1.png")]
    index = ImageIndex.build(folder, toy_table(features, names), kind=kind)
    assert index.names == names[:-1]
    for spelled in ("../a/photos/1.png", "photos/../photos/1.png", names[-1]):
        assert index.add(toy_table(features[:1], [spelled])) == Change(unchanged=1)
    assert index.add(toy_table(features[-1:], names[-1:], size=2)) == Change(replaced=1)
    assert index.names == [*names[1:-1], names[0]]
    assert first_hits(index, features[-1:]) == names[:1]
    uris = ["s3://bucket/photos/1.png", "s3://bucket//photos/1.png"]  # two objects
    assert index.add(toy_table(clustered(2, seed=3), uris)) == Change(added=2)


def test_members_of_tars_are_matched_by_their_paths(rooms: Path) -> None:
    import tarfile

    with tarfile.open("s.tar", "w") as tar:
        tar.add("photos/1.png", "x/1.png")
    numbers = np.ones(3, np.int64)
    entries = Entries.of(["s.tar/x/1.png", "s.tar/x/2.png", "b/1.png"], numbers, numbers, str(rooms / "a"))
    names = ["../a/s.tar/x/1.png", "s.tar/x/1.png", "s.tar/x/2.png", "1.png"]
    rows, clashing, moved = match_images(entries, names, str(rooms / "b"))
    assert (rows.tolist(), clashing, moved) == ([0, -1, 1, -1], [1], [2])  # the second member does not exist any more


def test_members_of_a_tar_that_is_a_link_clash_as_those_of_any_other(rooms: Path) -> None:
    import tarfile

    with tarfile.open("data", "w") as tar:
        tar.add("photos/1.png", "x/1.png")
    Path("s.tar").symlink_to("data")
    Path("link").symlink_to(".")
    entries = Entries.of(["s.tar/x/1.png"], np.ones(1, np.int64), np.ones(1, np.int64), str(rooms / "a"))
    rows, clashing, moved = match_images(entries, ["s.tar/x/1.png", "../a/link/s.tar/x/1.png"], str(rooms / "b"))
    assert (rows.tolist(), clashing, moved) == ([-1, 0], [0], [])
    rows, clashing, moved = match_images(entries, ["s.tar/x/1.png"], str(rooms / "b"))
    assert (rows.tolist(), clashing, moved) == ([-1], [0], [])  # told without the other name, too


def test_a_file_that_is_reached_through_a_link_is_one_image(folder: Path, rooms: Path) -> None:
    features, names = clustered(2), ["photos/1.png", "link/1.png"]
    Path("link").symlink_to("photos")
    index = ImageIndex.build(folder, toy_table(features, names))
    assert index.names == names[:1]
    assert index.add(toy_table(features[:1], names[1:])) == Change(unchanged=1)
    assert index.add(toy_table(features[1:], names[1:], size=2)) == Change(replaced=1)
    assert index.names == names[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_follows_images_that_were_moved(
    folder: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    features, names = clustered(N), [f"photos/{i}.png" for i in range(N)]
    index = ImageIndex.build(folder, toy_table(features, names), kind=kind)
    (rooms / "a").rename(rooms / "c")
    monkeypatch.chdir(rooms / "c")
    assert index.add(toy_table(features[:3], names[:3])) == Change(unchanged=3)
    before = current(index)
    assert index.add(toy_table(features[:3], names[:3])) == Change(unchanged=3)
    assert current(index) == before  # told once
    for opened in (index, ImageIndex.open(folder)):
        hits = [hit for [hit] in opened.search(features[1:5], 1)]
        assert [hit.name for hit in hits] == names[1:5]
        assert [Path(hit.folder).name for hit in hits] == ["c", "c", "a", "a"]


def test_a_working_directory_that_was_deleted_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(InputError, match="the working directory does not exist any more"):
        working_folder()
