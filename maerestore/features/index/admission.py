"""What may come into an index: features of its own model, each with a direction, one of each file and name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.index.places import match_images, place_of, working_folder
from maerestore.features.table import FeatureTable
from maerestore.image import InputError
from maerestore.image.errors import quoted


def unchanged_rows(
    entries: Entries, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of images that are named from the working directory, and whether they are as they were.

    An image is the file at its place, however its name is spelled. One whose name is in the index for a file at another
    place, where nothing is any more, was moved.

    Args:
        entries: of the index.
        names: of N images.
        sizes, mtimes: (N,) int64, bytes and nanoseconds.
        folder: of the index, for messages.

    Returns:
        (N,) int64 rows, -1 where there is none, and (N,) bool: size and time are those of the row.

    Raises:
        InputError: a name that is in the index for another file, which is there.
    """
    here = working_folder()
    rows, clashing = match_images(entries, names, here)
    if clashing:
        name = names[clashing[0]]
        [other] = entries.folders(entries.rows_of([name]))
        raise InputError(
            f"index {quoted(folder)} has another image named {quoted(name)}, added from the folder {quoted(other)}: "
            f"give the source of this one by its full path ({quoted(place_of(here, name))})."
        )
    if not len(entries):
        return rows, rows >= 0
    same = (entries.column("size")[rows] == sizes) & (entries.column("mtime_ns")[rows] == mtimes)
    return rows, same & (rows >= 0)


def usable_rows(table: FeatureTable) -> tuple[FeatureTable, list[tuple[str, str]]]:
    """Rows that have a feature, one for each file, and (name, reason) of the others.

    Raises:
        InputError: two rows of one name.
    """
    errors = table.failures()
    table = table.without_errors() if errors else table
    if len(set(table.names)) < len(table.names):
        seen: set[str] = set()
        name = next(name for name in table.names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"two images are named {quoted(name)}: names in an index differ.")
    first = one_a_place(table.names)
    return (table if len(first) == len(table) else table.rows(first)), errors


def one_a_place(names: Sequence[str]) -> list[int]:
    """The numbers of names, without those that lead from the working directory to the file of an earlier one."""
    here = working_folder()
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        places.setdefault(place_of(here, name), number)
    return list(places.values())


def as_stored(table: FeatureTable) -> tuple[np.ndarray, Entries]:
    """Vectors and entries of usable rows as an index stores them.

    Raises:
        InputError: no rows, or a feature that has no direction.
    """
    if not len(table):
        raise InputError("the sources hold no features: nothing to make an index of.")
    peak = np.abs(table.features).max(1)
    bad = np.flatnonzero(~(np.isfinite(peak) & (peak > 0)))
    if len(bad):
        raise InputError(f"the feature of {quoted(table.names[bad[0]])} has no direction: it is zero, or not finite.")
    return kinds.unit(table.features), Entries.of(table.names, table.sizes, table.mtimes, working_folder())


def as_known(more: Entries, old: Entries, rows: np.ndarray) -> Entries:
    """Entries of images that replace others, with the names under which the index knows their files.

    Args:
        more: N entries.
        old: of the index.
        rows: (N,) int64, the rows of `old` that they replace; -1 for none.
    """
    every = np.arange(len(more))
    names, folders = more.names(every), more.folders(every)
    known = np.flatnonzero(rows >= 0)
    others = zip(old.names(rows[known]), old.folders(rows[known]), strict=True)
    for number, (name, folder) in zip(known.tolist(), others, strict=True):
        if place_of(folder, name) == place_of(folders[number], names[number]):
            names[number], folders[number] = name, folder
    return Entries.of(names, more.column("size"), more.column("mtime_ns"), folders)


def check_alike(held: dict[str, Any], given: dict[str, Any], dim: int, folder: Path) -> None:
    """Raise InputError unless features belong into an index.

    Args:
        held: facts of the index.
        given: of the features, "model" and "fingerprint".
        dim: width of the features.
        folder: of the index, for the message.
    """
    mine, theirs = held["fingerprint"], given.get("fingerprint")
    if mine != theirs or held["dim"] != dim:
        detail = f"{_short(mine)}, not {_short(theirs)}" if mine != theirs else f"{held['dim']} numbers, not {dim}"
        raise InputError(
            f"index {quoted(folder)} holds features of model {str(held['model'])!r} with other weights or options than "
            f"those given of {str(given.get('model'))!r} ({detail}): use the same, or build another index."
        )


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "none"
