"""What may come into an index: features of its own model, each with a direction, one of each name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.table import FeatureTable
from maerestore.image import InputError
from maerestore.image.errors import quoted


def unchanged_rows(
    entries: Entries, names: Sequence[str], sizes: np.ndarray, mtimes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of names, -1 where there is none; and whether size and time are those of the row."""
    rows = entries.rows_of(names)
    if not len(entries):
        return rows, rows >= 0
    same = (entries.column("size")[rows] == sizes) & (entries.column("mtime_ns")[rows] == mtimes)
    return rows, same & (rows >= 0)


def usable_rows(table: FeatureTable) -> tuple[FeatureTable, list[tuple[str, str]]]:
    """Rows that have a feature, and (name, reason) of the others."""
    errors = [(name, error) for name, error in zip(table.names, table.errors, strict=True) if error is not None]
    return (table.without_errors() if errors else table), errors


def as_stored(table: FeatureTable) -> tuple[np.ndarray, Entries]:
    """Vectors and entries as an index stores them.

    Raises:
        InputError: no rows, two of one name, or a feature that has no direction.
    """
    if not len(table):
        raise InputError("no image could be read: nothing to make an index of.")
    if len(set(table.names)) < len(table.names):
        seen: set[str] = set()
        name = next(name for name in table.names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"two images are named {quoted(name)}: names in an index differ.")
    peak = np.abs(table.features).max(1)
    bad = np.flatnonzero(~(np.isfinite(peak) & (peak > 0)))
    if len(bad):
        raise InputError(f"the feature of {quoted(table.names[bad[0]])} has no direction: it is zero, or not finite.")
    return kinds.unit(table.features), Entries.of(table.names, table.sizes, table.mtimes, os.getcwd())


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
