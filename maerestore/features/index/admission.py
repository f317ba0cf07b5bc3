"""Checks of what is added to an index: features of its model, finite and not zero, one for each file and name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.index.places import Matches, Places, match_images, working_folder
from maerestore.features.table import FeatureTable
from maerestore.image import InputError
from maerestore.image.errors import quoted


def unchanged_rows(
    entries: Entries, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray, folder: Path
) -> tuple[Matches, np.ndarray]:
    """Find images in an index, and tell which have not changed.

    Images are identified by their files, however the paths are spelled. If the file of an entry no longer exists, an
    image of the same name in the working directory counts as that image, moved.

    Args:
        entries: of the index.
        names: of N images, relative to the working directory.
        sizes, mtimes: (N,) int64, in bytes and nanoseconds.
        folder: of the index, for error messages.

    Returns:
        the rows of the images, and which of these were moved; and (N,) bool, whether size and modification time are
        those of the row.

    Raises:
        InputError: a name that another existing file has in the index.
    """
    here = working_folder()
    matches = match_images(entries, names, here)
    if matches.clashing:
        name = names[matches.clashing[0]]
        [other] = entries.folders(entries.rows_of([name]))
        raise InputError(
            f"index {quoted(folder)} has another image named {quoted(name)}, added from the folder {quoted(other)}: "
            f"give the source of this one by its full path ({quoted(Places().of(here, name))})."
        )
    rows = matches.rows
    if not len(entries):
        return matches, rows >= 0
    same = (entries.column("size")[rows] == sizes) & (entries.column("mtime_ns")[rows] == mtimes)
    return matches, same & (rows >= 0)


def usable_rows(table: FeatureTable) -> tuple[FeatureTable, list[tuple[str, str]]]:
    """Select the rows that have a feature, one for each file; also return (name, reason) of the rows without.

    Raises:
        InputError: two rows with one name that differ.
    """
    errors = table.failures()
    table = table.without_errors() if errors else table
    rows: dict[str, int] = {}
    for row, name in enumerate(table.names):
        other = rows.setdefault(name, row)
        if other != row and not (
            (table.sizes[row], table.mtimes[row]) == (table.sizes[other], table.mtimes[other])
            and np.array_equal(table.features[row], table.features[other])
        ):
            raise InputError(f"two images are named {quoted(name)}: names in an index differ.")
    first = one_a_place(table.names)
    return (table if len(first) == len(table) else table.rows(first)), errors


def one_a_place(names: Sequence[str]) -> list[int]:
    """The positions of names, without those that refer to the same file as an earlier name."""
    here, places = working_folder(), Places()
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        first.setdefault(places.of(here, name), number)
    return list(first.values())


def as_stored(table: FeatureTable) -> tuple[np.ndarray, Entries]:
    """The vectors and entries that an index stores for a table without errors.

    Raises:
        InputError: no rows, or a feature that is zero or not finite.
    """
    if not len(table):
        raise InputError("the sources hold no features: nothing to make an index of.")
    peak = np.abs(table.features).max(1)
    bad = np.flatnonzero(~(np.isfinite(peak) & (peak > 0)))
    if len(bad):
        raise InputError(f"the feature of {quoted(table.names[bad[0]])} has no direction: it is zero, or not finite.")
    return kinds.unit(table.features), Entries.of(table.names, table.sizes, table.mtimes, working_folder())


def as_known(more: Entries, old: Entries, rows: np.ndarray) -> Entries:
    """Give entries that replace others the names that their files already have in the index.

    Args:
        more: N new entries.
        old: the entries of the index.
        rows: (N,) int64, the rows of `old` that are replaced; -1 for none.
    """
    every, places = np.arange(len(more)), Places()
    names, folders = more.names(every), more.folders(every)
    known = np.flatnonzero(rows >= 0)
    others = zip(old.names(rows[known]), old.folders(rows[known]), strict=True)
    for number, (name, folder) in zip(known.tolist(), others, strict=True):
        if places.of(folder, name) == places.of(folders[number], names[number]):
            names[number], folders[number] = name, folder
    return Entries.of(names, more.column("size"), more.column("mtime_ns"), folders)


def check_alike(held: dict[str, Any], given: dict[str, Any], dim: int, folder: Path) -> None:
    """Raise InputError unless features fit an index.

    Args:
        held: the facts of the index.
        given: the facts of the features, "model" and "fingerprint".
        dim: number of values of a feature.
        folder: of the index, for error messages.
    """
    mine, theirs = held["fingerprint"], given.get("fingerprint")
    if mine != theirs or held["dim"] != dim:
        detail = f"{_short(mine)}, not {_short(theirs)}" if mine != theirs else f"{held['dim']} numbers, not {dim}"
        raise InputError(
            f"index {quoted(folder)} holds features of model {str(held['model'])!r} with other weights or options than "
            f"those given of {str(given.get('model'))!r} ({detail}): use the same, also the same --whiten where one "
            "was given, or build another index."
        )


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "none"
