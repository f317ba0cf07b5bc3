"""Texture for every region of a fill, block by block."""

from __future__ import annotations

import numpy as np

from maerestore.image import Photo
from maerestore.inpaint.arrays import FloatImage
from maerestore.inpaint.detail import synthesize
from maerestore.inpaint.scene import Overlay, Piece, Progress
from maerestore.inpaint.windows import Region, cut, grow, plan_blocks, surroundings


def sharpen(
    photo: Photo | FloatImage,
    mask: np.ndarray,
    regions: list[Region],
    pieces: list[Piece],
    seed: int,
    progress: Progress | None,
) -> list[Piece]:
    """Give the fill of every region the texture of its surroundings.

    Args:
        photo: the photo.
        mask: (H, W) bool, True = hole.
        regions: what to draw: for each piece its hole, or a part of it.
        pieces: fills so far; changed in place.
        seed: of the search.
        progress: called after each block.

    Returns:
        `pieces`.
    """
    size = mask.shape[0], mask.shape[1]
    blocks = [(i, block) for i, region in enumerate(regions) for block in plan_blocks(region)]
    overlay = Overlay([Region(box, hole, 0.0) for _, hole, box in pieces], [fill for fill, _, _ in pieces])
    drawn_from = ~mask  # known pixels; deep in a hole, where none is near, also what earlier blocks drew
    for done, (i, block) in enumerate(blocks):
        area = grow(block, surroundings(regions[i]), size)
        hole = np.zeros((area[2] - area[0], area[3] - area[1]), bool)
        hole[cut(block, area)] = regions[i].mask[cut(block, regions[i].box)]
        known = ~mask[cut(area)]
        if known.sum() < 4 * hole.sum() // 10:
            known = drawn_from[cut(area)].copy()
        drawn = synthesize(overlay.paint(photo.rgb(area), area), hole, known, seed)
        # Written where the overlay reads, so that the next block continues this one.
        fill = pieces[i][0][cut(block, regions[i].box)]
        own = hole[cut(block, area)]
        fill[own] = drawn[cut(block, area)][own]
        drawn_from[cut(block)] |= own
        if progress is not None:
            progress("sharpening", done + 1, len(blocks))
    return pieces
