"""The soft edge of an erased hole: the ramp that a soft brush, or a blurred selection, leaves around it.

What is half erased belongs to the hole: filled only as far as the alpha is below one half, it would keep a pale ring. A
photo's transparency has other reasons, too: the outline of a cut-out, glass, smoke. So a hole grows only

- in a photo more than half of which is fully opaque, and more than half of whose border: others are cut-outs, or
  transparent throughout;
- over pixels that are less than opaque, and connected to it through such pixels; and
- where all of those form a ramp: `WIDEST` pixels wide at most, and the more opaque the further from the hole. (Glass is
  as transparent everywhere, and smoke here and there.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .box import row_bands, span_of
from .canvas import Canvas

__all__ = ["grown_over_edge", "soft_edge"]

BoolArray = npt.NDArray[np.bool_]

HALF = np.float32(127.5 / 255)  # what is less opaque is the hole
NEARLY = 0.99  # opacity up to which a ramp is measured: the tail of a blur is long
WIDEST = 64  # pixels of a ramp; of its tail, as many again
THIN = 2  # pixels, on average, of one in which no rise can be measured: the smoothed outline of a hole
# Least by which the outer third of a ramp is more opaque than the inner one. A straight one has 0.33, that of a blur
# 0.32, smoke 0.25 at most.
RISE = 0.28


def grown_over_edge(photo: Canvas, hole: BoolArray) -> BoolArray:
    """A hole that a photo carries itself, grown over its soft edge.

    Args:
        photo: the photo.
        hole: (H, W) bool, its transparent pixels (alpha under 128).

    Returns:
        (H, W) bool; `hole` itself where it has no soft edge.

    Example:
        >>> from .photo import Photo
        >>> layer = np.full((1, 9, 2), 255, dtype=np.uint8)
        >>> layer[0, 3:7, 1] = (200, 0, 90, 250)
        >>> grown_over_edge(Photo(layer, "LA"), layer[..., 1] < 128).astype(int).tolist()
        [[0, 0, 0, 1, 1, 1, 1, 0, 0]]
    """
    if not hole.any():
        return hole
    height, width = hole.shape
    faint = np.zeros_like(hole)  # less than opaque
    for top, left, bottom, right in row_bands(photo.size):
        alpha = photo.alpha((top, left, bottom, right))
        if alpha is None:
            return hole
        faint[top:bottom] = alpha < 1
    border = np.concatenate([faint[0], faint[-1], faint[1:-1, 0], faint[1:-1, -1]])
    if 2 * np.count_nonzero(faint) >= faint.size or 2 * np.count_nonzero(border) >= border.size:
        return hole
    top, left, bottom, right = span_of(faint)
    top, left, bottom, right = max(0, top - 1), max(0, left - 1), min(height, bottom + 1), min(width, right + 1)
    alpha = photo.alpha((top, left, bottom, right))
    assert alpha is not None
    edge = soft_edge(alpha)
    if not edge.any():
        return hole
    grown = hole.copy()
    grown[top:bottom, left:right] |= edge
    return grown


def soft_edge(alpha: npt.NDArray[Any]) -> BoolArray:
    """The pixels of ramps around holes, whatever else the picture is.

    Args:
        alpha: (h, w) in [0, 1], with a pixel of what lies around the holes.

    Returns:
        (h, w) bool: less than opaque, and no hole.
    """
    import cv2  # costs a fifth of a second

    holes = alpha < HALF
    ramp = ~holes & (alpha < 1)
    if not holes.any() or not ramp.any() or (holes | ramp).all():
        return np.zeros_like(ramp)
    count, labels = cv2.connectedComponents((holes | ramp).astype(np.uint8), connectivity=8)
    with_hole = np.bincount(labels[holes], minlength=count) > 0
    from_holes = cv2.distanceTransform((~holes).astype(np.uint8), cv2.DIST_L2, 5)
    short = np.bincount(labels[ramp & (from_holes > 2 * WIDEST)], minlength=count) == 0
    slope = ramp & (alpha < NEARLY)
    of, level, to_hole = labels[slope], alpha[slope], from_holes[slope]
    to_opaque = cv2.distanceTransform((alpha < NEARLY).astype(np.uint8), cv2.DIST_L2, 5)[slope]
    place, wide = to_hole / (to_hole + to_opaque), to_hole + to_opaque - 1

    def in_each(chosen: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        return np.bincount(of[chosen], None if weights is None else weights[chosen], minlength=count)

    inner, outer = place < 1 / 3, place > 2 / 3
    with np.errstate(divide="ignore", invalid="ignore"):  # neither third has pixels where a ramp is thin
        rise = in_each(outer, level) / in_each(outer) - in_each(inner, level) / in_each(inner)
    pixels = np.bincount(of, minlength=count)
    thin = np.bincount(of, wide, minlength=count) <= THIN * pixels
    is_edge = with_hole & short & (in_each(wide > WIDEST) == 0) & (thin | (rise >= RISE))
    found = np.zeros_like(ramp)
    found[ramp] = is_edge[labels[ramp]]
    return found
