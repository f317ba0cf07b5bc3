"""The windows of photo that the model sees around a region, and the blocks that texture is drawn in.

The cost of a fill follows from what is decided here. It depends on the holes and their surroundings only, never on the
size of the photo. (What a long scratch covers is looked at as a whole where the photo is transparent somewhere.)
"""

from __future__ import annotations

import numpy as np

from maerestore.image.box import Box
from maerestore.inpaint.boxes import grow, intersection, slices
from maerestore.inpaint.regions import Region

BLOCK = 512  # side in pixels of what is given texture at once: bounds the memory
CONTEXT = 2.5  # side of a window, as a multiple of how thick the hole is
# Side in pixels of the windows around specks, holes of at most a quarter of it: measured on photographs with holes of 8
# to 32 pixels, their fills are as good as in windows of 256, and dust on a scan costs half the time, a lone speck less.
SMALL = 128


def plan_windows(region: Region, photo_size: tuple[int, int], model_size: int) -> list[Box]:
    """Windows for the model that together cover a region, each with known surroundings.

    A compact hole gets one window; one that is long for its thickness gets a row of overlapping ones, so that a
    scratch across the photo is seen at full resolution.

    Args:
        region: the holes.
        photo_size: (height, width) of the photo.
        model_size: side in pixels that the model works at; windows are not smaller where the photo allows, except those
            around specks (`seen_size` tells which).

    Returns:
        boxes within the photo.
    """
    top, left, bottom, right = region.box
    h, w = bottom - top, right - left
    side = _rounded_side(max(model_size, CONTEXT * region.thickness), model_size)
    if max(h, w) <= SMALL / 4 and model_size >= 2 * SMALL and not region.whole:
        side = SMALL
    if max(h, w) <= 0.6 * side and not region.whole:
        # Centred as well as a lattice allows: a hole next to this one then shares the window. The smaller the hole, the
        # wider the lattice may be that still leaves known surroundings, an eighth of the side or more.
        pitch = side // (2 if max(h, w) <= side / 8 else 4 if max(h, w) <= side / 4 else 8)
        row, column = ((ends // (2 * pitch)) * pitch + pitch // 2 for ends in (top + bottom, left + right))
        return [_square(row, column, side, photo_size)]
    # Centres half a side apart, the same for all regions; those with hole in the middle half that they answer for. Into
    # a part of a region also those of other parts reach: it looks as if nothing had been cut.
    half = side // 2
    whole = region.whole or region
    span = intersection(whole.box, grow(region.box, side, photo_size))
    boxes: list[Box] = []
    for y in range(span[0] // half * half, span[2], half):
        for x in range(span[1] // half * half, span[3], half):
            cell = intersection((y, x, y + half, x + half), whole.box)
            if whole.mask[slices(cell, whole.box)].any():
                boxes.append(_square(y + half // 2, x + half // 2, side, photo_size))
    if region.whole:
        boxes = [box for box in boxes if box[0] < bottom and box[2] > top and box[1] < right and box[3] > left]
    return list(dict.fromkeys(boxes))  # near the photo's borders several centres share a window


def seen_size(box: Box, photo_size: tuple[int, int], model_size: int) -> int:
    """The side of a square with as many pixels as the model sees a window with.

    A photo that is smaller than the model's size is enlarged, which its fill gains from; the window of a speck is not.

    Args:
        box: one of `plan_windows`' for the other arguments.
    """
    height, width = box[2] - box[0], box[3] - box[1]
    small = height < min(model_size, photo_size[0]) or width < min(model_size, photo_size[1])
    return SMALL if small else model_size


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
            if region.mask[slices(box, region.box)].any():
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
