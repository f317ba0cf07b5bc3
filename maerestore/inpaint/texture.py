"""Texture for every region of a fill, block by block.

A refiner draws the right colours and shapes and, away from the rim, too little texture; known patches have the right
texture, and often the wrong colours. So the fill keeps all that the refiner drew, and what its finest texture lacks to
be as strong as the surroundings tell comes from known patches. Where it is stronger than they tell, it is weakened, and
so is chroma: the refiner scatters coloured specks, two to three times as strong as the photo's own colours vary. The
constants were chosen on photographs kept aside from training, by LPIPS and by eye.
"""

from __future__ import annotations

import cv2
import numpy as np

from maerestore.image.canvas import ReadableImage
from maerestore.image.photo import Piece
from maerestore.inpaint.boxes import grow, slices
from maerestore.inpaint.detail import drawn_from, find_origins, synthesize
from maerestore.inpaint.regions import Region
from maerestore.inpaint.rim import rim_share
from maerestore.inpaint.scene import Overlay, Progress
from maerestore.inpaint.strength import (
    chroma_energy,
    chroma_of,
    continued,
    contrast_of,
    energy_of,
    mean_by_cell,
    undisturbed,
)
from maerestore.inpaint.windows import plan_blocks, surroundings

NEAR, DEEP = 2.0, 5.0  # sigma in pixels: finer than this is taken from known patches, along the rim and inside
RIM, RAMP = 0.5, 3.0  # pixels from the known ones up to which nothing is added, and over which adding sets in
SHALLOW = 2.0  # pixels from the known ones: for a hole that goes no deeper nothing is searched
WANTED = 1.4  # energy of the finest texture that is aimed at, as a share of the surroundings': some of it is lost
MOST, LEAST = 1.3, 0.4  # of known patches' texture that is added, and of the refiner's that is left
WEAKENED = 1.5  # sigma in pixels; finer than this is weakened
SPECKS = ((1.0, 1.5), (2.0, 4.0))  # sigmas in pixels: chroma finer than the first is measured, than the second weakened
TIMES = 3.0  # the fill's contrast up to which that of a source may be; beyond, less of its texture is taken,
STEEPLY = 4  # by this power of what it is too much
LEVEL, CALMEST = 1 / 255, 0.1  # contrast that everything has, beside that of the calmest tenth: grain is texture
WITHIN = 1.25  # sigma in cells, of the mean strength of the fill's texture
FLAT = 1e-6  # energy of what counts as no texture: a quarter of a level of 255


def sharpen(
    photo: ReadableImage,
    mask: np.ndarray,
    regions: list[Region],
    pieces: list[Piece],
    seed: int,
    progress: Progress | None,
    refined: list[np.ndarray | None] | None = None,
) -> list[Piece]:
    """Give the fill of every region the texture of its surroundings.

    Args:
        photo: the photo.
        mask: (H, W) bool, True = hole.
        regions: its holes.
        pieces: their fills so far; changed in place.
        seed: of the search.
        progress: called after each block.
        refined: for each region that a refiner drew (h, w), pixels to the nearest known one; None where it did not
            look: such a region is left as it is. Without the list all is drawn from known patches.

    Returns:
        `pieces`.
    """
    size = mask.shape[0], mask.shape[1]
    looked_at = [i for i in range(len(regions)) if refined is None or refined[i] is not None]
    blocks = [(i, block) for i in looked_at for block in plan_blocks(regions[i])]
    overlay = Overlay(regions, [fill for fill, _, _ in pieces])
    painted = ~mask  # known pixels; deep in a hole, where none is near, also what earlier blocks drew
    for done, (i, block) in enumerate(blocks):
        area = grow(block, surroundings(regions[i]), size)
        hole = np.zeros((area[2] - area[0], area[3] - area[1]), bool)
        hole[slices(block, area)] = regions[i].mask[slices(block, regions[i].box)]
        known = sources = ~mask[slices(area)]
        if known.sum() < 4 * hole.sum() // 10:
            sources = painted[slices(area)].copy()
            if not known.any():
                known = sources
        drawn = overlay.paint(photo.rgb(area), area)
        own = None if refined is None else refined[i]
        if own is None:
            drawn = synthesize(drawn, hole, sources, seed)
        else:
            distance = np.zeros(hole.shape, np.float32)
            distance[slices(block, area)] = own[slices(block, regions[i].box)]
            origins = None if own.max() <= SHALLOW else find_origins(drawn, hole, sources, seed)
            drawn = completed(drawn, origins, hole, known, distance)
        # Written where the overlay reads, so that the next block continues this one.
        fill = pieces[i][0][slices(block, regions[i].box)]
        inside = hole[slices(block, area)]
        fill[inside] = drawn[slices(block, area)][inside]
        painted[slices(block)] |= inside
        if progress is not None:
            progress("sharpening", done + 1, len(blocks))
    return pieces


