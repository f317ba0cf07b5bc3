"""A window of the photo as the networks get it: scaled to whole patches, with its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from maerestore.image.box import Box

BATCH = 8  # windows a pass

Hiding = Callable[[Box, tuple[int, int]], np.ndarray]
"""Chooses known pixels that the model is not shown: (box of a window, (height, width) at model size) -> (h, w) bool."""


@dataclass(frozen=True)
class ModelWindow:
    """A part of the photo, to be filled by a network.

    Attributes:
        box: its place in the photo.
        image: (h, w, 3) float32 RGB in [0, 1], the harmonic fill in the hole.
        mask: (h, w) bool, True = unknown.
        wanted: (h, w) bool, the unknown pixels whose fill is used; None for all of them.
        size: the autoencoder sees about this many pixels squared of it; None for as many as it was made for.
    """

    box: Box
    image: np.ndarray
    mask: np.ndarray
    wanted: np.ndarray | None = None
    size: int | None = None

    def seen_shape(self, size: int, patch_size: int) -> tuple[int, int]:
        """The (height, width) that an autoencoder made for `size` squared pixels sees it at."""
        return model_shape(self.mask.shape[0], self.mask.shape[1], self.size or size, patch_size)


def model_shape(height: int, width: int, size: int, patch_size: int) -> tuple[int, int]:
    """The (height, width) that a window is scaled to: about `size` squared pixels, whole patches."""
    scale = size / (height * width) ** 0.5
    shape = [max(patch_size, round(side * scale / patch_size) * patch_size) for side in (height, width)]
    return shape[0], shape[1]


def window_scale(box: Box, size: int, patch_size: int) -> float:
    """Model pixels per photo pixel in a window, for arguments as of `model_shape`."""
    height, width = box[2] - box[0], box[3] - box[1]
    shape = model_shape(height, width, size, patch_size)
    return float((shape[0] * shape[1] / (height * width)) ** 0.5)


def at_model_size(window: ModelWindow, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A window at the model's size: image (h, w, 3) and mask (h, w) bool."""
    if window.mask.shape == shape:
        return window.image, window.mask
    larger = shape[0] * shape[1] > window.mask.size
    image = resize(window.image, shape, cv2.INTER_CUBIC if larger else cv2.INTER_AREA)
    share = resize(window.mask.astype(np.float32), shape, cv2.INTER_LINEAR if larger else cv2.INTER_AREA)
    return image.clip(0, 1), share >= 0.5 if (share < 0.5).any() else share > 0.999  # all of it, but for rounding


def resize(array: np.ndarray, shape: tuple[int, int], interpolation: int) -> np.ndarray:
    """`cv2.resize` to (height, width)."""
    return np.asarray(cv2.resize(array, (shape[1], shape[0]), interpolation=interpolation))
