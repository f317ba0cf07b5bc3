"""How opaque the fill of an erased hole is.

A hole that was erased is transparent, and a fill that kept its alpha could not be seen. Such a hole becomes as opaque
as its visible surroundings. Other holes keep the alpha of each pixel: a mask over the edge of a cut-out keeps its
outline, and glass or smoke stays as transparent as it was. A hole counts as erased

- if its mean opacity is less than half of that of its surroundings, or a clearly cut-out part of it is (a patch or a
  stroke in a mask that was grown over the rim), with few pixels in between, or with a soft edge and nothing else in
  between (`maerestore.image.soft_edge`); and
- if at most a tenth of its rim is transparent.
"""

from __future__ import annotations

import cv2
import numpy as np

from maerestore.image.box import row_bands
from maerestore.image.canvas import Canvas
from maerestore.image.soft_edge import soft_edge
from maerestore.inpaint.boxes import grow, slices
from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.inpaint.regions import Region, find_regions

LEAST, MOST = 2, 64  # pixels around a hole that its opacity is taken from
FAINT = 0.1  # least share of a hole, of an erased part less than half as opaque as the surroundings
BETWEEN = 0.5  # most that lies between half and nine tenths of their opacity, as a share of the erased part
GONE = 0.1  # opacity, as a share of the surroundings', that is next to nothing
SOLID = 0.1  # least share of a patch or stroke that lies a pixel inside of it; of noise next to none does
SOFT = 0.9  # least share of the soft edge in what lies between half and full opacity, of a hole that has one
CLEAR_RIM = 0.1  # most of the rim of an erased hole that may be transparent


def raised_opacities(photo: Canvas, mask: np.ndarray, regions: list[Region]) -> list[np.ndarray | None]:
    """The opacity of erased holes once they are filled.

    Args:
        photo: the photo.
        mask: (H, W) bool, True = hole.
        regions: its holes, grouped.

    Returns:
        for each region (h, w) float32 over its box, NaN where alpha stays as it is; None where it does everywhere.
    """
    return [_of_region(photo, mask, region) for region in regions]


def stays_transparent(photo: Canvas, mask: np.ndarray) -> bool:
    """Whether any pixel is less than opaque once the holes are filled.

    Args:
        photo, mask: as for `raised_opacities`.
    """
    for band in row_bands(photo.size):
        alpha = photo.alpha(band)
        if alpha is None:
            return False
        if (alpha[~mask[slices(band)]] < 1).any():
            return True
    regions = find_regions(mask)
    for region, raised in zip(regions, raised_opacities(photo, mask, regions), strict=True):
        alpha = photo.alpha(region.box)
        if alpha is not None and raised is not None:
            alpha = np.where(np.isnan(raised), alpha, raised)
        if alpha is not None and (alpha[region.mask] < 1).any():
            return True
    return False


def _of_region(photo: Canvas, mask: np.ndarray, region: Region) -> np.ndarray | None:
    # A soft brush that erases to half or more as far as the middle of a hole leaves an edge of up to that width.
    reach = int(np.clip(np.ceil(region.thickness / 2), LEAST, MOST))
    box = grow(region.box, reach, (mask.shape[0], mask.shape[1]))
    alpha = photo.alpha(box)
    if alpha is None:
        return None
    holes = np.zeros(alpha.shape, bool)
    holes[slices(region.box, box)] = region.mask
    known = ~mask[slices(box)]
    shown = known & (alpha > 0)
    if (alpha[holes] >= 0.5).all() or not shown.any():
        return None
    erased = _erased(holes, known, alpha)
    if not erased.any():
        return None
    # The most opaque within reach: the rim itself may be half erased.
    around = cv2.dilate(np.where(shown, alpha, 0).astype(np.float32), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rim = cv2.dilate(erased.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & shown
    level = around[rim]
    if level.size and level.min() == level.max():
        continued = np.full(alpha.shape, level[0], np.float32)
    else:
        continued = harmonic_fill(around[..., None], ~shown)[..., 0]
    raised = np.where(erased, np.maximum(alpha, continued).clip(0, 1), np.nan).astype(np.float32)
    return raised[slices(region.box, box)]


def _erased(holes: np.ndarray, known: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(h, w) bool, the pixels of the holes that were erased.

    Args:
        holes: (h, w) bool.
        known: (h, w) bool, the pixels outside of all holes.
        alpha: (h, w) in [0, 1].
    """
    count, labels = cv2.connectedComponents(holes.astype(np.uint8), connectivity=8)
    around = float(np.median(alpha[known & (alpha > 0)]))
    weak = alpha < 0.5 * around
    inner = cv2.erode((holes & weak).astype(np.uint8), np.ones((3, 3), np.uint8))

    def in_each(what: np.ndarray) -> np.ndarray:
        return np.bincount(labels[holes], what[holes], minlength=count)

    opaque, solid = in_each(alpha), in_each(inner)
    gone, faint, most = in_each(alpha < GONE * around), in_each(weak), in_each(alpha < 0.9 * around)
    pixels = np.bincount(labels[holes], minlength=count)
    visible, clear = np.zeros((2, count))
    height, width = holes.shape
    for dy, dx in ((0, 1), (1, 0)):
        first, second = np.s_[: height - dy, : width - dx], np.s_[dy:, dx:]
        for hole, other in ((first, second), (second, first)):
            touches = holes[hole] & known[other]
            seen = touches & (alpha[other] > 0)
            visible += np.bincount(labels[hole][seen], minlength=count)
            clear += np.bincount(labels[hole][touches & ~seen], minlength=count)
    clear_cut = (2 * gone > faint) | (solid > SOLID * faint)
    cut_out = clear_cut & (faint > FAINT * pixels) & (most - faint < BETWEEN * faint)
    erased = (2 * opaque < around * pixels) | cut_out | _has_soft_edge(holes, alpha, labels, count)
    return np.asarray(holes & (erased & (clear <= CLEAR_RIM * (clear + visible)))[labels])


def _has_soft_edge(holes: np.ndarray, alpha: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: the holes, by their labels, that cover all of what was erased with a soft brush, and little else.

    Half of the outline of a cut-out looks as such an edge does: so no part of it may lie outside.
    """
    parts, part = cv2.connectedComponents((alpha < 1).astype(np.uint8), connectivity=8)
    leaves = np.bincount(part[~holes], minlength=parts) > 0  # part 0 is what is opaque
    edge = soft_edge(np.where(leaves[part], 1, alpha)) & holes
    between = holes & (alpha >= 0.5) & (alpha < 1)
    found, most = (np.bincount(labels[what], minlength=count) for what in (edge, between))
    return (found > 0) & (found >= SOFT * most)
