"""The store behind a table: whole whenever the process is killed, and held by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maerestore.features.items import Item
from maerestore.features.store import FeatureStore
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import SUFFIXES, read_table, write_table
from maerestore.image import InputError

FACTS = {"model": "m", "fingerprint": "f" * 64, "options": {"pooling": "mean"}, "dim": 3, "dtype": "float32"}
ROOT = Path(__file__).parents[2]


def make_items(*numbers: int, mtime: int = 7, label: str | None = None) -> list[Item]:
    return [Item(f"{n}.jpg", Path(f"{n}.jpg"), None, 100 + n, mtime, label=label) for n in numbers]


def batch_of(items: list[Item], value: float = 0.0, dtype: Any = np.float32) -> FeatureTable:
    """Features say which image and which call they are of."""
    features = np.array([[int(item.name[:-4]), value, 0] for item in items], dtype)
    return FeatureTable(
        [item.name for item in items], features, [None] * len(items), [None] * len(items), {},
        np.array([item.size for item in items]), np.array([item.mtime_ns for item in items]),
    )  # fmt: skip


def fill(
    out: Path, items: list[Item], value: float = 0.0, size: int = 2, finish: bool = True, **more: Any
) -> list[str]:
    """Bring a table up to date in batches; the names that had to be done."""
    with FeatureStore(out, **more) as store:
        store.use(FACTS)
        todo = [item for item in items if not store.has(item)]
        for start in range(0, len(todo), size):
            store.add(batch_of(todo[start : start + size], value))
        if finish:
            store.finish(items)
    return [item.name for item in todo]


def rows(out: Path) -> dict[str, list[float]]:
    table = read_table(out)
    return dict(zip(table.names, table.features.tolist(), strict=True))


@pytest.fixture(params=SUFFIXES)
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"features{request.param}"


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_batches_become_a_table_in_the_order_of_the_items(out: Path) -> None:
    items = make_items(3, 1, 2)
    with FeatureStore(out) as store:
        store.use(FACTS)
        store.add(batch_of([items[2]]))
        store.add(batch_of([items[1], items[0]]))
        store.finish(items)
    assert rows(out) == {"3.jpg": [3, 0, 0], "1.jpg": [1, 0, 0], "2.jpg": [2, 0, 0]}
    assert read_table(out).facts == FACTS
    assert contents(out.parent) <= {out.name, out.name + ".json"}


def test_only_what_is_new_or_changed_is_done(out: Path) -> None:
    fill(out, make_items(1, 2, 3))
    assert fill(out, make_items(1, 2, 3)) == []
    items = [*make_items(1), *make_items(2, mtime=8), *make_items(4)]
    assert fill(out, items, value=1) == ["2.jpg", "4.jpg"]
    assert rows(out) == {"1.jpg": [1, 0, 0], "2.jpg": [2, 1, 0], "4.jpg": [4, 1, 0]}


def test_a_table_that_does_not_change_is_not_written(out: Path) -> None:
    fill(out, make_items(1, 2))
    before = out.stat()
    fill(out, make_items(1, 2))
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    fill(out, make_items(1, 2, label="cat"))
    assert read_table(out).labels == ["cat", "cat"]
    fill(out, make_items(2, 1))
    assert read_table(out).names == ["2.jpg", "1.jpg"]


def test_batches_of_a_run_that_stopped_count(out: Path) -> None:
    fill(out, make_items(1, 2, 3), finish=False)
    assert not out.exists()
    assert fill(out, make_items(1, 2, 3, 4), value=1) == ["4.jpg"]
    assert list(rows(out).values()) == [[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 1, 0]]


def test_the_later_batch_counts(out: Path) -> None:
    fill(out, make_items(1))
    fill(out, make_items(1, mtime=8), value=1, finish=False)
    fill(out, make_items(1, mtime=9), value=2, finish=False)
    fill(out, make_items(1, mtime=9), value=3)
    assert rows(out) == {"1.jpg": [1, 2, 0]}


def test_damaged_parts_are_done_again_and_temporary_files_removed(out: Path) -> None:
    fill(out, make_items(1, 2, 3, 4), finish=False)
    folder = out.with_name(out.name + ".parts")
    part = folder / "part-00000001.safetensors"
    part.write_bytes(part.read_bytes()[:-5])
    (folder / ".part-00000002.0123456789ab.tmp").write_bytes(b"half")
    assert fill(out, make_items(1, 2, 3, 4), value=1) == ["3.jpg", "4.jpg"]
    assert not folder.exists()


def test_rows_that_could_not_be_read_are_done_again(out: Path) -> None:
    [item] = make_items(1)
    lost = batch_of([item])
    with FeatureStore(out) as store:
        store.use(FACTS)
        lost.sizes[0] = -1
        lost.errors[0] = "gone"
        store.add(lost)
        store.finish([item])
    assert read_table(out).errors == ["gone"]
    assert fill(out, [item]) == ["1.jpg"]
    assert read_table(out).errors == [None]


OTHERS: dict[str, dict[str, Any]] = {
    "with pooling mean, not cls": {"fingerprint": "e" * 64, "options": {"pooling": "cls"}},
    "with model m, not n": {"fingerprint": "e" * 64, "model": "n"},
    "of other weights": {"fingerprint": "e" * 64},
    "with dtype float32, not float16": {"dtype": "float16"},
}


@pytest.mark.parametrize("message", OTHERS)
@pytest.mark.parametrize("finish", [True, False])
def test_other_features_are_refused_and_nothing_changes(tmp_path: Path, message: str, finish: bool) -> None:
    """Whether the table holds them, or batches that wait."""
    out = tmp_path / "t.safetensors"
    fill(out, make_items(1), finish=finish)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message), FeatureStore(out) as store:
        store.use(FACTS | OTHERS[message])
    assert contents(tmp_path) == before
    assert fill(out, make_items(1)) == []


def test_overwriting_starts_anew_and_can_be_resumed(out: Path) -> None:
    fill(out, make_items(1, 2, 3))
    fill(out, make_items(1, 2, 3, 4), value=1, finish=False)
    assert fill(out, make_items(1, 2, 3), value=2, finish=False, overwrite=True) == ["1.jpg", "2.jpg", "3.jpg"]
    assert rows(out)["1.jpg"] == [1, 0, 0]  # until the end
    assert fill(out, make_items(1, 2, 3, 4), value=3) == ["4.jpg"]
    assert list(rows(out).values()) == [[1, 2, 0], [2, 2, 0], [3, 2, 0], [4, 3, 0]]
    assert contents(out.parent) <= {out.name, out.name + ".json"}


def test_overwriting_that_comes_to_nothing_leaves_everything(out: Path) -> None:
    fill(out, make_items(1))
    with pytest.raises(RuntimeError), FeatureStore(out, overwrite=True):
        raise RuntimeError("no such model")
    assert contents(out.parent) <= {out.name, out.name + ".json"}
    assert fill(out, make_items(1)) == []


def test_overwriting_that_ends_before_its_first_batch_leaves_the_table(out: Path) -> None:
    items = make_items(0, 1)
    fill(out, items)
    with FeatureStore(out, overwrite=True) as store:
        store.use(FACTS)
    with FeatureStore(out) as store:
        store.use(FACTS)
        assert all(store.has(item) for item in items)


def test_a_file_that_is_no_table_is_refused_but_for_overwriting(out: Path) -> None:
    out.write_bytes(b"mine")
    with (
        pytest.raises(InputError, match=r"add --overwrite to write a new table .in Python: overwrite=True"),
        FeatureStore(out),
    ):
        pass
    assert contents(out.parent) == {out.name}
    assert fill(out, make_items(1), overwrite=True) == ["1.jpg"]
    assert list(rows(out)) == ["1.jpg"]


def test_a_foreign_file_in_place_of_a_sidecar_is_refused_but_for_overwriting(tmp_path: Path) -> None:
    out, sidecar = tmp_path / "t.npy", tmp_path / "t.npy.json"
    for content in ("mine", "{}", "[1]"):
        sidecar.write_text(content)
        with pytest.raises(InputError, match=r"'.*/t\.npy\.json' would be replaced.*overwrite=True"), FeatureStore(out):
            pass
        assert (contents(tmp_path), sidecar.read_text()) == ({"t.npy.json"}, content)
    assert fill(out, make_items(1), overwrite=True) == ["1.jpg"]
    out.unlink()  # a sidecar of ours without its array is of no use
    assert fill(out, make_items(1)) == ["1.jpg"]


def test_one_process_at_a_time(out: Path) -> None:
    with FeatureStore(out) as store:
        store.use(FACTS)
        code = "import pathlib\nfrom maerestore.features.store import FeatureStore as Store\n"
        code += f"Store(pathlib.Path({str(out)!r})).__enter__()"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert "another process works in" in done.stderr.splitlines()[-1]
        with pytest.raises(InputError, match="another process works in"):
            fill(out, make_items(1))
        store.add(batch_of(make_items(1)))
        store.finish(make_items(1))
    assert fill(out, make_items(1)) == []


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "t.npy"
    link.symlink_to(tmp_path / "real/t.npy")
    fill(link, make_items(1))
    os.chmod(tmp_path / "real/t.npy", 0o640)
    fill(link, make_items(1, 2))
    assert link.is_symlink()
    assert (tmp_path / "real/t.npy").stat().st_mode & 0o777 == 0o640
    assert len(read_table(tmp_path / "real/t.npy")) == 2


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    for name, message in (("t.csv", "is no name of a table"), ("nowhere/t.npy", "does not exist"), (".", "no name")):
        with pytest.raises(InputError, match=message):
            FeatureStore(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("suffix", "overwrite"), [(".npy", False), (".npy", True), (".safetensors", False)])
def test_killed_at_any_step_it_is_whole(tmp_path: Path, suffix: str, overwrite: bool) -> None:
    """Each change of the file system in turn is a process's last; what it leaves is read and resumed."""
    old, items = make_items(1, 2, 3), [*make_items(1), *make_items(2, mtime=8), *make_items(4, 5, 6, 7)]
    out, fatal, ended = tmp_path / f"t{suffix}", 0, False
    while not ended:
        fatal += 1
        fill(out, old)
        ended = not _killed_while_filling(out, items, fatal, overwrite)
        _check_what_is_left(out, items, ended, overwrite)
    assert fatal > 20  # so many changes there are at least


