from __future__ import annotations

import io
import tarfile
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.features.index.entries import Entries
from maerestore.features.index.gone import check_full, folders_of, gone_rows
from maerestore.features.index.image_index import Change, ImageIndex
from maerestore.features.items import find_items
from maerestore.image import InputError

from .helpers import FACTS, clustered, toy_table


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/a.png, photos/.hidden.png, and photos/shard.tar with m.png; the working directory is around them."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    for name in ("a.png", ".hidden.png"):
        Path("photos", name).write_bytes(content.getvalue())
    pack("photos/shard.tar", {"m.png": content.getvalue()})
    return tmp_path


def pack(path: str, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def gone(names: list[str], folder: Path, *sources: str, left: Collection[str] = ()) -> list[str]:
    numbers = np.zeros(len(names), np.int64)
    entries = Entries.of(names, numbers, numbers, str(folder))
    folders = [Path(source) for source in sources]
    return [names[row] for row in gone_rows(entries, folders, find_items(folders), left)]


def test_what_is_there_stays_however_it_is_named(here: Path) -> None:
    there = ["a.png", ".hidden.png", "shard.tar/m.png", "./a.png", "../photos/a.png"]
    lost = ["b.png", "deep/a.png", "shard.tar/n.png", "other.tar/m.png", "a.png/b.png"]
    for folder, start in ((here, "photos/"), (here / "photos", ""), (here, f"{here}/photos/")):
        names = [start + name for name in (*there, *lost)]
        assert gone(names, folder, "photos") == [start + name for name in lost]
        assert gone(names, folder, f"{here}/photos/") == [start + name for name in lost]


def test_what_is_not_below_the_folder_stays(here: Path) -> None:
    names = ["b.png", "photos2/b.png", "more/photos/b.png", "/b.png"]
    assert gone(names, here, "photos") == []
    assert gone(["photos/b.png"], here / "elsewhere", "photos") == []


def test_a_folder_is_the_same_through_a_link(here: Path) -> None:
    (here / "link").symlink_to("photos")
    names = ["photos/a.png", "photos/b.png", "link/shard.tar/m.png", "link/c.png"]
    for source in ("photos", "link", f"{here}/link/"):
        assert gone(names, here, source) == ["photos/b.png", "link/c.png"]


def test_what_was_deleted_before_its_folder_moved_is_gone(here: Path) -> None:
    names, before = ["photos/a.png", "photos/b.png", "more/b.png"], here / "before"
    assert gone(names, before, "photos") == []
    assert gone(names, before, "photos", left={str(before)}) == ["photos/b.png"]
    (before / "photos").mkdir(parents=True)
    (before / "photos/b.png").touch()  # not moved
    assert gone(names, before, "photos", left={str(before)}) == []


def test_a_folder_that_moved_is_followed_and_pruned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = toy_table(clustered(2), ["photos/a.png", "photos/b.png"])
    table.sizes[0], table.mtimes[0] = Path("photos/a.png").stat().st_size, Path("photos/a.png").stat().st_mtime_ns
    Path("photos/shard.tar").unlink()
    monkeypatch.chdir(here / "photos")  # anything but where it is then
    index = ImageIndex.build(here / "index", table)
    monkeypatch.chdir(here)
    assert index.add(["photos"], prune=True) == Change(unchanged=1, removed=1)  # no image is read
    [[hit]] = index.search(table.features[:1], 2)
    assert (hit.name, hit.folder) == ("photos/a.png", str(here))


def test_another_picture_of_one_name_tells_nothing_of_a_disk_that_is_not_mounted(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, features = ["photos/a.png", "photos/b.png", "photos/c.png"], clustered(3)
    Path("photos/shard.tar").unlink()
    Path("disk").mkdir()
    monkeypatch.chdir(here / "disk")
    index = ImageIndex.build(here / "index", toy_table(features, names))
    monkeypatch.chdir(here)
    Path("disk").rmdir()
    monkeypatch.setattr(
        "maerestore.features.index.sources._extracted", lambda *_: toy_table(features[:1], names[:1], size=2)
    )
    extractor: Any = SimpleNamespace(name=FACTS["model"], fingerprint=FACTS["fingerprint"], dim=features.shape[1])
    assert index.add(["photos"], extractor, prune=True) == Change(replaced=1)
    assert sorted(index.names) == names


@pytest.mark.parametrize("target", ["real.tar", "real.data"])
def test_members_of_a_tar_that_is_a_link_are_pruned_as_those_of_any_other(here: Path, target: str) -> None:
    Path("blobs").mkdir()
    Path("photos/shard.tar").rename(f"blobs/{target}")
    Path("photos/p.tar").symlink_to(f"../blobs/{target}")
    Path("link").symlink_to("photos")
    lost = ["photos/p.tar/n.png", "photos/p.tar/deep/n.png", "link/p.tar/n.png"]
    assert gone(["photos/p.tar/m.png", "photos/p.tar/./m.png", "link/p.tar/m.png", *lost], here, "photos") == lost


def test_members_of_tars_that_hold_no_image_any_more_are_gone_and_of_damaged_ones_are_not(here: Path) -> None:
    pack("photos/shard.tar", {"m.txt": b"none"})
    assert gone(["photos/shard.tar/m.png"], here, "photos") == ["photos/shard.tar/m.png"]
    Path("photos/.damaged.tar").write_bytes(b"no tar" * 300)
    assert gone(["photos/.damaged.tar/m.png"], here, "photos") == []


def test_only_folders_that_hold_an_image_are_pruned() -> None:
    Path("empty").mkdir()
    assert folders_of("photos") == [Path("photos")]
    assert folders_of(["photos/a.png", "photos", "t.npy"]) == [Path("photos")]
    assert folders_of(["none"]) == []  # told by what looks for images in it
    for source in (["photos/a.png"], toy_table(clustered(2))):
        with pytest.raises(InputError, match="no source is a folder of images"):
            folders_of(source)
    items = find_items(["photos", "empty"])
    check_full([Path("photos")], items)
    with pytest.raises(InputError, match="no image in 'empty': nothing is pruned"):
        check_full([Path("photos"), Path("empty")], items)


def test_a_table_has_no_folder_to_prune(tmp_path: Path) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(clustered(5)))
    with pytest.raises(InputError, match="no source is a folder of images"):
        index.add(toy_table(clustered(5)), prune=True)
    assert len(index) == 5