def completed(
    fill: np.ndarray,
    origins: np.ndarray | None,
    hole: np.ndarray,
    known: np.ndarray,
    distance: np.ndarray,
) -> np.ndarray:
    """A fill whose finest texture is as strong, place by place, as that of the surroundings, chroma no stronger.

    How strong it should be is continued from the known texture into the hole as the harmonic fill continues colours.
    What is missing is added from known patches, what is too much is weakened.

    Args:
        fill: (h, w, 3) float32 RGB in [0, 1], the right colours in the hole; a part of the photo around it.
        origins: (h, w) int64, the pixels that texture is taken from, as of `find_origins`; None where none is to be
            added.
        hole: (h, w) bool, what is to be changed.
        known: (h, w) bool, the photo's own pixels.
        distance: (h, w), pixels from the hole's pixels to the nearest known one.

    Returns:
        (h, w, 3) float32 in [0, 1], equal to `fill` outside the hole; `fill` itself where nothing is known.

    Example:
        >>> board = (np.indices((32, 32)).sum(0) % 2 * 0.2).astype(np.float32)  # everywhere alike: left alone
        >>> photo, hole = np.repeat(board[..., None], 3, 2), np.zeros((32, 32), bool)
        >>> hole[8:24, 8:24] = True
        >>> bool(abs(completed(photo, None, hole, ~hole, 9.0 * hole) - photo).max() < 0.01)
        True
    """
    energy = energy_of(fill)
    wanted = continued(energy, known & undisturbed(~hole))
    if wanted is None:
        return fill
    there, _ = mean_by_cell(energy, hole, WITHIN)
    left = _per_pixel(np.clip(np.sqrt((wanted + FLAT) / (there + FLAT)), LEAST, 1), hole.shape)
    picture = fill + (left - 1) * (fill - cv2.GaussianBlur(fill, (0, 0), WEAKENED))
    if origins is not None:
        drawn, share = drawn_from(fill, origins), rim_share(distance)[..., None]
        texture = (1 - share) * brought(fill, drawn, origins, DEEP) + share * brought(fill, drawn, origins, NEAR)
        texture *= fitting(fill, origins, hole, known)
        offered, _ = mean_by_cell(energy_of(texture), hole, WITHIN)
        gain = np.sqrt(np.clip((WANTED * wanted - there) / (offered + FLAT), 0, MOST**2))
        ramp = np.clip((distance - RIM) / RAMP, 0, 1)[..., None]
        picture = picture + _per_pixel(gain, hole.shape) * ramp * texture
    picture = np.where(hole[..., None], np.clip(picture, 0, 1), fill).astype(np.float32)
    for measured, weakened in SPECKS:
        picture = without_specks(picture, hole, known, measured, weakened)
    return picture


