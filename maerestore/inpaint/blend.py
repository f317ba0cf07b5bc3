"""Join the smooth continuation of the rim and the autoencoder's fill, by distance from what is known.

At the rim the harmonic fill is exact and has no seam; deep inside a hole it knows nothing. How far to trust which is
measured, not guessed: `BlendCurve` holds, for each distance, the share of the autoencoder's fill that left the smallest
error on photographs kept aside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maerestore.image.box import Box
from maerestore.inpaint.boxes import intersection, slices
from maerestore.inpaint.regions import Region


@dataclass(frozen=True)
class BlendCurve:
    """The share of the autoencoder in the fill.

    Attributes:
        distance: knots, ascending, in pixels of the model (photo pixels times the window's scale).
        share: at each knot, in [0, 1]; straight lines between, constant beyond.

    Example:
        >>> BlendCurve((0.0, 8.0), (0.0, 1.0))(np.array([0.0, 2.0, 100.0]))
        array([0.  , 0.25, 1.  ])
    """

    # For a model that comes without a fitted curve: ramps over a quarter of a 224 px window's patch row.
    distance: tuple[float, ...] = field(default=(0.0, 16.0))
    share: tuple[float, ...] = field(default=(0.0, 1.0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "distance", tuple(float(v) for v in self.distance))
        object.__setattr__(self, "share", tuple(float(v) for v in self.share))
        if len(self.distance) != len(self.share) or not self.distance:
            raise ValueError(f"{len(self.distance)} distances for {len(self.share)} shares")
        ascending = all(math.isfinite(d) for d in self.distance) and list(self.distance) == sorted(self.distance)
        if not ascending or not all(0 <= s <= 1 for s in self.share):
            raise ValueError("a blend curve takes finite, ascending distances and shares in [0, 1]")

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Shares for distances in model pixels, of the same shape."""
        return np.interp(distance, self.distance, self.share)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"distance": list(self.distance), "share": list(self.share)}


def merge_tiles(
    region: Region, boxes: Sequence[Box], pictures: Sequence[np.ndarray], scales: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Average overlapping windows over a region; each counts most in its middle.

    Args:
        region: the holes.
        boxes: windows that together cover it.
        pictures: (h, w, 3) float32 for each box.
        scales: model pixels per photo pixel, for each box.

    Returns:
        the fill (h, w, 3) float32 over the region's box, and the scale (h, w) float32 at each pixel.
    """
    top, left, bottom, right = region.box
    total = np.zeros((bottom - top, right - left, 3), np.float32)
    weights = np.zeros((bottom - top, right - left), np.float32)
    scale_sum = np.zeros_like(weights)
    for box, picture, scale in zip(boxes, pictures, scales, strict=True):
        both = t, l, b, r = intersection(region.box, box)  # noqa: E741
        if t >= b or l >= r:
            continue
        hat = np.minimum.outer(_hat(box[0], box[2], t, b), _hat(box[1], box[3], l, r))
        here = slices(both, region.box)
        total[here] += hat[..., None] * picture[slices(both, box)]
        weights[here] += hat
        scale_sum[here] += hat * scale
    weights = np.maximum(weights, 1e-12)
    return total / weights[..., None], scale_sum / weights


def _hat(low: int, high: int, start: int, stop: int) -> np.ndarray:
    """Distance to the nearer end of [low, high), squared, at the pixels start to stop."""
    x = np.arange(start, stop, dtype=np.float32) + 0.5
    return (np.minimum(x - low, high - x) / (high - low)) ** 2


def blend(
    harmonic: np.ndarray,
    coarse: np.ndarray,
    distance: np.ndarray,
    scale: np.ndarray,
    curve: BlendCurve,
    feather: int = 0,
) -> np.ndarray:
    """The fill of a region.

    Args:
        harmonic, coarse: (h, w, 3) float32.
        distance: (h, w), photo pixels to the nearest known pixel.
        scale: (h, w), model pixels per photo pixel.
        curve: share of `coarse` by distance.
        feather: within this many photo pixels of the rim the share ramps up from zero, on top of the curve.

    Returns:
        (h, w, 3) float32.
    """
    share = curve(distance * scale)
    if feather > 0:
        share = share * np.clip(distance / feather, 0, 1)
    return (harmonic + share[..., None] * (coarse - harmonic)).astype(np.float32)
