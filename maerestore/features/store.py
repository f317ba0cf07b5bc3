"""A table of features that is written batch by batch, and stays valid if the process is killed at any moment.

    features.parquet                 the table, which is replaced atomically at the end
    features.parquet.parts/          during a run:
        part-00000007.safetensors        a finished batch, written under another name and renamed
        anew                             marks that the existing table is ignored, if there are batches: --overwrite
        merged.parquet                   the new table, complete
        lock                             held by the running process

The next process reads what a killed one left: complete parts are used, and everything else is removed. Only a batch
that was not finished is lost.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maerestore.features.items import Item
from maerestore.features.lock import FolderLock
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import companions, is_sidecar, read_stored, suffix_of, write_table
from maerestore.image.errors import InputError, quoted
from maerestore.image.output import check_target

__all__ = ["FeatureStore", "of_other_images"]

_TO_OVERWRITE = "add --overwrite to write a new table"
_PART = re.compile(r"part-(\d+)\.safetensors")


class _Row(NamedTuple):
    """Where a feature is stored, and the file that it was computed from."""

    file: Path
    row: int
    size: int
    mtime: int
    error: str | None


class FeatureStore:
    """The table of a run, and the batches that are finished.

    Convention:
        It is a context manager, which only one process can enter. Call `use` first, then `add` for each batch, then
        `finish` or `discard`. Without either, the batches stay for the next run.

    Args:
        out: path of the table, ending in one of `maerestore.features.table_files.SUFFIXES`.
        overwrite: ignore the existing table and the batches of an earlier run.

    Attributes:
        out: path of the table, with links resolved.

    Raises:
        InputError: another process works on the table, the file is not a table of features, or it cannot be written.

    Example:
        >>> import tempfile
        >>> item = Item("a.jpg", Path("a.jpg"), None, 9, 1)
        >>> out = Path(tempfile.mkdtemp(), "features.safetensors")
        >>> facts = {"fingerprint": "f" * 64, "dim": 2, "dtype": "float32"}
        >>> feature = np.float32([[0.6, 0.8]])
        >>> batch = FeatureTable(["a.jpg"], feature, [None], [None], facts, np.int64([9]), np.int64([1]))
        >>> with FeatureStore(out) as store:
        ...     store.use(facts)
        ...     before = store.has(item)
        ...     store.add(batch)
        ...     store.finish([item])
        >>> before, out.exists(), store.folder.exists()
        (False, True, False)
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        suffix_of(Path(out))
        check_target(Path(out), overwrite=True)
        self.out = Path(os.path.realpath(out))
        self.folder = self.out.with_name(self.out.name + ".parts")
        self.overwrite = overwrite
        self.facts: dict[str, Any] = {}
        self._rows: dict[str, _Row] = {}
        self._old: FeatureTable | None = None  # without its features
        self._next = 0
        self._added: list[Path] = []  # what this process has put into the working folder
        self._lock: FolderLock | None = None

    def __enter__(self) -> FeatureStore:
        self._lock = FolderLock(self.folder)
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._lock is not None
        self._lock.release()

    def use(self, facts: dict[str, Any]) -> None:
        """Set the facts of the features to be added.

        Args:
            facts: "fingerprint", "dim", "dtype" ("float32" or "float16"), and others to store in the table.

        Raises:
            InputError: the existing table or batches have another fingerprint or dtype.
        """
        if self.overwrite:
            for part in self._parts():
                part.unlink()
            marker = self.folder / "anew"
            if self.out.exists() and not marker.exists():
                marker.touch()
                self._added.append(marker)
        if self._old is not None:
            _check_alike(self.out, self._old.facts, facts)
            self._note(self.out, self._old)
        for part in self._parts():
            try:
                table = read_stored(part)
            except InputError:  # cut off by a power failure: done again
                part.unlink()
                continue
            _check_alike(self.out, table.facts, facts)
            self._note(part, table)
        self.facts = facts

    def has(self, item: Item) -> bool:
        """Whether there is a row with the name, size and modification time of an item."""
        row = self._rows.get(item.name)
        return row is not None and row.size >= 0 and (row.size, row.mtime) == (item.size, item.mtime_ns)

    def names(self) -> set[str]:
        """The names of all rows."""
        return set(self._rows)

    def check_overlap(self, names: set[str]) -> None:
        """Raise InputError where `finish` with images of these names would leave none of the rows."""
        before = self.names()
        if before and before.isdisjoint(names):  # hours of computing, gone by a slip of the hand
            raise of_other_images(self.out, min(before), _TO_OVERWRITE)

    def error(self, item: Item) -> str | None:
        """The error in the row of an item; None where there is no error, or no row."""
        row = self._rows.get(item.name)
        return None if row is None else row.error

    def add(self, batch: FeatureTable) -> None:
        """Store a finished batch, so that it survives the process.

        Args:
            batch: rows with features in the dtype given to `use`; rows of size -1 are computed again in the next run.

        Raises:
            InputError: it cannot be written.
        """
        part = self.folder / f"part-{self._next:08d}.safetensors"
        write_table(replace(batch, facts=self.facts), part, overwrite=False, durable=False)
        self._next += 1
        self._added.append(part)
        self._note(part, batch)

    def discard(self) -> None:
        """Remove the batches of this process; the table, and batches of an earlier process, stay as they were.

        Batches that `overwrite` has removed are not restored.
        """
        for path in self._added:
            path.unlink(missing_ok=True)

    def finish(self, items: Sequence[Item]) -> None:
        """Merge all batches into the table, in the order of the items, and remove the working folder.

        A table that would not change is not written.

        Args:
            items: the images of the table; each must have a row. Rows of other names are left out.

        Raises:
            InputError: it cannot be written; the batches are kept then.
        """
        old, parts = self._old, self._parts()
        names, labels = [item.name for item in items], [item.label for item in items]
        if parts or old is None or (old.names, old.labels) != (names, labels):
            staged = self.folder / f"merged{self.out.suffix.lower()}"
            write_table(self._gather(items), staged)
            if self.out.exists():
                with suppress(OSError):
                    os.chmod(staged, stat.S_IMODE(self.out.stat().st_mode))
            self._commit(staged)
        # The marker goes first: with it, the next run would not count the table that has just been written.
        for path in [self.folder / "anew", *parts]:
            path.unlink(missing_ok=True)

    def _note(self, file: Path, table: FeatureTable) -> None:
        columns = zip(table.names, table.sizes.tolist(), table.mtimes.tolist(), table.errors, strict=True)
        for row, (name, size, mtime, error) in enumerate(columns):
            self._rows[name] = _Row(file, row, size, mtime, error)

    def _parts(self) -> list[Path]:
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _PART.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def _gather(self, items: Sequence[Item]) -> FeatureTable:
        rows = [self._rows[item.name] for item in items]
        features = np.empty((len(items), self.facts["dim"]), dtype=self.facts["dtype"])
        places: dict[Path, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.file, []).append(place)
        for file, at in places.items():
            features[at] = read_stored(file).features[[rows[place].row for place in at]]
        return FeatureTable(
            [item.name for item in items],
            features,
            [row.error for row in rows],
            [item.label for item in items],
            self.facts,
            np.array([row.size for row in rows], dtype=np.int64),
            np.array([row.mtime for row in rows], dtype=np.int64),
        )

    def _commit(self, staged: Path) -> None:
        for source, target in zip(companions(staged), companions(self.out), strict=True):
            if source.exists():
                os.replace(source, target)
        with suppress(OSError):  # not every system lets a folder be synced
            descriptor = os.open(self.out.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _recover(self) -> None:
        """Clean up what a killed process left, and read the existing table."""
        staged = self.folder / f"merged{self.out.suffix.lower()}"
        whole = companions(staged)
        if not whole[0].exists() and whole[-1].exists():  # the array is in place, its sidecar is not yet
            self._commit(staged)
        # The sidecar goes first: alone, it would be taken for one that has to be put into place.
        for path in [*reversed(whole), *self.folder.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        if not self._parts():  # it overwrote, but got no batch: the table still counts
            (self.folder / "anew").unlink(missing_ok=True)
        numbers = [int(_PART.fullmatch(part.name)[1]) for part in self._parts()]  # type: ignore[index]
        self._next = max(numbers, default=-1) + 1
        sidecar = companions(self.out)[-1]
        if not self.overwrite and not self.out.exists() and sidecar.exists() and not is_sidecar(sidecar):
            raise InputError(
                f"{quoted(sidecar)} would be replaced, and is of no table of features: move it, choose another output, "
                f"or {_TO_OVERWRITE}",
                "overwrite=True",
            )
        if self.out.exists() and not self.overwrite and not (self.folder / "anew").exists():
            try:
                table = read_stored(self.out)
            except InputError as error:
                raise InputError(f"{str(error).rstrip('.')}; {_TO_OVERWRITE}", "overwrite=True") from None
            self._old = replace(table, features=np.empty((len(table), 0), np.float32))


def _check_alike(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise InputError where features with other facts would be mixed in one table."""
    if all(old.get(name) == new.get(name) for name in ("fingerprint", "dtype", "dim")):
        return
    flat = [{**{k: v for k, v in facts.items() if k != "options"}, **facts.get("options", {})} for facts in (old, new)]
    # The precision changes no fingerprint, and the fingerprint itself tells a user nothing.
    names = [name for name in flat[1] if name not in ("fingerprint", "dim", "version", "precision")]
    differs = next((name for name in names if flat[0].get(name) != flat[1][name]), None)
    what = (
        "of other weights or another whitening"
        if differs is None
        else f"with {differs} {flat[0].get(differs)}, not {flat[1][differs]}"
    )
    raise InputError(
        f"{quoted(out)} holds features {what}: choose another output, or {_TO_OVERWRITE}", "overwrite=True"
    )


def of_other_images(out: str | Path, image: str, or_else: str) -> InputError:
    """What to raise where a run would leave none of the features that an output holds, one of them of `image`."""
    return InputError(
        f"{quoted(out)} holds features of other images ({quoted(image)}): choose another output, name their source as "
        f"well, or {or_else}",
        "overwrite=True",
    )
