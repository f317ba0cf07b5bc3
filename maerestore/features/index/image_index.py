"""An index of images on disk: nearest images, near-duplicates; images come, change and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.admission import as_known, as_stored, check_alike, unchanged_rows, usable_rows
from maerestore.features.index.changes import publish_again, publish_change
from maerestore.features.index.entries import Entries
from maerestore.features.index.gone import folders_of, gone_rows
from maerestore.features.index.reader import Hit, IndexReader, Progress
from maerestore.features.index.snapshot import Snapshot, chunks_of, load_snapshot, write_snapshot
from maerestore.features.index.store import Generations
from maerestore.features.table import FeatureTable
from maerestore.image import InputError
from maerestore.image.errors import quoted

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor
    from maerestore.features.index.sources import Gathered
    from maerestore.features.loaders import Loader

__all__ = ["Change", "Hit", "ImageIndex", "Progress"]


@dataclass(frozen=True)
class Change:
    """What `ImageIndex.add` did.

    Attributes:
        added, replaced, unchanged, removed: numbers of images.
        errors: (name, reason) of images that cannot be read. The index keeps what it had of them.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    removed: int = 0


class ImageIndex(IndexReader):
    """Features of images on disk, and what is near to what.

    Convention:
        Similarity is the cosine. An index holds features of one model with one set of options, and refuses others; the
        vectors themselves are stored as float16. Every change is made in one step: a process that is killed at any
        moment leaves the old content or the new one. One process writes at a time, others wait for it; readers see what
        there was when they opened the index, or last changed it.

    Args:
        folder: of an index.

    Attributes:
        folder: of the index.

    Raises:
        InputError: no index there, or a damaged one; faiss or pyarrow are not installed.

    Example:
        >>> import tempfile
        >>> names, features = ["a.jpg", "b.jpg", "c.jpg"], np.float32([[1, 0], [0, 1], [1, 0.1]])
        >>> table = FeatureTable(names, features, [None] * 3, [None] * 3, {}, np.int64([1, 2, 3]), np.int64([0, 0, 0]))
        >>> index = ImageIndex.build(Path(tempfile.mkdtemp(), "index"), table)
        >>> [(hit.name, round(hit.score, 3)) for hit in index.search(np.float32([[2, 0]]), k=2)[0]]
        [('a.jpg', 1.0), ('c.jpg', 0.995)]
        >>> [group.names for group in index.duplicates(0.99)]
        [['c.jpg', 'a.jpg']]
        >>> index.remove(["a.jpg"]), len(index)
        (1, 2)
    """

    @classmethod
    def open(cls, folder: str | Path) -> ImageIndex:
        """Open an index; arguments and errors as for the class."""
        return cls(folder)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        source: FeatureTable | Sequence[str | Path],
        extractor: FeatureExtractor | Loader | None = None,
        kind: str = "auto",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> ImageIndex:
        """Make an index.

        Args:
            folder: for the index, made where it is missing.
            source: features, or images, folders, tars and tables of features (.parquet, .npy, .safetensors). Images
                that cannot be read are left out.
            extractor: for images, or an `ExtractorSettings` that loads one when it is needed; by default the bundled
                model's.
            kind: "flat" (exact), "hnsw", "ivfpq", or "auto" by the number of images, now and whenever it changes.
            overwrite: replace an index that is there.
            progress: of the extraction.

        Raises:
            InputError: an index is there, or other files; no image; features of several models, or without a direction;
                faiss is not installed; another kind.
        """
        index, _ = cls.build_with_report(folder, source, extractor, kind, overwrite, progress)
        return index

    @classmethod
    def build_with_report(
        cls,
        folder: str | Path,
        source: FeatureTable | Sequence[str | Path],
        extractor: FeatureExtractor | Loader | None = None,
        kind: str = "auto",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> tuple[ImageIndex, Change]:
        """As `build`; also returns what was done."""
        kinds.choose_kind(0, kind)
        kinds.load_faiss()
        store = Generations(Path(folder))
        cls._check_free(store, overwrite)
        with _features_of(store, source, extractor, None, progress) as got:
            table, errors = usable_rows(got.table)
            vectors, entries = as_stored(table)
            facts = {
                **{name: table.facts.get(name) for name in ("model", "fingerprint", "options")},
                "dim": vectors.shape[1],
                "kind": kinds.choose_kind(len(vectors), kind),
                "wanted": kind,
            }
            with store.writing():
                cls._check_free(store, overwrite)
                store.publish(lambda target: write_snapshot(target, facts, entries, chunks_of(vectors)))
        return cls(folder), Change(added=len(vectors), errors=errors)

    @staticmethod
    def _check_free(store: Generations, overwrite: bool) -> None:
        store.check_target()
        if store.current() is not None and not overwrite:
            raise InputError(
                f"index {quoted(store.folder)} exists: add to it, choose another folder, or add --overwrite."
            )

    def add(
        self,
        source: FeatureTable | Sequence[str | Path],
        extractor: FeatureExtractor | Loader | None = None,
        progress: Progress | None = None,
        prune: bool = False,
    ) -> Change:
        """Add images. One that is there and has the same size and time is left as it is; another is replaced.

        An image is a file, by whatever path it is named: it keeps the name under which it came. Where nothing is at the
        place of that file any more, an image of the same name elsewhere counts as the same, moved.

        Args:
            source, progress: as for `build`.
            extractor: as for `build`; by default made of what the index was built with.
            prune: also remove images below the folders of the source whose files are gone.

        Raises:
            InputError: features of another model or with other options; no image; one whose name the index has for
                another file; the index cannot be written; no folder to prune, or one without images.
            ModelError: the model that the index was built with is not there.
        """
        folders = folders_of(source) if prune else []
        with _features_of(self._store, source, extractor, self, progress, folders) as got:
            (table, errors), known = usable_rows(got.table), got.unchanged
            if not len(table):
                removed = self._drop(lambda old: gone_rows(old.entries, folders, got.items)) if prune else 0
                return Change(unchanged=known, errors=errors, removed=removed)
            self.check_alike(table.facts, table.features.shape[1])
            vectors, entries = as_stored(table)
            with self._store.writing():
                old = self._store.read(load_snapshot)  # another process may have written
                check_alike(old.facts, table.facts, table.features.shape[1], self.folder)
                rows, same = unchanged_rows(old.entries, table.names, table.sizes, table.mtimes, self.folder)
                there = rows >= 0
                gone = gone_rows(old.entries, folders, got.items) if prune else rows[:0]
                if not same.all() or len(gone):
                    fresh = np.flatnonzero(~same)
                    dead = np.union1d(rows[there & ~same], gone)
                    self._publish(old, dead, as_known(entries.take(fresh), old.entries, rows[fresh]), vectors[fresh])
        return Change(int((~there).sum()), int((there & ~same).sum()), known + int(same.sum()), errors, len(gone))

    def remove(self, names: Sequence[str]) -> int:
        """Remove images, all or none of them.

        Returns:
            how many there were.

        Raises:
            InputError: a name that is not in the index, or the index cannot be written.
        """
        names = list(dict.fromkeys(names))
        return self._drop(lambda old: self._rows(old, names))

    def _drop(self, choose: Callable[[Snapshot], np.ndarray]) -> int:
        """Remove the rows of the newest snapshot that `choose` names, and give their number."""
        with self._store.writing():
            old = self._store.read(load_snapshot)
            rows = choose(old)
            if len(rows):
                none = np.zeros((0, old.vectors.shape[1]), np.float16)
                self._publish(old, rows, old.entries.take(rows[:0]), none)
        return len(rows)

    def rebuild(self, kind: str | None = None) -> None:
        """Make the index again of the vectors that it holds, as another kind if asked.

        Args:
            kind: one of `kinds.KINDS`, "auto", or None for what it was built as.

        Raises:
            InputError: another kind, or the index cannot be written.
        """
        with self._store.writing():
            old = self._store.read(load_snapshot)
            publish_again(self._store, old, kind or old.facts["wanted"])
            self._snapshot = self._store.read(load_snapshot)

    def _publish(self, old: Snapshot, dead: np.ndarray, more: Entries, vectors: np.ndarray) -> None:
        publish_change(self._store, old, dead, more, vectors)
        self._snapshot = self._store.read(load_snapshot)


@contextmanager
def _features_of(
    store: Generations,
    source: FeatureTable | Sequence[str | Path],
    extractor: FeatureExtractor | Loader | None,
    index: ImageIndex | None,
    progress: Progress | None,
    pruned: Sequence[Path] = (),
) -> Iterator[Gathered]:
    """As `sources.gathering`, of a table too."""
    from maerestore.features.index.sources import Gathered, gathering

    if isinstance(source, FeatureTable):
        yield Gathered(source)
    else:
        paths = [source] if isinstance(source, str | Path) else source
        with gathering(store, paths, extractor, index, progress, pruned) as got:
            yield got
