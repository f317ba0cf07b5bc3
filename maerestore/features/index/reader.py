"""What can be asked of an index on disk: nearest images, near-duplicates, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.admission import check_alike, unchanged_rows
from maerestore.features.index.duplicates import DuplicateGroup, find_duplicates
from maerestore.features.index.snapshot import Snapshot, load_snapshot
from maerestore.features.index.store import Generations
from maerestore.features.items import as_utf8
from maerestore.image import InputError
from maerestore.image.errors import quoted

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor

__all__ = ["Hit", "IndexReader", "Progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many are."""


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        name: as the index knows it.
        score: cosine similarity, -1 to 1.
        folder: the working directory from which the name leads to the image.
    """

    name: str
    score: float
    folder: str


class IndexReader:
    """The part of a `maerestore.features.index.image_index.ImageIndex` that changes nothing; arguments as there."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._store = Generations(self.folder)
        self._snapshot: Snapshot = self._store.read(load_snapshot)

    def __len__(self) -> int:
        return int(self._snapshot.entries.alive.sum())

    @property
    def names(self) -> list[str]:
        """Of the images."""
        return self._snapshot.entries.names()

    @property
    def kind(self) -> str:
        """One of `kinds.KINDS`."""
        return self._snapshot.kind

    @property
    def facts(self) -> dict[str, Any]:
        """What the index was built with: "model", "fingerprint", "options", "dim", "kind", "wanted"."""
        return dict(self._snapshot.facts)

    def features(self, names: Sequence[str]) -> np.ndarray:
        """Stored features of some images: (N, D) float32 of length 1.

        Raises:
            InputError: a name that is not in the index.
        """
        return kinds.as_float(self._snapshot.vectors[self._rows(self._snapshot, names)])

    def unchanged(self, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray) -> np.ndarray:
        """(N,) bool: which images are in the index with this size in bytes and this time in nanoseconds.

        Args:
            names: of N images, from the working directory.
            sizes, mtimes: (N,) int64.

        Raises:
            InputError: a name that the index has for another file.
        """
        return unchanged_rows(self._snapshot.entries, names, sizes, mtimes, self.folder)[1]

    def search(self, features: np.ndarray, k: int = 10) -> list[list[Hit]]:
        """Nearest images of features.

        Args:
            features: (Q, D), of any length.
            k: how many, at least 1.

        Returns:
            for each feature at most k hits, nearest first.

        Raises:
            InputError: another shape or k.
        """
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self._snapshot.facts["dim"]:
            raise InputError(f"features must be (Q, {self._snapshot.facts['dim']}), got shape {features.shape}")
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, got {k!r}")
        count = min(k, len(self))
        if not count or not len(features):
            return [[] for _ in features]
        queries = kinds.as_float(features)
        scores, rows = self._read(lambda snapshot: snapshot.search(queries, count))
        entries = self._snapshot.entries
        found = rows[rows >= 0]
        names, folders = iter(entries.names(found)), iter(entries.folders(found))
        return [
            [
                Hit(next(names), float(np.clip(score, -1, 1)), next(folders))
                for score, row in zip(line, places, strict=True)
                if row >= 0
            ]
            for line, places in zip(scores, rows, strict=True)
        ]

    def query(self, images: Any, k: int = 10, extractor: FeatureExtractor | None = None) -> list[list[Hit]]:
        """Nearest images of images.

        Args:
            images: one or several, of any kind that `FeatureExtractor` takes.
            k: how many, at least 1.
            extractor: by default made of what the index was built with; give one to load the model only once.

        Returns:
            for each image at most k hits, nearest first. An image that is in the index finds itself, unless k others
            are as near; the kinds "hnsw" and "ivfpq" may miss it where thousands of images are nearly the same.

        Raises:
            InputError: an image that cannot be read, or an extractor whose features are not those of the index.
            ModelError: the model that the index was built with is not there.
        """
        extractor = self.extractor() if extractor is None else extractor
        self.check_alike({"model": extractor.name, "fingerprint": extractor.fingerprint}, extractor.dim)
        return self.search(extractor(images).numpy(), k)

    def duplicates(
        self, threshold: float = 0.93, centred: bool = True, progress: Progress | None = None
    ) -> list[DuplicateGroup]:
        """Groups of images that are nearly the same.

        Args:
            threshold: similarity from which two images are linked, above 0 to 1.
            centred: compare features without what all in the index have in common, their mean; else as a query does.
            progress: of the search.

        Returns:
            groups of linked images, largest first; see `maerestore.features.index.duplicates`.

        Raises:
            InputError: another threshold, or one under which too many pairs are linked.
        """
        return self._read(lambda snapshot: find_duplicates(snapshot, threshold, centred, progress))

    def extractor(self, device: str = "auto", batch_size: int = 32) -> FeatureExtractor:
        """An extractor as the index was built with.

        Raises:
            ModelError: its model is not there.
            InputError: it has other weights now, or is not known.
        """
        from maerestore.features.index.sources import settings_of

        extractor = settings_of(self.facts, self.folder, device, batch_size).load()
        self.check_alike({"model": extractor.name, "fingerprint": extractor.fingerprint}, extractor.dim)
        return extractor

    def check_alike(self, facts: dict[str, Any], dim: int) -> None:
        """Raise InputError unless features of these facts belong into this index.

        Args:
            facts: "model" and "fingerprint".
            dim: width of the features.
        """
        check_alike(self._snapshot.facts, facts, dim, self.folder)

    def _rows(self, snapshot: Snapshot, names: Sequence[str]) -> np.ndarray:
        names = [as_utf8(name) for name in names]
        rows = snapshot.entries.rows_of(names)
        if len(rows) and rows.min() < 0:
            name = names[int(np.argmin(rows))]
            raise InputError(f"no image {quoted(name)} in index {quoted(self.folder)}.")
        return rows

    def _read(self, work: Callable[[Snapshot], Any]) -> Any:
        """Use the snapshot; where a writer has removed the files of one that was not read yet, the newest."""
        try:
            return work(self._snapshot)
        except FileNotFoundError:

            def again(folder: Path) -> Any:
                self._snapshot = load_snapshot(folder)
                return work(self._snapshot)

            return self._store.read(again)
