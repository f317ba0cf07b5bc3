"""A table of features in memory: names, features, labels and errors of images, and how the features were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["FeatureTable", "join_tables"]


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N images.

    Args:
        names: N different names of images (`maerestore.features.items.Item.name`).
        features: (N, D) float32, or float16; NaN in rows with an error.
        errors: N texts: why an image has no feature; None where it has one.
        labels: N names of classes; None where none is known.
        facts: how the features were made: "model", "fingerprint", "options" and "dim" of the extractor, and any other
            values that can be stored as JSON.
        sizes: (N,) int64, the size of each file in bytes; -1 where it could not be opened.
        mtimes: (N,) int64, the modification time of each file in nanoseconds.

    Raises:
        ValueError: columns of different lengths, or features that are not 2-dimensional.

    Example:
        >>> table = FeatureTable(["a.jpg", "b.jpg"], np.float32([[0.6, 0.8], [np.nan, np.nan]]), [None, "damaged"],
        ...                      ["cat", None], {"fingerprint": "f" * 64}, np.int64([9, 5]), np.int64([1, 2]))
        >>> len(table), table.without_errors().names
        (2, ['a.jpg'])
    """

    names: list[str]
    features: np.ndarray
    errors: list[str | None]
    labels: list[str | None]
    facts: dict[str, Any]
    sizes: np.ndarray
    mtimes: np.ndarray

    def __post_init__(self) -> None:
        lengths = [
            len(value) for value in (self.names, self.features, self.errors, self.labels, self.sizes, self.mtimes)
        ]
        if len(set(lengths)) > 1 or self.features.ndim != 2:
            raise ValueError(f"columns of a table must have one length, got {lengths}, features {self.features.shape}")

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, rows: Sequence[int] | np.ndarray) -> FeatureTable:
        """Select rows.

        Args:
            rows: M row numbers, 0 to N - 1, in any order.
        """
        at = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            names=[self.names[i] for i in at],
            features=self.features[at],
            errors=[self.errors[i] for i in at],
            labels=[self.labels[i] for i in at],
            sizes=self.sizes[at],
            mtimes=self.mtimes[at],
        )

    def not_seen(self, seen: set[str]) -> FeatureTable:
        """Select the rows whose names are not in `seen`, each name once, and add those names to `seen`."""
        fresh = [row for row, name in enumerate(self.names) if not (name in seen or seen.add(name))]  # type: ignore[func-returns-value]
        return self if len(fresh) == len(self) else self.rows(fresh)

    def without_errors(self) -> FeatureTable:
        """Select the rows that have a feature."""
        return self.rows([i for i, error in enumerate(self.errors) if error is None])

    def failures(self) -> list[tuple[str, str]]:
        """Names and errors of the images that have no feature."""
        return [(name, error) for name, error in zip(self.names, self.errors, strict=True) if error is not None]


def join_tables(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Concatenate the rows of tables; the facts are those of the first.

    Args:
        tables: at least one, all with features of the same width.

    Raises:
        ValueError: no table, or features of different widths.
    """
    if not tables or len({table.features.shape[1] for table in tables}) > 1:
        raise ValueError(f"tables to join must have one width, got {[table.features.shape for table in tables]}")
    return FeatureTable(
        [name for table in tables for name in table.names],
        np.concatenate([table.features for table in tables]),
        [error for table in tables for error in table.errors],
        [label for table in tables for label in table.labels],
        tables[0].facts,
        np.concatenate([table.sizes for table in tables]),
        np.concatenate([table.mtimes for table in tables]),
    )
