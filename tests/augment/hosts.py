"""The three transforms behind one face: a batch of NumPy images in, the same out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import albumentations as A
import numpy as np
import torch
from torchvision import tv_tensors

from maerestore.augment import albumentations as of_albumentations
from maerestore.augment import kornia as of_kornia
from maerestore.augment import torchvision as of_torchvision


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) -> (N, C, H, W)."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()


def as_array(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True)
class Host:
    """One library's way of calling.

    Attributes:
        transform: its class.
        bytes: whether it takes uint8.
    """

    transform: Any
    bytes: bool = True

    def views(self, transform: Any, images: np.ndarray, seed: int | None = 0) -> np.ndarray:
        raise NotImplementedError


class Albumentations(Host):
    def views(self, transform, images, seed=0):
        if seed is not None:
            transform.set_random_seed(seed)
        # One image at a time, as a data set calls it.
        return np.stack([transform(image=image)["image"] for image in images])


class Torchvision(Host):
    def views(self, transform, images, seed=0):
        if seed is not None:
            torch.manual_seed(seed)
        return as_array(transform(tv_tensors.Image(as_tensor(images))).as_subclass(torch.Tensor))


class Kornia(Host):
    def views(self, transform, images, seed=0):
        if seed is not None:
            torch.manual_seed(seed)
        return as_array(transform(as_tensor(images)))


HOSTS = {
    "albumentations": Albumentations(of_albumentations.MAEAugment),
    "torchvision": Torchvision(of_torchvision.MAEAugment),
    "kornia": Kornia(of_kornia.MAEAugment, bytes=False),
}


def photos(n: int = 2, height: int = 96, width: int = 96, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth pictures with some noise: (n, height, width, channels), uint8, or float32 in [0, 1]."""
    rng = np.random.default_rng(n + height + width + channels)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(6 * (i + 1) * x + 4 * y * (c + 1)) for i in range(n) for c in range(channels)]
    images = 0.5 + 0.4 * np.stack(waves).reshape(n, channels, height, width).transpose(0, 2, 3, 1)
    images = (images + rng.normal(0, 0.02, images.shape)).clip(0, 1)
    return (images * 255).round().astype(np.uint8) if dtype == np.uint8 else images.astype(dtype)


def hidden_patches(image: np.ndarray, view: np.ndarray, grid: tuple[int, int] = (8, 8)) -> np.ndarray:
    """Which patches of (H, W, C) differ: bool (down, across)."""
    changed = (image != view).any(-1)
    rows = [np.flatnonzero(np.arange(changed.shape[0]) * grid[0] // changed.shape[0] == i) for i in range(grid[0])]
    columns = [np.flatnonzero(np.arange(changed.shape[1]) * grid[1] // changed.shape[1] == i) for i in range(grid[1])]
    return np.array([[changed[np.ix_(r, c)].any() for c in columns] for r in rows])


__all__ = ["HOSTS", "A", "Host", "as_array", "as_tensor", "hidden_patches", "photos"]
