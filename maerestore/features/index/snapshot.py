"""One generation of an index on disk.

    index.json        format, kind, model, fingerprint and options; sizes of the other files
    images.parquet    names, sizes and times of the images (`entries`)
    vectors.npy       (N, D) float16 of length 1, row by row; read through a memory map
    index.faiss       the faiss index; none for the flat kind, which is made of the vectors at once

The vectors are stored too, so that an index can change its kind without the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.image import InputError
from maerestore.image.errors import quoted

FORMAT = 1
_FACTS, _ENTRIES, _VECTORS, _FAISS = FILES = "index.json", "images.parquet", "vectors.npy", "index.faiss"
STATED = ("model", "fingerprint", "options", "dim", "kind", "wanted")
_CHUNK = 1 << 16  # rows that are copied at once


@dataclass
class Snapshot:
    """An open generation.

    Attributes:
        facts: "model", "fingerprint", "options", "dim", "kind" (one of `kinds.KINDS`), "wanted" (or "auto").
        entries: of the N rows.
        vectors: (N, D) float16.
        folder: of the generation.
    """

    facts: dict[str, Any]
    entries: Entries
    vectors: np.ndarray
    folder: Path
    _faiss: Any = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        return str(self.facts["kind"])

    @property
    def faiss(self) -> Any:
        """The faiss index, read or built on first use.

        Raises:
            InputError: it is damaged.
        """
        if self._faiss is None:
            if self.kind == "flat":
                self._faiss = kinds.build("flat", self.vectors)
            else:
                try:
                    self._faiss = kinds.read(self.folder / _FAISS)
                except RuntimeError as err:
                    if not (self.folder / _FAISS).exists():  # a writer was faster: `Generations.read` tries again
                        raise FileNotFoundError(2, "No such file", str(self.folder / _FAISS)) from None
                    raise _damaged(self.folder) from err
                if (self._faiss.ntotal, self._faiss.d) != self.vectors.shape:
                    raise _damaged(self.folder)
        return self._faiss

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `kinds.search`, among the rows that are alive."""
        alive = self.entries.alive
        return kinds.search(self.faiss, self.kind, self.vectors, queries, k, None if alive.all() else alive)


def load_snapshot(folder: Path) -> Snapshot:
    """Open a generation.

    Raises:
        InputError: it is damaged, or was written by a later version of this package.
        OSError: a file cannot be read, such as when a writer has removed it.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text())
        version, files = facts["format"], facts["files"]
        whole = all((folder / name).stat().st_size == size for name, size in files.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder) from None
    if version != FORMAT:
        raise InputError(f"index {quoted(folder.parent)} has format {version}: this version reads {FORMAT}.")
    if not whole or set(STATED) - set(facts) or facts["kind"] not in kinds.KINDS:
        raise _damaged(folder)
    entries = Entries.read(folder / _ENTRIES)
    try:
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    except ValueError:
        raise _damaged(folder) from None
    if vectors.dtype != np.float16 or vectors.shape != (len(entries), facts["dim"]):
        raise _damaged(folder)
    return Snapshot(facts, entries, vectors, folder)


def write_snapshot(
    folder: Path, facts: dict[str, Any], entries: Entries, chunks: Iterator[np.ndarray], faiss: Any | None = None
) -> None:
    """Write a generation into a folder.

    Args:
        folder: an empty folder.
        facts: as `Snapshot.facts`.
        entries: of all N rows.
        chunks: arrays (n, D) float16, which together are all N rows in their order.
        faiss: the index of the N rows; None to build it from the vectors.
    """
    shape = len(entries), int(facts["dim"])
    with (folder / _VECTORS).open("wb") as file:  # not a writable map, which a full disk would end with a signal
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype="<f2").data)
    if facts["kind"] != "flat":
        if faiss is None:
            faiss = kinds.build(facts["kind"], np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False))
        try:
            kinds.write(faiss, folder / _FAISS)
        except RuntimeError as err:
            raise OSError(str(err).splitlines()[0]) from None
    entries.write(folder / _ENTRIES)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    content = {**facts, "format": FORMAT, "images": int(entries.alive.sum()), "files": files}
    (folder / _FACTS).write_text(json.dumps(content, indent=1) + "\n")


def chunks_of(*parts: np.ndarray, alive: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield the rows of several arrays in chunks of limited size; with `alive`, only those that are alive."""
    first = 0
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            chunk = part[start : start + _CHUNK]
            yield chunk if alive is None else chunk[alive[first : first + len(chunk)]]
            first += len(chunk)


def _damaged(folder: Path) -> InputError:
    return InputError(f"index {quoted(folder.parent)} is damaged: build it again.")
