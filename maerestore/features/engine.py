"""Computing features of items in batches: threads decode images ahead of the network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from maerestore.errors import lacks_memory
from maerestore.features.decode import load_image
from maerestore.features.filesystems import check_regular
from maerestore.features.items import Item, as_utf8, source_of
from maerestore.features.loaders import Extractor, Loader
from maerestore.features.table import FeatureTable
from maerestore.image.errors import InputError
from maerestore.threads import usable_cpus

__all__ = ["Engine", "features_of", "local_engine"]

_MOST_BYTES = 1 << 28  # of decoded images that wait, unless a single one is larger

Engine = Callable[[Sequence[Item], Loader, Extractor, bool], Iterator[FeatureTable]]
"""engine(items, settings, extractor, half): yields batches of features in any order, each item once. `extractor` is the
one that this process has loaded, `settings` loads another one elsewhere."""


def local_engine(workers: int | None = None) -> Engine:
    """The engine that works in this process: threads decode images ahead of the network.

    Args:
        workers: number of threads; None for one per core, at most 16.
    """
    threads = workers or min(16, usable_cpus())

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
    """Compute the features of some images as one batch, without threads.

    Args:
        items: the images.
        extractor: computes the features.
        half: whether features are float16.

    Returns:
        a row for each image, with an error where it cannot be read.
    """
    return _batch([(item, _load(item, extractor.pixels_wanted)) for item in items], extractor, half)


def _decoded(items: Sequence[Item], at_least: int, threads: int, ahead: int) -> Iterator[tuple[Item, np.ndarray | str]]:
    """Decode in threads, in the order of the items; at most `ahead` images, and `_MOST_BYTES`, are held at once."""
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
    """The decoded image, or the error as a text."""
    try:
        return load_image(source_of(item), at_least)
    except InputError as error:
        return as_utf8(str(error).rstrip("."))  # the message may have a file name that is not UTF-8
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
        if not lacks_memory(error):
            raise
        for i in good:  # one of them may be too large, and the others not
            try:
                features[i] = np.asarray(extractor([loaded[i][1]]))[0]
            except (MemoryError, RuntimeError) as its_error:
                if not lacks_memory(its_error):
                    raise
                errors[i] = "not enough memory to compute its feature"
        good = [i for i in good if errors[i] is None]
    if half:
        with np.errstate(over="ignore"):
            features = features.astype(np.float16)
    for i in good:
        if not np.isfinite(features[i]).all():
            errors[i], features[i] = "its feature is not finite", np.nan
    # An image that could not be opened may exist the next time, with the same size and time.
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


def _opens(item: Item) -> bool:
    try:
        if isinstance(item.path, Path):
            check_regular(item.path)
        with item.path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError):  # also names that no file can have, and errors of pyarrow
        return False
    return True
