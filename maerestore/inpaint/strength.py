"""How strong the finest texture of a photo is, place by place, and how strong it should be in a hole.

Texture is what a narrow low-pass takes away; its strength is the root of its mean square. What is known tells it; into
a hole it is continued as the harmonic fill continues colours.
"""

from __future__ import annotations

import cv2
import numpy as np

from maerestore.inpaint.harmonic import harmonic_fill

FINE = 1.0  # sigma in pixels of the low-pass
NEAR = 2.0  # sigma in pixels, of the mean strength at a place that is known
CELL = 4  # pixels; into a hole it is continued in squares of this side
AROUND = 1.0  # sigma in cells, of the mean that is continued; with more a far edge counts as texture of a flat rim
EXPECTED_AROUND = 2.0  # the same, of what known patches are compared by: there a steadier mean finds better ones
STRUCTURE = (1.0, 5.0)  # sigmas in pixels of the low-passes between which contrast is that of things, not of texture
STRUCTURE_WITHIN = 4.0  # sigma in pixels, of the mean of that contrast
FEW = 0.05  # share of known pixels near a place below which its strength is continued from others


def energy_of(image: np.ndarray) -> np.ndarray:
    """The square of the texture of (h, w, 3) float32 RGB: (h, w)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray((gray - cv2.GaussianBlur(gray, (0, 0), FINE)) ** 2)


def chroma_of(image: np.ndarray) -> np.ndarray:
    """What (h, w, 3) float32 RGB has beside its brightness: (h, w, 3), each channel less the gray of the pixel."""
    return np.asarray(image - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None])


def chroma_energy(chroma: np.ndarray, sigma: float) -> np.ndarray:
    """The mean square of what a low-pass of `sigma` pixels takes from chroma (h, w, 3): (h, w)."""
    fine = chroma - cv2.GaussianBlur(chroma, (0, 0), sigma)
    return np.einsum("hwc,hwc->hw", fine, fine) / np.float32(3)


def undisturbed(known: np.ndarray) -> np.ndarray:
    """(h, w) bool: known pixels whose low-pass sees known ones only, or nearly so."""
    return known & (cv2.dilate((~known).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def mean_near(values: np.ndarray, weight: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian means of (h, w) in which pixels count as `weight` (h, w) float32 says, and its own mean."""
    near = cv2.GaussianBlur(weight, (0, 0), sigma)
    return cv2.GaussianBlur(values * weight, (0, 0), sigma) / np.maximum(near, 1e-6), near


def contrast_of(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How strong what is coarser than texture is around each pixel of (h, w, 3) RGB, counted by `weight`: (h, w)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    finer, coarser = (mean_near(gray, weight, sigma)[0] for sigma in STRUCTURE)
    return np.sqrt(mean_near((finer - coarser) ** 2, weight, STRUCTURE_WITHIN)[0])


def mean_by_cell(values: np.ndarray, chosen: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian means of (h, w) over the chosen pixels, one for each cell, and the share chosen near it."""
    size = (max(1, values.shape[1] // CELL), max(1, values.shape[0] // CELL))

    def spread(pixels: np.ndarray) -> np.ndarray:
        cells = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(cells, (0, 0), sigma))

    weight = spread(chosen)
    return spread(values * chosen) / np.maximum(weight, 1e-6), weight


def continued(values: np.ndarray, chosen: np.ndarray, around: float = AROUND) -> np.ndarray | None:
    """The mean of the chosen pixels of (h, w) for each cell, continued harmonically where there are too few.

    Returns:
        (cells down, cells across) float32; None where too few are chosen everywhere.
    """
    wanted, weight = mean_by_cell(values, chosen, around)
    unknown = weight < FEW
    if unknown.all():
        return None
    return np.asarray(harmonic_fill(wanted[..., None], unknown)[..., 0])


def texture_strength(image: np.ndarray, hole: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The strength of texture where it is known, and the one to be expected in the hole.

    Args:
        image: (h, w, 3) float32 RGB in [0, 1].
        hole: (h, w) bool.
        known: (h, w) bool, pixels that tell.

    Returns:
        (h, w) float32, in the unit of `image`; zeros where nothing is known that is not beside the hole.

    Example:
        >>> board = (np.indices((32, 32)).sum(0) % 2 * 0.2).astype(np.float32)
        >>> photo, hole = np.repeat(board[..., None], 3, 2), np.zeros((32, 32), bool)
        >>> hole[8:24, 8:24] = True
        >>> photo[hole] = 0.1  # smooth in the hole: as strong as around is what is expected
        >>> bool(abs(texture_strength(photo, hole, ~hole) - 0.1).max() < 0.02)
        True
    """
    energy, telling = energy_of(image), undisturbed(known)
    mean, weight = mean_near(energy, telling.astype(np.float32), NEAR)
    local, told = np.sqrt(mean), ~hole & (weight >= FEW)
    expected = continued(local, told, EXPECTED_AROUND)
    if expected is None:
        return np.zeros(hole.shape, np.float32)
    expected = cv2.resize(expected, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(told, local, expected).astype(np.float32)
