from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maerestore.features.index.store import Generations
from maerestore.image import InputError

FILES = {"text"}


def write(store: Generations, text: str) -> None:
    with store.writing():
        store.publish(lambda folder: (folder / "text").write_text(text))


def read(store: Generations) -> str:
    return store.read(lambda folder: (folder / "text").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Generations:
    return Generations(tmp_path / "a/index", FILES)


def test_the_newest_generation_counts_and_stands_alone(store: Generations) -> None:
    for text in ("one", "two", "three"):
        write(store, text)
        assert read(Generations(store.folder, FILES)) == text
    assert sorted(path.name for path in store.folder.iterdir()) == ["00000002", "current", "lock"]


def test_a_write_that_fails_changes_nothing(store: Generations) -> None:
    write(store, "old")

    def fill_the_disk(folder: Path) -> None:
        (folder / "text").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(InputError, match=r"cannot be written \(No space left on device\): it is as it was"),
        store.writing(),
    ):
        store.publish(fill_the_disk)
    with pytest.raises(ZeroDivisionError), store.writing():
        store.publish(lambda folder: 1 // 0)
    assert read(store) == "old"
    assert sorted(path.name for path in store.folder.iterdir()) == ["00000000", "current", "lock"]


def test_an_interrupt_after_the_change_keeps_it(store: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, "old")
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(KeyboardInterrupt):
        write(store, "new")
    assert read(store) == "new"


def test_a_reader_meets_a_faster_writer(store: Generations) -> None:
    write(store, "old")
    seen = []

    def slow(folder: Path) -> str:
        seen.append(folder.name)
        if len(seen) == 1:
            write(store, "new")
        return (folder / "text").read_text()

    assert store.read(slow) == "new"
    assert seen == ["00000000", "00000001"]


def test_one_writes_at_a_time(store: Generations) -> None:
    other = Generations(store.folder, FILES)
    with store.writing(), pytest.raises(InputError, match="another process works on index"), other.writing(timeout=0.1):
        pass
    with other.writing(timeout=0.1):
        pass
    with store.extracting(), pytest.raises(InputError, match="another process works on index"), other.extracting():
        pass


def test_photographs_in_folders_of_eight_digits_are_no_generations(tmp_path: Path, store: Generations) -> None:
    for day in ("20240101", "20240102"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "photo.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds other files"):
        write(Generations(tmp_path, FILES), "new")
    write(store, "one")
    for name in ("20250505", "00000001"):  # the second is the name that would be next
        (store.folder / name).mkdir()
        (store.folder / name / "photo.png").write_bytes(b"mine")
    write(store, "two")
    write(store, "three")
    assert read(store) == "three"
    assert len(list(tmp_path.rglob("photo.png"))) == 4


def test_what_is_no_index_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds other files"):
        write(Generations(tmp_path, FILES), "new")
    with pytest.raises(InputError, match="is a file"):
        write(Generations(tmp_path / "photo.png", FILES), "new")
    with pytest.raises(InputError, match="is no index: make one"):
        read(Generations(tmp_path, FILES))
    with pytest.raises(InputError, match="is no index"):
        read(Generations(tmp_path / "photo.png/none", FILES))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("content", [b"", b"../../etc", b"\xff", b"00000007"])
def test_a_damaged_pointer_is_told(store: Generations, content: bytes) -> None:
    write(store, "old")
    (store.folder / "current").write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged|cannot be read"):
        read(store)
