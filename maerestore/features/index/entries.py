"""The metadata of the images of an index: names, sizes, modification times, and which rows are alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.image import InputError

_COLUMNS = ("name", "size", "mtime_ns", "folder", "alive")


def load_pyarrow() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise InputError("an index needs pyarrow: pip install 'maerestore[index]'") from None
    return pyarrow


@dataclass(frozen=True)
class Entries:
    """The rows of an index. Immutable: methods that change something return new entries.

    Attributes:
        table: a table of pyarrow with the columns name (string), size and mtime_ns (int64), folder (string: the working
            directory to which the name is relative), alive (bool: False for rows that were removed).
    """

    table: Any

    @classmethod
    def of(cls, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray, folder: str | Sequence[str]) -> Entries:
        """Make entries, all alive.

        Args:
            names: of N images.
            sizes, mtimes: (N,) int64, in bytes and nanoseconds.
            folder: to which the names are relative: one for all, or N.
        """
        pa = load_pyarrow()
        folders = [folder] * len(names) if isinstance(folder, str) else folder
        columns = [
            pa.array(names, pa.string()),
            pa.array(sizes, pa.int64()),
            pa.array(mtimes, pa.int64()),
            pa.array(folders, pa.string()),
            pa.repeat(pa.scalar(True), len(names)),
        ]
        return cls(pa.table(dict(zip(_COLUMNS, columns, strict=True))))

    @classmethod
    def read(cls, path: Path) -> Entries:
        """Read a file that `write` wrote.

        Raises:
            InputError: the file is damaged.
        """
        pa = load_pyarrow()
        try:
            # Opened here: pyarrow takes no paths that are no UTF-8, and its `read_table` loads all of its file systems.
            with path.open("rb") as opened, pa.parquet.ParquetFile(opened) as file:
                table = file.read(columns=list(_COLUMNS), use_threads=False)
        except (pa.ArrowException, ValueError, KeyError):
            raise InputError(f"'{path}' is damaged: build the index again.") from None
        return cls(table)

    def write(self, path: Path) -> None:
        """Write a Parquet file."""
        with path.open("wb") as file:  # pyarrow takes no paths that are no UTF-8
            load_pyarrow().parquet.write_table(self.table, file, compression="zstd")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def alive(self) -> np.ndarray:
        """(N,) bool."""
        return self.table["alive"].to_numpy()

    def column(self, name: str) -> np.ndarray:
        """(N,) int64: size or mtime_ns."""
        return self.table[name].to_numpy()

    def names(self, rows: np.ndarray | None = None) -> list[str]:
        """The names of rows; by default of all rows that are alive."""
        rows = np.flatnonzero(self.alive) if rows is None else rows
        return self.take(rows).table["name"].to_pylist()

    def folders(self, rows: np.ndarray) -> list[str]:
        """The folders to which the names of rows are relative."""
        return self.take(rows).table["folder"].to_pylist()

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """(len(names),) int64: the row of each name that is alive; -1 where there is none."""
        pa = load_pyarrow()
        living = np.flatnonzero(self.alive)
        known = self.take(living).table["name"].combine_chunks()
        places = pa.compute.index_in(pa.array(names, pa.string()), value_set=known)
        places = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(places < 0, -1, living[places]) if len(living) else np.full(len(names), -1, np.int64)

    def take(self, rows: np.ndarray) -> Entries:
        """Select rows, in the order given."""
        return Entries(self.table.take(load_pyarrow().array(rows, "int64")))

    def without(self, rows: np.ndarray) -> Entries:
        """Mark rows as removed."""
        alive = self.alive.copy()
        alive[rows] = False
        return self._with_alive(alive)

    def in_folder(self, rows: np.ndarray, folder: str) -> Entries:
        """Make the names of rows relative to another folder."""
        pa = load_pyarrow()
        chosen = np.zeros(len(self), bool)
        chosen[rows] = True
        folders = pa.compute.if_else(pa.array(chosen), pa.scalar(folder), self.table["folder"])
        return Entries(self.table.set_column(self.table.column_names.index("folder"), "folder", folders))

    def and_then(self, more: Entries) -> Entries:
        """Append other entries."""
        return Entries(load_pyarrow().concat_tables([self.table, more.table]).combine_chunks())

    def living(self) -> Entries:
        """Select the rows that are alive."""
        return Entries(self.table.filter(self.table["alive"]).combine_chunks())

    def _with_alive(self, alive: np.ndarray) -> Entries:
        place = self.table.column_names.index("alive")
        return Entries(self.table.set_column(place, "alive", load_pyarrow().array(alive)))
