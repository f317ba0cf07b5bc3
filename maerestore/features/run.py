"""Writing the features of many images to one table, batch by batch; an interrupted run can be continued."""

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
from maerestore.features.model_names import name_to_keep
from maerestore.features.store import FeatureStore

__all__ = ["Report", "extract", "table_facts"]


@dataclass
class Report:
    """The result of a run.

    Attributes:
        images: number of rows of the table.
        computed: images that were new or changed, including those with an error.
        kept: images whose rows were kept.
        dropped: rows that were removed, because their images are no longer in the sources.
        errors: (name, reason) of all rows with an error.
        facts: of the table (`table_facts`).
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
    disjoint: bool = False,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Report:
    """Write the features of images to a table, or update a table.

    Convention:
        Only images that are new, or whose size or modification time changed, are computed; rows of images that are not
        in `items` are removed, but a table that would lose all of its rows is refused. Each batch is stored as soon as
        it is finished, so a run that was killed continues with the next batch. An image that cannot be read, or that
        does not fit into memory, becomes a row with an error. It is tried again when its file changes, or if it could
        not be opened at all.

    Args:
        items: from `find_items` or `find_sources`.
        settings: an `ExtractorSettings`.
        out: path of the table: .parquet, .npy or .safetensors.
        workers: number of threads that decode, at least 1; None for one per core, at most 16.
        half: store features as float16.
        overwrite: start a new table, and replace an existing one.
        retry: compute images again whose rows have an error.
        some: raise InputError if not one image can be read; the table stays as it was.
        disjoint: replace a table that has rows of other images only, too.
        engine: computes the features; None for `local_engine`.
        progress: called with the numbers of finished images and of all images to compute.
        failed: called with name and reason of each image that cannot be read; with `some`, only after one was read.

    Returns:
        what was done.

    Raises:
        InputError: the table has another fingerprint, or rows of other images only; another process works on it, or
            it cannot be written; with `some`, no image can be read.
        ModelError: as for `FeatureExtractor.from_pretrained`.
        MaerestoreError: pooling "patch", whose grids do not fit into a table, or fewer than one worker.

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
        before, names = store.names(), {item.name for item in items}
        if not disjoint:
            store.check_overlap(names)
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
    dropped = len(before - names)
    return Report(len(items), len(todo), len(items) - len(todo), dropped, errors, facts)


def table_facts(extractor: Extractor, half: bool = False) -> dict[str, Any]:
    """The facts that a table stores about its features.

    Returns:
        "model", "fingerprint", "options", "dim", "dtype" and "version" (of this package).

    Raises:
        MaerestoreError: pooling "patch", whose grids do not fit into a table.
    """
    if extractor.options.pooling == "patch":
        raise MaerestoreError("pooling 'patch' gives a grid for each image, which fits no table: use FeatureExtractor.")
    return {
        "model": name_to_keep(extractor.name),  # a relative path leads elsewhere from other folders
        "fingerprint": extractor.fingerprint,
        "options": extractor.options.to_dict(),
        "dim": extractor.dim,
        "dtype": "float16" if half else "float32",
        "version": maerestore.__version__,
    }
