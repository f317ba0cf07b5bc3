"""Tables of features that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maerestore.features.table import FeatureTable

FACTS = {"model": "toy", "fingerprint": "f" * 64, "options": None}


def clustered(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """(n, dim) float32: groups of about ten, as real features have neighbours."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 10), dim))
    return (centres[rng.integers(len(centres), size=n)] + 0.3 * rng.normal(size=(n, dim))).astype(np.float32)


def toy_table(
    features: np.ndarray, names: Sequence[str] | None = None, size: int = 1, mtime: int = 1, **facts: Any
) -> FeatureTable:
    n = len(features)
    return FeatureTable(
        list(names) if names is not None else [f"{i}.png" for i in range(n)],
        np.asarray(features, np.float32),
        [None] * n,
        [None] * n,
        {**FACTS, **facts},
        np.full(n, size, np.int64),
        np.full(n, mtime, np.int64),
    )


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(Q, N) exact cosine similarities."""
    queries, vectors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, vectors))
    return queries @ vectors.T
