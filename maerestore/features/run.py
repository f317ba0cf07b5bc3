"""Features of many images into one table, batch by batch, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import maerestore
from maerestore.errors import MaerestoreError
from maerestore.features.engine import Engine, local_engine
from maerestore.features.failures import Failures, none_read
from maerestore.features.items import Item
from maerestore.features.loaders import Extractor, Loader
from maerestore.features.store import FeatureStore

__all__ = ["Report", "extract", "table_facts"]


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
        MaerestoreError: pooling "patch", whose grids do not fit a table, or less than one worker.

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
        MaerestoreError: pooling "patch".
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
