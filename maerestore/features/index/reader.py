"""Reading an index on disk: its images, nearest neighbours and near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.admission import check_alike, unchanged_rows
from maerestore.features.index.duplicates import DuplicateGroup, DuplicateReport, find_duplicates
from maerestore.features.index.places import match_images, working_folder
from maerestore.features.index.snapshot import FILES, Snapshot, load_snapshot
from maerestore.features.index.store import Generations
from maerestore.features.items import as_utf8
from maerestore.image import InputError
from maerestore.image.errors import quoted

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor

__all__ = ["Hit", "IndexReader", "Progress"]

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): called with what is counted ("images"), how many are done, and how many there are."""


@dataclass(frozen=True)
class Hit:
    """A search result.

    Attributes:
        name: of the image in the index.
        score: cosine similarity, -1 to 1.
        folder: the working directory when the image was added; relative names start from there.
    """

    name: str
    score: float
    folder: str


class IndexReader:
    """The methods of `maerestore.features.index.image_index.ImageIndex` that do not change the index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._store = Generations(self.folder, FILES)
        self._snapshot: Snapshot = self._store.read(load_snapshot)

    def __len__(self) -> int:
        return int(self._snapshot.entries.alive.sum())

    @property
    def names(self) -> list[str]:
        """The names of the images."""
        return self._snapshot.entries.names()

    @property
    def kind(self) -> str:
        """ "flat", "hnsw" or "ivfpq"."""
        return self._snapshot.kind

    @property
    def facts(self) -> dict[str, Any]:
        """How the index was built: "model", "fingerprint", "options", "dim", "kind", "wanted" (the kind asked for)."""
        return dict(self._snapshot.facts)

    def features(self, names: Sequence[str | Path] | str | Path) -> np.ndarray:
        """Get stored features.

        Args:
            names: of N images in the index, as in `names`, or paths of their files; or one of them.

        Returns:
            (N, D) float32, of length 1.

        Raises:
            InputError: a name that is not in the index.
        """
        return kinds.as_float(self._snapshot.vectors[self._rows(self._snapshot, names)])

    def unchanged(self, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray) -> np.ndarray:
        """Tell which images are in the index, and have not changed since.

        Args:
            names: of N images, relative to the working directory.
            sizes, mtimes: (N,) int64, their sizes in bytes and modification times in nanoseconds.

        Returns:
            (N,) bool.

        Raises:
            InputError: a name that another file has in the index.
        """
        return self.unchanged_and_moved(names, sizes, mtimes)[0]

    def unchanged_and_moved(
        self, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray
    ) -> tuple[np.ndarray, list[int]]:
        """As `unchanged`; also returns the positions of the names whose images are elsewhere in the index."""
        matches, same = unchanged_rows(self._snapshot.entries, names, sizes, mtimes, self.folder)
        return same, matches.moved

    def search(self, features: np.ndarray, k: int = 10) -> list[list[Hit]]:
        """Find the images nearest to features.

        Args:
            features: (Q, D) of any float type; they need not have length 1.
            k: number of results for each feature, at least 1.

        Returns:
            for each feature at most k hits, the nearest first.

        Raises:
            InputError: another shape, or k below 1.
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
        """Find the images nearest to images.

        Args:
            images: one image or several, of any kind that `FeatureExtractor` takes.
            k: number of results for each image, at least 1.
            extractor: None to load the model that the index was built with; pass one to load it only once.

        Returns:
            for each image at most k hits, the nearest first. An image of the index finds itself, unless at least k
            others are equally near. The kinds "hnsw" and "ivfpq" are approximate, and may miss it where thousands of
            images are nearly identical.

        Raises:
            InputError: an image that cannot be read, or an extractor with other weights or options than the index.
            ModelError: the model that the index was built with cannot be loaded.
        """
        extractor = self.extractor() if extractor is None else extractor
        self.check_alike({"model": extractor.name, "fingerprint": extractor.fingerprint}, extractor.dim)
        return self.search(extractor(images).numpy(), k)

    def duplicates(
        self,
        threshold: float | None = None,
        centred: bool = True,
        progress: Progress | None = None,
        verify: bool = True,
    ) -> list[DuplicateGroup]:
        """Find groups of images that are nearly the same.

        Args:
            threshold: similarity of features from which two pictures are compared, above 0 and at most 1; None for 0.8.
                Without `verify`, that from which two images are linked; None for 0.93.
            centred: subtract the mean of the index from all features before comparing them; without, similarities are
                those of `query`.
            progress: called during the search.
            verify: compare the pictures, where their files can be read; elsewhere, a similarity of at least 0.99 makes
                a duplicate. False to go by the features alone.

        Returns:
            groups of images, the largest first; see `maerestore.features.index.duplicates`.

        Raises:
            InputError: a threshold out of range, or one that links too many pairs.
        """
        return self.duplicates_with_report(threshold, centred, progress, verify).groups

    def duplicates_with_report(
        self,
        threshold: float | None = None,
        centred: bool = True,
        progress: Progress | None = None,
        verify: bool = True,
    ) -> DuplicateReport:
        """As `duplicates`; also returns how many pairs were looked at, and how many pictures could not be read."""
        return self._read(lambda snapshot: find_duplicates(snapshot, threshold, centred, progress, verify))

    def extractor(self, device: str = "auto", batch_size: int = 32) -> FeatureExtractor:
        """Load the extractor that the index was built with.

        Args:
            device, batch_size: as for `FeatureExtractor`.

        Raises:
            ModelError: its model cannot be loaded.
            InputError: the model has other weights now, or the index does not store which model it was.
        """
        from maerestore.features.index.sources import settings_of

        extractor = settings_of(self.facts, self.folder, device, batch_size).load()
        self.check_alike({"model": extractor.name, "fingerprint": extractor.fingerprint}, extractor.dim)
        return extractor

    def check_alike(self, facts: dict[str, Any], dim: int) -> None:
        """Raise InputError unless features fit the index.

        Args:
            facts: of the features, "model" and "fingerprint".
            dim: their number of values.
        """
        check_alike(self._snapshot.facts, facts, dim, self.folder)

    def _rows(self, snapshot: Snapshot, names: Sequence[str | Path] | str | Path) -> np.ndarray:
        given = [names] if isinstance(names, str | Path) else names
        wanted = [as_utf8(os.fspath(name)) for name in given]
        # A path from the working directory means that file, though another folder's image may have the name.
        rows = match_images(snapshot.entries, wanted, working_folder()).rows
        if (other := np.flatnonzero(rows < 0)).size:
            rows[other] = snapshot.entries.rows_of([wanted[i] for i in other])
        if len(rows) and rows.min() < 0:
            name = wanted[int(np.argmin(rows))]
            raise InputError(f"no image {quoted(name)} in index {quoted(self.folder)}.")
        return rows

    def _read(self, work: Callable[[Snapshot], Any]) -> Any:
        """Call `work` with the snapshot; with the newest one where a writer has removed the files of this one."""
        try:
            return work(self._snapshot)
        except FileNotFoundError:

            def again(folder: Path) -> Any:
                self._snapshot = load_snapshot(folder)
                return work(self._snapshot)

            return self._store.read(again)
