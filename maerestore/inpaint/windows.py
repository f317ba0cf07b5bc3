"""Where to look: holes grouped into regions, and the windows of photo around them that the model sees.

The cost of a fill follows from what is decided here. It depends on the holes and their surroundings only, never on the
size of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CELL = 8  # holes closer than about this many pixels are filled together
BLOCK = 512  # side in pixels of what is given texture at once: bounds the memory
CONTEXT = 2.5  # side of a window, as a multiple of how thick the hole is

Box = tuple[int, int, int, int]
"""(top, left, bottom, right), the last two exclusive, in pixels of the photo."""


@dataclass(frozen=True)
class Region:
    """Holes that lie close together.

    Attributes:
        box: what they span.
        mask: (h, w) bool over `box`, True = hole.
        thickness: twice the distance in pixels from the deepest hole pixel to the nearest known one.
    """

    box: Box
    mask: np.ndarray
    thickness: float


def cut(box: Box, frame: Box = (0, 0, 0, 0)) -> tuple[slice, slice]:
    """The index of a box in an array that covers `frame`, or the whole photo."""
    return np.s_[box[0] - frame[0] : box[2] - frame[0], box[1] - frame[1] : box[3] - frame[1]]


def grow(box: Box, margin: int, photo_size: tuple[int, int]) -> Box:
    """A box with a margin on every side, as far as the photo goes; `photo_size` is (height, width)."""
    return (
        max(0, box[0] - margin),
        max(0, box[1] - margin),
        min(photo_size[0], box[2] + margin),
        min(photo_size[1], box[3] + margin),
    )


def shared(one: Box, other: Box) -> Box:
    """What two boxes that meet have in common."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask (H, W) bool with its holes grown by so many pixels on every side; itself where they do not grow."""
    if not pixels or not mask.any():
        return mask
    known = (~mask).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels)


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
    rows, columns = -(-height // CELL), -(-width // CELL)
    # Labelled on a grid of cells: a 100-megapixel mask costs little, and neighbouring specks become one region.
    occupied = np.zeros((rows, columns), np.uint8)
    whole = mask[: height // CELL * CELL, : width // CELL * CELL]
    if whole.size:
        blocks = whole.reshape(height // CELL, CELL, width // CELL, CELL)
        occupied[: height // CELL, : width // CELL] = blocks.any(axis=(1, 3))
    for i in range(columns if height % CELL else 0):
        occupied[-1, i] |= mask[height // CELL * CELL :, i * CELL : (i + 1) * CELL].any()
    for i in range(rows if width % CELL else 0):
        occupied[i, -1] |= mask[i * CELL : (i + 1) * CELL, width // CELL * CELL :].any()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(occupied, connectivity=8)
    regions = []
    for label in range(1, count):
        left, top, w, h = (int(v) for v in stats[label, :4])
        cells = labels[top : top + h, left : left + w] == label
        box = (top * CELL, left * CELL, min(height, (top + h) * CELL), min(width, (left + w) * CELL))
        inside = np.repeat(np.repeat(cells, CELL, 0), CELL, 1)[: box[2] - box[0], : box[3] - box[1]]
        regions.append(_tight(mask[box[0] : box[2], box[1] : box[3]] & inside, box, (height, width)))
    return sorted(regions, key=lambda region: region.box)


def _tight(mask: np.ndarray, box: Box, photo_size: tuple[int, int]) -> Region:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    mask = mask[top:bottom, left:right]
    tight = (box[0] + top, box[1] + left, box[0] + bottom, box[1] + right)
    return Region(tight, mask, 2 * float(_distance(mask, tight, photo_size).max()))


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
    return _distance(unknown[cut(box)], box, photo_size)[cut(region.box, box)]


def plan_windows(region: Region, photo_size: tuple[int, int], model_size: int) -> list[Box]:
    """Windows for the model that together cover a region, each with known surroundings.

    A compact hole gets one window; one that is long for its thickness gets a row of overlapping ones, so that a
    scratch across the photo is seen at full resolution.

    Args:
        region: the holes.
        photo_size: (height, width) of the photo.
        model_size: side in pixels that the model works at; windows are not smaller where the photo allows.

    Returns:
        boxes within the photo.
    """
    top, left, bottom, right = region.box
    h, w = bottom - top, right - left
    side = _rounded_side(max(model_size, CONTEXT * region.thickness), model_size)
    if max(h, w) <= 0.6 * side:
        # Centred as well as a lattice of an eighth of the side allows: a hole next to this one then shares the window.
        pitch = side // 8
        return [_square((top + bottom) // (2 * pitch) * pitch, (left + right) // (2 * pitch) * pitch, side, photo_size)]
    # Centres half a side apart, the same for all regions; those with hole in the middle half that they answer for.
    half = side // 2
    boxes: list[Box] = []
    for y in range(top // half * half, bottom, half):
        for x in range(left // half * half, right, half):
            rows, columns = (
                slice(max(0, y - top), max(0, y + half - top)),
                slice(max(0, x - left), max(0, x + half - left)),
            )
            if region.mask[rows, columns].any():
                boxes.append(_square(y + half // 2, x + half // 2, side, photo_size))
    return list(dict.fromkeys(boxes))  # near the photo's borders several centres share a window


def surroundings(region: Region) -> int:
    """How many pixels around a region's blocks its texture is looked for in."""
    return int(np.clip(region.thickness, 48, 160))


def plan_blocks(region: Region) -> list[Box]:
    """Parts of a region that are small enough to be drawn at once: boxes with hole in them, from top to bottom."""
    top, left, bottom, right = region.box
    boxes = []
    for y in range(top, bottom, BLOCK):
        for x in range(left, right, BLOCK):
            box = (y, x, min(bottom, y + BLOCK), min(right, x + BLOCK))
            if region.mask[cut(box, region.box)].any():
                boxes.append(box)
    return boxes


def _rounded_side(side: float, model_size: int) -> int:
    """The next of the sides that windows may have, a factor of 2^(1/4) apart: few sizes, so that windows coincide."""
    steps = int(np.ceil(4 * np.log2(side / model_size) - 1e-6))
    return 8 * int(np.ceil(model_size * 2 ** (steps / 4) / 8 - 1e-6))


def _square(row: int, column: int, side: int, photo_size: tuple[int, int]) -> Box:
    """A square of the photo around a point, shifted inside; cut where the photo is narrower."""
    height, width = min(side, photo_size[0]), min(side, photo_size[1])
    top = min(max(0, row - height // 2), photo_size[0] - height)
    left = min(max(0, column - width // 2), photo_size[1] - width)
    return top, left, top + height, left + width
