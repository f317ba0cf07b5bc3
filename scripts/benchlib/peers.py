"""Classical fills to compare with; each takes (H, W, 3) uint8 RGB and (H, W) bool, and returns (H, W, 3) uint8."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from skimage.restoration import inpaint_biharmonic

from maerestore.inpaint.detail import synthesize
from maerestore.inpaint.harmonic import harmonic_fill

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]

RADIUS = 3  # of OpenCV's methods, in pixels: the value of its tutorials


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fast marching (Telea 2004)."""
    return np.asarray(cv2.inpaint(image, mask.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA))


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's fluid dynamics (Bertalmio et al. 2001)."""
    return np.asarray(cv2.inpaint(image, mask.astype(np.uint8), RADIUS, cv2.INPAINT_NS))


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """scikit-image's biharmonic equation (Damelin and Hoang 2018)."""
    return _paste(image, mask, inpaint_biharmonic(image.astype(np.float64) / 255, mask, channel_axis=-1))


def harmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Laplace's equation, solved exactly or, in holes of more than 100,000 pixels, up to a tenth of a level."""
    return _paste(image, mask, harmonic_fill(image.astype(np.float32) / 255, mask))


def patchmatch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """PatchMatch with voting (Barnes et al. 2009, Wexler et al. 2007), started from the harmonic fill."""
    start = harmonic_fill(image.astype(np.float32) / 255, mask)
    return _paste(image, mask, synthesize(start, mask, ~mask))


PEERS: dict[str, Method] = {
    "telea": telea,
    "navier-stokes": navier_stokes,
    "biharmonic": biharmonic,
    "harmonic": harmonic,
    "patchmatch": patchmatch,
}


def timed(method: Method, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Run a method: its fill, and its seconds (as it says itself where it works in another process)."""
    start = time.perf_counter()
    fill = method(image, mask)
    elapsed = time.perf_counter() - start
    return fill, getattr(method, "seconds", elapsed)


def _paste(image: np.ndarray, mask: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Round a fill in [0, 1] into the hole of the picture."""
    out = image.copy()
    out[mask] = (fill[mask].clip(0, 1) * 255).round().astype(np.uint8)
    return out
