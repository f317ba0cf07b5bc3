"""A table of features in memory: images' names, features, labels and errors, with what made the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["FeatureTable", "join_tables"]


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N images.

    Attributes:
        names: of the images, all different (`maerestore.features.items.Item.name`).
        features: (N, D) float32 (float16 while halves are stored); NaN in rows with an error.
        errors: why an image has no feature; None where it has one.
        labels: names of classes; None where none is known.
        facts: "model", "fingerprint", "options" and "dim" of the extractor, and whatever else JSON holds.
        sizes: (N,) int64, bytes of each image's file, -1 where it could not be read.
        mtimes: (N,) int64, when it was changed, in nanoseconds.

    Raises:
        ValueError: lengths that differ.

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
        """Some of the rows, in the order given."""
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
        """The rows whose names are not among `seen`, and of several with one name the first; adds them to `seen`."""
        fresh = [row for row, name in enumerate(self.names) if not (name in seen or seen.add(name))]  # type: ignore[func-returns-value]
        return self if len(fresh) == len(self) else self.rows(fresh)

    def without_errors(self) -> FeatureTable:
        """The rows that have a feature."""
        return self.rows([i for i, error in enumerate(self.errors) if error is None])

    def failures(self) -> list[tuple[str, str]]:
        """Name and reason of each image that has no feature."""
        return [(name, error) for name, error in zip(self.names, self.errors, strict=True) if error is not None]


def join_tables(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Rows of several tables, one after the other; the facts of the first.

    Raises:
        ValueError: no table, or widths that differ.
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
