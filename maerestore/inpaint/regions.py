"""Holes that lie close together are filled together: regions, and how far their pixels are from known ones."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from maerestore.image.box import Box, span_of
from maerestore.inpaint.boxes import grow, slices

CELL = 8  # holes closer than about this many pixels are filled together
TILE, SMALL_TILE = 1024, 128  # pixels; sides of the squares that long thin holes are cut by, and many of them
MUCH = 16  # squares of 1024 pixels, that is: boxes of more pixels in all are cut by smaller squares
SPARSE = 0.2  # largest share of hole in the box of one that is cut
REACH = 4.0  # times its thickness: how far along a long thin hole its colours depend on each other (to exp(-4 pi))


@dataclass(frozen=True)
class Region:
    """Holes that lie close together.

    Attributes:
        box: what they span.
        mask: (h, w) bool over `box`, True = hole.
        thickness: twice the distance in pixels from the deepest hole pixel to the nearest known one.
        whole: what it is a part of, where `cut` gave it.
    """

    box: Box
    mask: np.ndarray
    thickness: float
    whole: Region | None = None

    @property
    def reach(self) -> int:
        """Pixels around the box that decide about its smooth fill."""
        return int(np.ceil(REACH * self.thickness)) if self.whole else 1


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask (H, W) bool with its holes grown by so many pixels on every side; itself where they do not grow."""
    if not pixels or not mask.any():
        return mask
    # Farther from the holes nothing grows: of a large photo with a small hole only a small part is looked at.
    near = slices(grow(span_of(mask), pixels, (mask.shape[0], mask.shape[1])))
    known = (~mask[near]).astype(np.uint8)
    grown = mask.copy()
    grown[near] = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels
    return grown


def find_regions(mask: np.ndarray) -> list[Region]:
    """Group a mask's holes.

    Args:
        mask: (H, W) bool, True = hole.

    Returns:
        regions from top to bottom, each hole pixel in exactly one.

    Example:
        >>> mask = np.zeros((64, 64), bool); mask[2:4, 2:4] = mask[40:60, 30:50] = True
        >>> [r.box for r in find_regions(mask)]
        [(2, 2, 4, 4), (40, 30, 60, 50)]
    """
    height, width = mask.shape
    # Labelled on a grid of cells: a 100-megapixel mask costs little, and neighbouring specks become one region.
    occupied = np.logical_or.reduceat(mask, np.arange(0, height, CELL), axis=0)
    occupied = np.logical_or.reduceat(occupied, np.arange(0, width, CELL), axis=1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(occupied.astype(np.uint8), connectivity=8)
    regions = []
    for label in range(1, count):
        left, top, w, h = (int(v) for v in stats[label, :4])
        cells = labels[top : top + h, left : left + w] == label
        box = (top * CELL, left * CELL, min(height, (top + h) * CELL), min(width, (left + w) * CELL))
        inside = np.repeat(np.repeat(cells, CELL, 0), CELL, 1)[: box[2] - box[0], : box[3] - box[1]]
        regions.append(_tight(mask[box[0] : box[2], box[1] : box[3]] & inside, box, (height, width)))
    return sorted(regions, key=lambda region: region.box)


def cut_all(regions: list[Region]) -> list[Region]:
    """Cut what is long and thin, by smaller squares where it is much: rain is a hundred boxes as large as the photo.

    Args:
        regions: of one photo.

    Returns:
        what `cut` makes of each.

    Example:
        >>> rain = [Region((0, x, 1000, x + 1000), np.eye(1000, dtype=bool), 2.0) for x in range(0, 2000, 100)]
        >>> len(cut_all(rain[:10])), len(cut_all(rain)), cut_all(rain)[1].box
        (10, 308, (128, 128, 256, 256))
    """
    parts = [part for region in regions for part in cut(region)]
    if sum(part.mask.size for part in parts) <= MUCH * TILE**2:
        return parts
    return [part for region in regions for part in cut(region, _small_tile(region.thickness))]


def cut(region: Region, side: int | None = None) -> list[Region]:
    """Cut a region that is long and thin into squares: a scratch across a photo has a box as large as the photo.

    Args:
        region: the holes.
        side: of the squares, in pixels; None for `TILE`.

    Returns:
        parts of at most `side` x `side` pixels; the region itself where its box is small or well filled.

    Example:
        >>> scratch = Region((0, 0, 3000, 3000), np.eye(3000, dtype=bool), 2.0)
        >>> [part.box for part in cut(scratch)][:2]
        [(0, 0, 1024, 1024), (1024, 1024, 2048, 2048)]
    """
    side = TILE if side is None else side
    top, left, bottom, right = region.box
    dense = region.mask.mean() > SPARSE or region.thickness > side / (2 * REACH)
    if dense or region.mask.size <= 4 * side**2:
        return [region]
    parts = []
    for y in range(top // side * side, bottom, side):
        for x in range(left // side * side, right, side):
            tile = (max(y, top), max(x, left), min(y + side, bottom), min(x + side, right))
            mask = region.mask[slices(tile, region.box)]
            if mask.any():
                box, mask = _cropped(mask, tile)
                parts.append(Region(box, mask, region.thickness, whole=region))
    return parts


def _small_tile(thickness: float) -> int:
    """The side of squares that are eight times as wide as what is looked at around them, or more."""
    side = SMALL_TILE
    while side < min(TILE, 16 * REACH * thickness):
        side *= 2
    return side


def _tight(mask: np.ndarray, box: Box, photo_size: tuple[int, int]) -> Region:
    box, mask = _cropped(mask, box)
    return Region(box, mask, 2 * float(_distance(mask, box, photo_size).max()))


def _cropped(mask: np.ndarray, box: Box) -> tuple[Box, np.ndarray]:
    """A mask that covers a box, and the box, without the rows and columns around that are empty."""
    top, left, bottom, right = span = span_of(mask)
    return (box[0] + top, box[1] + left, box[0] + bottom, box[1] + right), mask[slices(span)]


def _distance(mask: np.ndarray, box: Box, photo_size: tuple[int, int]) -> np.ndarray:
    """Distance in pixels from each hole pixel to the nearest known one; beyond the photo's border nothing is known."""
    padded = np.pad(mask, 1).astype(np.uint8)
    padded[0, :] |= box[0] == 0
    padded[-1, :] |= box[2] == photo_size[0]
    padded[:, 0] |= box[1] == 0
    padded[:, -1] |= box[3] == photo_size[1]
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def distance_to_known(region: Region, photo_size: tuple[int, int], unknown: np.ndarray | None = None) -> np.ndarray:
    """How far each hole pixel of a region lies from the nearest known one.

    Args:
        region: the holes.
        photo_size: (height, width) of the photo, beyond whose border nothing is known.
        unknown: (H, W) bool, what is not known either besides the region; None for nothing. It is looked at as far
            around the region as that is thick.

    Returns:
        (h, w) float32 over the region's box, photo pixels.
    """
    if unknown is None:
        return _distance(region.mask, region.box, photo_size)
    box = grow(region.box, int(np.ceil(region.thickness)) + 1, photo_size)
    return _distance(unknown[slices(box)], box, photo_size)[slices(region.box, box)]
