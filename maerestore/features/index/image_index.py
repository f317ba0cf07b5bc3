"""An index of images on disk: built, searched, added to and removed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.admission import as_known, as_stored, check_alike, unchanged_rows, usable_rows
from maerestore.features.index.changes import publish_again, publish_change
from maerestore.features.index.entries import Entries
from maerestore.features.index.gone import folders_of, gone_rows
from maerestore.features.index.places import match_images, working_folder
from maerestore.features.index.reader import Hit, IndexReader, Progress
from maerestore.features.index.snapshot import FILES, Snapshot, chunks_of, load_snapshot, write_snapshot
from maerestore.features.index.store import Generations
from maerestore.features.model_names import name_to_keep
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
    """The changes that `ImageIndex.add` made.

    Attributes:
        added, replaced, unchanged, removed: numbers of images.
        errors: (name, reason) of images that cannot be read; their old entries stay in the index.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    removed: int = 0


class ImageIndex(IndexReader):
    """An index of image features in a folder, for similarity search.

    Convention:
        Similarity is the cosine. An index holds features of one model with one set of options, and refuses others;
        vectors are stored as float16. Each change is atomic: a process that is killed at any moment leaves the old
        content or the new one. One process writes at a time, and others wait for it, a minute at most; one that
        would compute features beside another is refused at once. Readers see the content of the moment when they opened
        the index, or last changed it.

    Args:
        folder: of an existing index; `build` makes a new one.

    Attributes:
        folder: of the index.

    Raises:
        InputError: there is no index, it is damaged, or faiss or pyarrow is not installed.

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
        """Build an index.

        Args:
            folder: for the index, created where it is missing.
            source: a table of features; or paths of images, folders, tars, lists (.txt) and tables of features
                (.parquet, .npy, .safetensors). Images that cannot be read are left out.
            extractor: for images; or an `ExtractorSettings`, which loads one only when it is needed. None for the
                bundled model.
            kind: "flat" (exact), "hnsw" or "ivfpq" (approximate), or "auto": chosen by the number of images, and again
                whenever that changes. With fewer than 256 images "ivfpq" is "flat".
            overwrite: replace an existing index.
            progress: called during the extraction.

        Raises:
            InputError: the folder holds an index or other files; no image, or none that can be read; features of
                several models, or that are zero or not finite; faiss is not installed; an unknown kind.
            ModelError: the model cannot be loaded.
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
        store = Generations(Path(folder), FILES)
        cls._check_free(store, overwrite)
        with _features_of(store, source, extractor, None, progress) as got:
            table, errors = usable_rows(got.table)
            vectors, entries = as_stored(table)
            model = table.facts.get("model")
            facts = {
                **{name: table.facts.get(name) for name in ("fingerprint", "options")},
                "model": None if model is None else name_to_keep(model),
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
        """Add images.

        An image that is in the index and has the same size and modification time is left as it is; otherwise it is
        replaced. Images are identified by their files, however the paths are spelled, and keep the name under which
        they were added first. If the file of an entry no longer exists, an image of the same name in another working
        directory counts as that image, moved, and is looked for there from then on.

        Args:
            source, progress: as for `build`.
            extractor: as for `build`; None to load the model that the index was built with.
            prune: also remove the images below the folders of the source whose files no longer exist.

        Returns:
            the numbers of images added, replaced, unchanged and removed, and the errors.

        Raises:
            InputError: features of another model or with other options; no image; a name that another file has in the
                index; the index cannot be written; with `prune`, no folder among the sources, or one without images.
            ModelError: the model that the index was built with cannot be loaded.
        """
        folders = folders_of(source) if prune else []
        with _features_of(self._store, source, extractor, self, progress, folders) as got:
            (table, errors), known = usable_rows(got.table), got.unchanged
            if not len(table):
                if not prune and not got.moved:
                    return Change(unchanged=known, errors=errors)
                dim = int(self.facts["dim"])
                vectors, entries = np.zeros((0, dim), np.float16), Entries.of([], table.sizes, table.mtimes, "")
            else:
                dim = table.features.shape[1]
                self.check_alike(table.facts, dim)
                vectors, entries = as_stored(table)
            with self._store.writing():
                old = self._store.read(load_snapshot)  # another process may have written
                if len(table):
                    check_alike(old.facts, table.facts, dim, self.folder)
                found, same = unchanged_rows(old.entries, table.names, table.sizes, table.mtimes, self.folder)
                rows, there = found.rows, found.rows >= 0
                here = working_folder()
                intact = np.union1d(
                    rows[[i for i in found.moved if same[i]]], _moved_rows(old.entries, got.moved, here)
                )
                moved = np.union1d(rows[found.moved], intact)
                left = set(old.entries.folders(intact))  # a changed image may be another one of the same name
                old = replace(old, entries=old.entries.in_folder(moved, here))
                gone = gone_rows(old.entries, folders, got.items, left) if prune else rows[:0]
                if not same.all() or len(gone) or len(moved):
                    fresh = np.flatnonzero(~same)
                    dead = np.union1d(rows[there & ~same], gone)
                    self._publish(old, dead, as_known(entries.take(fresh), old.entries, rows[fresh]), vectors[fresh])
        return Change(int((~there).sum()), int((there & ~same).sum()), known + int(same.sum()), errors, len(gone))

    def remove(self, names: Sequence[str | Path] | str | Path) -> int:
        """Remove images: all of them, or none where one is not in the index.

        Args:
            names: as in `names`, or paths of their files; or one of them.

        Returns:
            the number of images removed.

        Raises:
            InputError: a name that is not in the index, or the index cannot be written.
        """
        return self._drop(lambda old: np.unique(self._rows(old, names)))

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
        """Build the index again from its stored vectors, optionally as another kind.

        Args:
            kind: "flat", "hnsw", "ivfpq" or "auto"; None for the kind that was asked for before.

        Raises:
            InputError: an unknown kind, or the index cannot be written.
        """
        with self._store.writing():
            old = self._store.read(load_snapshot)
            publish_again(self._store, old, kind or old.facts["wanted"])
            self._snapshot = self._store.read(load_snapshot)

    def _publish(self, old: Snapshot, dead: np.ndarray, more: Entries, vectors: np.ndarray) -> None:
        publish_change(self._store, old, dead, more, vectors)
        self._snapshot = self._store.read(load_snapshot)


def _moved_rows(entries: Entries, names: Sequence[str], folder: str) -> np.ndarray:
    """The rows of those images among names, relative to a folder, that are elsewhere in the index."""
    found = match_images(entries, names, folder)
    return found.rows[found.moved]


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
