"""PCA whitening: fewer dimensions, uncorrelated and of one variance, so that no direction outvotes the others.

Jegou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", ECCV 2012.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.hub.errors import ModelError
from maerestore.image import atomic_file


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted PCA whitening.

    Args:
        mean: (D,) float32, subtracted from features.
        projection: (D, K) float32, by which they are multiplied then.
        fingerprint: of the extractor whose features it was fitted on.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(200, 8)) * [9, 5, 1, 1, 1, 1, 1, 1]
        >>> white = Whitening.fit(features, 4, fingerprint="...")(torch.from_numpy(features).float())
        >>> np.allclose(np.cov(white.T), np.eye(4), atol=0.05)
        True
    """

    mean: Tensor
    projection: Tensor
    fingerprint: str

    @property
    def dim(self) -> int:
        """K, the number of values of a whitened feature."""
        return self.projection.shape[1]

    @classmethod
    def fit(cls, features: Any, dim: int | None = None, *, fingerprint: str) -> Whitening:
        """Fit a whitening to features.

        Args:
            features: (M, D) array or tensor of any float type, M at least 2; M should be many times D.
            dim: K, from 1 to the lesser of D and M - 1, which is the default.
            fingerprint: of the extractor that computed the features.

        Raises:
            MaerestoreError: fewer than two rows, values that are not finite, or `dim` out of range.
        """
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
            raise MaerestoreError(f"whitening needs two or more rows of finite features, got shape {rows.shape}")
        most = min(rows.shape[1], len(rows) - 1)
        dim = most if dim is None else dim
        if not 1 <= dim <= most:
            raise MaerestoreError(f"dim must lie in 1 to {most} for features {rows.shape}, got {dim}")
        mean = rows.mean(0)
        variances, directions = np.linalg.eigh(np.cov(rows - mean, rowvar=False).reshape(rows.shape[1], -1))
        order = np.argsort(variances)[::-1][:dim]
        # A direction that the features do not vary in holds rounding only: it is not blown up.
        scale = 1 / np.sqrt(np.maximum(variances[order], 1e-6 * max(variances[order[0]], 1e-30)))
        projection = directions[:, order] * scale
        return cls(
            torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(projection.astype(np.float32)), fingerprint
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Whiten features: (N, D) float32 -> (N, K) float32."""
        return (features - self.mean) @ self.projection

    def digest(self) -> str:
        """SHA-256 of mean and projection, 64 hex digits."""
        return hashlib.sha256(self.mean.numpy().tobytes() + self.projection.contiguous().numpy().tobytes()).hexdigest()

    def whitened_fingerprint(self) -> str:
        """The fingerprint of features that this has whitened, as an extractor with it has it: 64 hex digits."""
        return hashlib.sha256((self.fingerprint + self.digest()).encode()).hexdigest()

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a safetensors file, completely or not at all.

        Args:
            path: of the file.
            overwrite: allow replacing an existing file.

        Raises:
            InputError: the file cannot be written, or exists and `overwrite` is not set.
        """
        from safetensors.torch import save

        tensors = {"mean": self.mean.contiguous(), "projection": self.projection.contiguous()}
        content = save(tensors, {"kind": "whitening", "fingerprint": self.fingerprint})
        with atomic_file(Path(path), overwrite) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        """Read a file that `save` wrote.

        Raises:
            ModelError: there is no such file, or it is not a whitening.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                notes, names = file.metadata() or {}, set(file.keys())
                if notes.get("kind") != "whitening" or names != {"mean", "projection"}:
                    raise ModelError(f"{path}: not a whitening of this package")
                mean, projection = file.get_tensor("mean").float(), file.get_tensor("projection").float()
        except (OSError, SafetensorError) as err:
            raise ModelError(f"{path}: cannot be read as a whitening ({str(err).splitlines()[0]})") from err
        good = mean.ndim == 1 and projection.ndim == 2 and len(mean) == len(projection)
        if not good or not (mean.isfinite().all() and projection.isfinite().all()):
            raise ModelError(f"{path}: a whitening whose numbers do not fit each other")
        return cls(mean, projection, str(notes.get("fingerprint", "")))
