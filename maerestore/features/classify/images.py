"""Images of a labelled set to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from maerestore.features.engine import local_engine
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.items import Item
from maerestore.features.loaders import Loaded
from maerestore.features.run import extract, table_facts
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_files import read_table
from maerestore.image.errors import InputError, quoted

Progress = Callable[[str, int, int], None]


def features_of_items(
    items: Sequence[Item],
    extractor: FeatureExtractor,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> FeatureTable:
    """The features of images, kept in a table or not.

    Args:
        items: what `find_items` found.
        extractor: what makes them.
        cache: a table that is made, or brought up to date; see `maerestore.features.run.extract`.
        workers: threads that decode; None for one a core, at most 16.
        progress: called with a stage, what is done, and the total.
        failed: called with name and reason of each image that cannot be read.

    Returns:
        a row for each item, in their order, those that cannot be read with an error.

    Raises:
        InputError: the cache is of another model, holds other images too, or cannot be written; or not one image of
            those that would be kept in it can be read.
    """

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("features", done, total)

    if cache is not None:
        if cache.exists() and (others := set(read_table(cache).names) - {item.name for item in items}):
            raise InputError(
                f"{quoted(cache)} holds other images too, such as {quoted(min(others))}, which would be lost: give "
                "another table."
            )
        try:
            report = extract(items, Loaded(extractor), cache, workers=workers, some=True, progress=told)
        except InputError as err:
            if err.in_python != "overwrite=True":
                raise
            # Whoever asks for a classifier has no --overwrite for the table beside it.
            reason = err.message.partition(": choose another output")[0]
            raise InputError(f"{reason}: give another table, or delete this one.") from None
        if failed is not None:
            for name, reason in report.errors:
                failed(name, reason)
        return read_table(cache)
    facts, tables, done = table_facts(extractor), [], 0
    for table in local_engine(workers)(items, Loaded(extractor), extractor, False):
        tables.append(table)
        done += len(table)
        told(done, len(items))
    joined = join_tables(tables)
    if failed is not None:
        for name, error in joined.failures():
            failed(name, error)
    return replace(joined, facts=facts)