def _killed_while_filling(out: Path, items: list[Item], fatal: int, overwrite: bool) -> bool:
    child = os.fork()
    if child == 0:
        try:
            _die_at(fatal)
            fill(out, items, value=1, overwrite=overwrite)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    return False


def _die_at(fatal: int) -> None:
    """From here on, the process kills itself before its nth change of the file system."""
    steps = 0

    def dying(change: Any) -> Any:
        def changed(*args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **more)

        return changed

    for name in ("open", "replace", "rename", "unlink", "rmdir", "mkdir", "fsync", "chmod"):
        setattr(os, name, dying(getattr(os, name)))


def _check_what_is_left(out: Path, items: list[Item], ended: bool, overwrite: bool) -> None:
    folder = out.with_name(out.name + ".parts")
    parts = list(folder.glob("part-*"))
    was = {f"{n}.jpg": [n, 0, 0] for n in (1, 2, 3)}
    will = {f"{n}.jpg": [n, 1, 0] for n in (2, 4, 5, 6, 7)} | {"1.jpg": [1, int(overwrite), 0]}
    unstarted = overwrite and not (parts and (folder / "anew").exists())
    now: dict[str, list[float]] = {}
    try:
        now = rows(out)
    except InputError:  # the array is the new one, the sidecar still the old: refused, and mended by the next run
        assert out.suffix == ".npy"
    else:
        assert now in (was, will)
    for part in parts:
        read_table(part)
    kept = {name for part in parts for name in read_table(part).names}
    again = fill(out, items, value=1)
    if unstarted and now == was:  # killed before the first batch: the old table counts again
        will["1.jpg"] = [1, 0, 0]
    if now == will or ended:
        assert again == []
    assert rows(out) == will
    assert not folder.exists()
    assert not kept & set(again)
    for path in out.parent.glob(out.name + "*"):
        path.unlink()


