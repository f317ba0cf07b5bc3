"""Features of many images into one table, batch by batch, resumable."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import maerestore
from maerestore.errors import MaerestoreError
from maerestore.features.decode import load_image
from maerestore.features.failures import Failures, none_read
from maerestore.features.items import Item, as_utf8, source_of
from maerestore.features.options import FeatureOptions
from maerestore.features.store import FeatureStore
from maerestore.features.table import FeatureTable
from maerestore.image.errors import InputError

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor

__all__ = [
    "Extractor",
    "ExtractorSettings",
    "Loaded",
    "Loader",
    "Report",
    "extract",
    "features_of",
    "local_engine",
    "table_facts",
]

_MOST_BYTES = 1 << 28  # of decoded images that wait, unless a single one is larger


class Extractor(Protocol):
    """What a run asks of a `maerestore.features.FeatureExtractor`."""

    name: str
    dim: int
    options: FeatureOptions
    fingerprint: str
    batch_size: int

    @property
    def pixels_wanted(self) -> int: ...

    def __call__(self, images: Any) -> Any: ...


class Loader(Protocol):
    """What makes an extractor, here or in another process."""

    def load(self) -> Extractor: ...


@dataclass(frozen=True)
class Loaded:
    """An extractor that is there already, where a loader is asked for."""

    extractor: Extractor

    def load(self) -> Extractor:
        """The extractor."""
        return self.extractor


@dataclass(frozen=True)
class ExtractorSettings:
    """Arguments of `FeatureExtractor.from_pretrained`; cheap, and can be sent to another process.

    Args:
        model: None for the bundled one.
        options: pooling, layers, sizes.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that go through the network at once.
        whitening: a file that `Whitening.save` wrote.
    """

    model: str | None = None
    options: FeatureOptions = field(default_factory=FeatureOptions)
    device: str = "auto"
    batch_size: int = 32
    whitening: str | None = None

    def load(self) -> FeatureExtractor:
        """Load the extractor.

        Raises:
            ModelError: no such model, options that it cannot give, no such whitening or device.
        """
        from maerestore.features.extractor import FeatureExtractor

        return FeatureExtractor.from_pretrained(
            self.model,
            options=self.options,
            device=self.device,
            batch_size=self.batch_size,
            whitening=self.whitening,
        )


@dataclass
class Report:
    """What a run did.

    Attributes:
        images: rows of the table now.
        computed: images that were new or changed, and were read now, those with errors among them.
        kept: images whose rows were there.
        dropped: rows that left the table because their images are gone from the sources.
        errors: (name, reason) of all rows with an error.
        facts: of the table.
    """

    images: int = 0
    computed: int = 0
    kept: int = 0
    dropped: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


Engine = Callable[[Sequence[Item], Loader, Extractor, bool], Iterator[FeatureTable]]
"""engine(items, settings, extractor, half): yields finished batches, in any order, each item once; `extractor` is the
one that this process has loaded."""


def extract(
    items: Sequence[Item],
    settings: Loader,
    out: Path,
    *,
    workers: int | None = None,
    half: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    some: bool = False,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Report:
    """Write the features of images to a table, or bring a table up to date.

    Convention:
        Only images that are new, or whose size or time changed, are computed; those that are not among `items` leave
        the table. Each batch is kept as soon as it is finished: a run that was killed goes on with the next one. An
        image that cannot be read, or for which memory does not suffice, is a row with an error; it is tried again when
        its file changes, or when it could not be opened at all.

    Args:
        items: what `find_items` found.
        settings: an `ExtractorSettings`.
        out: the table: .parquet, .npy or .safetensors.
        workers: threads that decode; None for one a core, at most 16.
        half: store features as float16.
        overwrite: start anew, whatever there is.
        retry: try images again whose rows have an error.
        some: refuse images of which not one can be read: the table stays as it was.
        engine: None for `local_engine`.
        progress: called with the numbers of images done and to do.
        failed: called with name and reason of each image that cannot be read; with `some`, once one could be.

    Returns:
        what was done.

    Raises:
        InputError: the table is of another fingerprint, another process works on it, or it cannot be written; with
            `some`, no image can be read.
        ModelError: as `FeatureExtractor.from_pretrained`.
        ValueError: pooling "patch", whose grids do not fit a table, or less than one worker.

    Example:
        >>> from maerestore.features import find_items                                          # doctest: +SKIP
        >>> report = extract(find_items(["photos"]), ExtractorSettings(), Path("photos.parquet"))  # doctest: +SKIP
        >>> report.computed, report.errors                                                      # doctest: +SKIP
        (24, [])
    """
    if workers is not None and workers < 1:
        raise MaerestoreError(f"workers must be at least 1, got {workers}")
    with FeatureStore(out, overwrite) as store:
        extractor = settings.load()
        facts = table_facts(extractor, half)
        store.use(facts)
        todo = [item for item in items if not store.has(item) or (retry and store.error(item) is not None)]
        before = store.names()
        run = engine or local_engine(workers)
        done, read = 0, any(store.has(item) and store.error(item) is None for item in items)
        told = Failures(failed, read or not some)
        if progress is not None and todo:
            progress(0, len(todo))
        if todo:
            for batch in run(todo, settings, extractor, half):
                store.add(batch)
                done += len(batch)
                told.note(batch.failures(), None in batch.errors)
                if progress is not None:
                    progress(done, len(todo))
        errors = [(item.name, error) for item in items if (error := store.error(item)) is not None]
        if some and len(errors) == len(items) > 0:
            store.discard()
            raise none_read(errors, str(out))
        store.finish(items)
    dropped = len(before - {item.name for item in items})
    return Report(len(items), len(todo), len(items) - len(todo), dropped, errors, facts)


def table_facts(extractor: Extractor, half: bool = False) -> dict[str, Any]:
    """What a table tells of its features.

    Raises:
        ValueError: pooling "patch".
    """
    if extractor.options.pooling == "patch":
        raise MaerestoreError("pooling 'patch' gives a grid for each image, which fits no table: use FeatureExtractor.")
    return {
        "model": extractor.name,
        "fingerprint": extractor.fingerprint,
        "options": extractor.options.to_dict(),
        "dim": extractor.dim,
        "dtype": "float16" if half else "float32",
        "version": maerestore.__version__,
    }


def local_engine(workers: int | None = None) -> Engine:
    """The engine of one process: threads decode ahead while the network works.

    Args:
        workers: threads; None for one a core, at most 16.
    """
    threads = workers or min(16, os.cpu_count() or 1)

    def run(items: Sequence[Item], settings: Loader, extractor: Extractor, half: bool) -> Iterator[FeatureTable]:
        waiting: list[tuple[Item, np.ndarray | str]] = []
        size = 0
        for item, image in _decoded(items, extractor.pixels_wanted, threads, 2 * extractor.batch_size + threads):
            waiting.append((item, image))
            size += 0 if isinstance(image, str) else image.nbytes
            if len(waiting) >= extractor.batch_size or size > _MOST_BYTES:
                yield _batch(waiting, extractor, half)
                waiting, size = [], 0
        if waiting:
            yield _batch(waiting, extractor, half)

    return run


def features_of(items: Sequence[Item], extractor: Extractor, half: bool = False) -> FeatureTable:
    """Read, decode and extract some images, one after the other: a batch as an engine yields it."""
    return _batch([(item, _load(item, extractor.pixels_wanted)) for item in items], extractor, half)


def _decoded(items: Sequence[Item], at_least: int, threads: int, ahead: int) -> Iterator[tuple[Item, np.ndarray | str]]:
    """Decode in threads; in the order of the items, at most `ahead` of them, and a certain number of bytes, early."""
    pending: deque[tuple[Item, Future[np.ndarray | str]]] = deque()
    held, guard = 0, threading.Lock()

    def load(item: Item) -> np.ndarray | str:
        nonlocal held
        image = _load(item, at_least)
        if not isinstance(image, str):
            with guard:
                held += image.nbytes
        return image

    def take() -> tuple[Item, np.ndarray | str]:
        nonlocal held
        item, future = pending.popleft()
        image = future.result()
        if not isinstance(image, str):
            with guard:
                held -= image.nbytes
        return item, image

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for item in items:
            while pending and (len(pending) >= ahead or held > _MOST_BYTES):
                yield take()
            pending.append((item, pool.submit(load, item)))
        while pending:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


def _load(item: Item, at_least: int) -> np.ndarray | str:
    """The image, or why there is none."""
    try:
        return load_image(source_of(item), at_least)
    except InputError as error:
        return as_utf8(str(error).rstrip("."))  # it may name the file, whose name may be no UTF-8
    except MemoryError:
        return "not enough memory to decode it"


def _batch(loaded: Sequence[tuple[Item, np.ndarray | str]], extractor: Extractor, half: bool) -> FeatureTable:
    items = [item for item, _ in loaded]
    errors = [image if isinstance(image, str) else None for _, image in loaded]
    features = np.full((len(items), extractor.dim), np.nan, np.float32)
    good = [i for i, error in enumerate(errors) if error is None]
    try:
        if good:
            features[good] = np.asarray(extractor([loaded[i][1] for i in good]))
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        for i in good:  # one of them may be too large, and the others not
            try:
                features[i] = np.asarray(extractor([loaded[i][1]]))[0]
            except (MemoryError, RuntimeError) as its_error:
                if not _is_of_memory(its_error):
                    raise
                errors[i] = "not enough memory to compute its feature"
        good = [i for i in good if errors[i] is None]
    if half:
        with np.errstate(over="ignore"):
            features = features.astype(np.float16)
    for i in good:
        if not np.isfinite(features[i]).all():
            errors[i], features[i] = "its feature is not finite", np.nan
    # An image that could not be opened may be there the next time, with the same size and time.
    again = [error is not None and not _opens(item) for item, error in zip(items, errors, strict=True)]
    sizes = [-1 if lost else item.size for item, lost in zip(items, again, strict=True)]
    return FeatureTable(
        [item.name for item in items],
        features,
        errors,
        [item.label for item in items],
        {},
        np.array(sizes, dtype=np.int64),
        np.array([item.mtime_ns for item in items], dtype=np.int64),
    )


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "memory" in str(error).lower()  # torch says so in several ways


def _opens(item: Item) -> bool:
    try:
        with item.path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError):  # names that no file can have; and of filesystems and tables, pyarrow's errors
        return False
    return True