def brought(image: np.ndarray, drawn: np.ndarray, origins: np.ndarray, sigma: float) -> np.ndarray:
    """The texture of other places: what is finer than a low-pass both there and here.

    Neither alone is right. Here, neighbours that come from patches of different colours make a step; there, an edge
    that stays behind leaves its halo. Texture is what is on the same side of both means, as far as it is from the
    nearer one.

    Args:
        image: (h, w, 3) float32.
        drawn: (h, w, 3), the same with the hole drawn from other places.
        origins: (h, w) int64, which these are, as of `find_origins`.
        sigma: of the low-pass, in pixels.

    Returns:
        (h, w, 3) float32.

    Example:
        >>> halves = np.zeros((8, 32, 3), np.float32)
        >>> halves[:, 16:] = 1  # half of a flat hole is drawn from one side, half from the other: no texture
        >>> origins = np.arange(8 * 32).reshape(8, 32)
        >>> origins[:, 8:12], origins[:, 12:16] = 2, 30
        >>> float(abs(brought(halves, drawn_from(halves, origins), origins, 2.0)[:, 8:16]).max())
        0.0
    """
    here = drawn - cv2.GaussianBlur(drawn, (0, 0), sigma)
    there = drawn_from(image - cv2.GaussianBlur(image, (0, 0), sigma), origins)
    return np.where(here * there > 0, np.where(np.abs(here) < np.abs(there), here, there), np.float32(0))


def fitting(fill: np.ndarray, origins: np.ndarray, hole: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How much of the texture of other places belongs here: less, where things stand there and none here.

    Beside a lattice mast much texture is expected in the sky, and the mast offers it: crumbs of its bars. What tells
    them from texture is the contrast of what is coarser, of which the fill, right but for texture, has little.

    Args:
        fill, origins, hole, known: as for `completed`.

    Returns:
        (h, w, 1) float32 in [0, 1]; outside the hole it says nothing.

    Example:
        >>> photo, hole = np.full((32, 96, 3), 0.5, np.float32), np.zeros((32, 96), bool)
        >>> photo[:, 72:] = (np.arange(24) // 3 % 2)[:, None]  # bars on the right, a flat hole on the left
        >>> hole[8:24, 8:24] = True
        >>> flat, bars = (np.arange(32 * 96).reshape(32, 96) for _ in range(2))
        >>> flat[hole], bars[hole] = 30, 84  # where it is drawn from
        >>> [round(float(fitting(photo, origins, hole, ~hole)[16, 16, 0]), 2) for origins in (flat, bars)]
        [1.0, 0.0]
    """
    # Of the fill alone: with the mast beside it the calmest sky would have contrast.
    here = contrast_of(fill, hole.astype(np.float32))
    there = contrast_of(fill, np.ones(hole.shape, np.float32))
    calm = np.float32(LEVEL + np.quantile(there[known], CALMEST))
    return np.clip(TIMES * (here + calm) / (there.ravel()[origins] + calm), 0, 1)[..., None] ** STEEPLY


def without_specks(
    picture: np.ndarray, hole: np.ndarray, known: np.ndarray, measured: float, weakened: float
) -> np.ndarray:
    """A picture whose chroma varies no more in the hole than the surroundings tell; its brightness stays.

    Args:
        picture, hole, known: as for `completed`.
        measured: sigma in pixels of the low-pass that tells how much chroma varies.
        weakened: sigma in pixels; chroma finer than this is weakened.

    Returns:
        (h, w, 3) float32 in [0, 1], equal to `picture` outside the hole.

    Example:
        >>> photo, hole = np.full((32, 32, 3), 0.5, np.float32), np.zeros((32, 32), bool)
        >>> hole[8:24, 8:24] = True
        >>> photo[12, 12] = (0.9, 0.4, 0.1)  # a speck in a gray photo
        >>> calm = without_specks(photo, hole, ~hole, 1.0, 1.5)
        >>> bool(np.ptp(calm[12, 12]) < 0.4 * np.ptp(photo[12, 12]))
        True
    """
    chroma = chroma_of(picture)
    energy = chroma_energy(chroma, measured)
    wanted = continued(energy, known & undisturbed(~hole))
    if wanted is None:
        return picture
    there, _ = mean_by_cell(energy, hole, WITHIN)
    left = _per_pixel(np.clip(np.sqrt((wanted + FLAT) / (there + FLAT)), 0, 1), hole.shape)
    fine = chroma - cv2.GaussianBlur(chroma, (0, 0), weakened)
    calm = picture.copy()
    calm[hole] = np.clip(picture[hole] + (left[hole] - 1) * fine[hole], 0, 1)
    return calm


def _per_pixel(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of cells -> (h, w, 1) of pixels."""
    return np.asarray(cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_LINEAR))[..., None]