def test_the_array_is_not_torn_from_its_sidecar(tmp_path: Path) -> None:
    """Killed between the two: the next run puts the sidecar into place before it reads the table."""
    out = tmp_path / "t.npy"
    fill(out, make_items(1))
    write_table(batch_of(make_items(1, 2)), tmp_path / "new.npy")
    folder = tmp_path / "t.npy.parts"
    folder.mkdir()
    os.replace(tmp_path / "new.npy", out)
    os.replace(tmp_path / "new.npy.json", folder / "merged.npy.json")
    with pytest.raises(InputError):
        read_table(out)
    with FeatureStore(out) as store:
        assert len(read_table(out)) == 2
        assert store.names() == set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_twice_it_is_whole(tmp_path: Path) -> None:
    """A first process was killed right before it put the merged table into place, a second while it tidies up."""
    out, items = tmp_path / "t.npy", make_items(1, 2)
    folder, fatal, ended = tmp_path / "t.npy.parts", 0, False
    while not ended and fatal < 12:
        fatal += 1
        fill(out, make_items(1))
        fill(out, items, value=1, finish=False)
        write_table(batch_of(items, 1), folder / "merged.npy")
        ended = not _killed_while_filling(out, items, fatal, overwrite=False)
        assert fill(out, items, value=1) == []
        assert rows(out) == {"1.jpg": [1, 0, 0], "2.jpg": [2, 1, 0]}
        for path in tmp_path.glob("t.npy*"):
            path.unlink()
