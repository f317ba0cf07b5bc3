"""Sharp texture for a smooth fill: the photo's own known patches, chosen to agree with what the coarse fill says.

Coarse-to-fine PatchMatch, steered: a known patch is a good match for a place in the hole where it looks like what
surrounds that place, where its low-passed colour is that of the coarse fill, and where its texture is as strong as the
surroundings of the hole let expect: a dark thing is no texture for a dark cloud. The coarse fill so decides what is
shown, the known patches how it looks. Patches vote for each pixel's colour while the search goes on; at the end the
best patch wins it, as an average would blur again.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from maerestore.inpaint.patchmatch import (
    MIN_SOURCES,
    PATCH,
    RADIUS,
    Level,
    best_origins,
    describe,
    describe_hole,
    enlarge,
    first_matches,
    paint_matches,
    search,
    vote,
)
from maerestore.inpaint.strength import texture_strength

STEERING = 1.0  # weight of the coarse fill's colour, beside 1 for the mean squared difference of a patch
STRENGTH = 4.0  # weight of how strong the texture is to be
GUIDE_SIGMA = 2.0  # pixels; how smooth the colour is that sources and coarse fill are compared by
COARSEST_SIDE = 40
MAX_LEVELS = 4
ROUNDS = ((40_000, 3), (100_000, 2), (1 << 62, 1))  # of search and vote at a level, by the most places it may have


def synthesize(image: np.ndarray, hole: np.ndarray, known: np.ndarray, seed: int = 0) -> np.ndarray:
    """Give the fill of a hole the texture of what surrounds it.

    Args:
        image, hole, known, seed: as for `find_origins`.

    Returns:
        (h, w, 3) float32: in the hole colours of known pixels, elsewhere `image`. Where there is too little known
        around the hole to draw from, `image` comes back as it is.
    """
    return drawn_from(image, find_origins(image, hole, known, seed))


def drawn_from(image: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(h, w, C), each pixel taken from where `origins` (h, w) says."""
    return image.reshape(-1, image.shape[2])[origins]


@torch.inference_mode()
def find_origins(image: np.ndarray, hole: np.ndarray, known: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which known pixel each pixel of a hole is best drawn from.

    Args:
        image: (h, w, 3) float32 RGB in [0, 1]: a part of the photo with a smooth fill in the hole.
        hole: (h, w) bool, True = to be drawn.
        known: (h, w) bool, True = pixels of the photo, to draw from; other pixels are neither.
        seed: of the random search.

    Returns:
        (h, w) int64: in the hole the index of a known pixel, row by row; elsewhere, and everywhere where there is too
        little known around the hole, a pixel's own.
    """
    origins = np.arange(hole.size).reshape(hole.shape)
    levels = _pyramid(image, hole, known)
    if not levels:
        return origins
    generator = torch.Generator("cpu").manual_seed(seed)
    matches: Tensor | None = None
    shape = levels[-1].shape
    for depth in range(len(levels) - 1, -1, -1):
        level = levels[depth]
        features, kernels = describe(level, generator)
        if matches is None:
            chosen = first_matches(level, features, generator)
        else:
            chosen = enlarge(matches, shape, level, generator)
        shape = level.shape
        paint_matches(level, chosen)
        rounds = next(count for most, count in ROUNDS if len(level.places) <= most)
        for turn in range(rounds):
            describe_hole(level, features, kernels)
            costs, matches = search(level, features, chosen, generator)
            chosen = matches[level.places]
            if depth == 0 and turn == rounds - 1:
                origins[hole] = best_origins(level, matches, costs).numpy()
            else:
                level.image.view(-1, 3)[level.hole.flatten()] = vote(level, matches, costs)
    return origins


def _pyramid(image: np.ndarray, hole: np.ndarray, known: np.ndarray) -> list[Level]:
    """Levels from fine to coarse, each half the size of the one before; stops where sources run out."""
    levels: list[Level] = []
    while len(levels) < MAX_LEVELS:
        level = _level(image, hole, known)
        if level is None:
            break
        levels.append(level)
        height, width = hole.shape
        if min(height, width) < 2 * COARSEST_SIDE:
            break
        size = (width // 2, height // 2)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        hole = np.asarray(cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)) >= 0.5
        known = np.asarray(cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)) > 0.999
        if not hole.any():
            break
    return levels


def _level(image: np.ndarray, hole: np.ndarray, known: np.ndarray) -> Level | None:
    height, width = hole.shape
    if min(height, width) < PATCH:
        return None
    kernel = np.ones((PATCH, PATCH), np.uint8)
    whole = cv2.erode(known.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
    whole[:RADIUS] = whole[-RADIUS:] = whole[:, :RADIUS] = whole[:, -RADIUS:] = False
    touched = cv2.dilate(hole.astype(np.uint8), kernel).astype(bool)
    touched[:RADIUS] = touched[-RADIUS:] = touched[:, :RADIUS] = touched[:, -RADIUS:] = False
    if whole.sum() < MIN_SOURCES or not touched.any():
        return None
    # Every hole pixel lies in the patch of some place: near the border in that of a place further in.
    colour = cv2.GaussianBlur(image, (0, 0), GUIDE_SIGMA) * STEERING**0.5
    guide = np.dstack([colour, texture_strength(image, hole, known) * STRENGTH**0.5])
    return Level(
        image=torch.from_numpy(image.copy()),
        hole=torch.from_numpy(hole),
        places=torch.from_numpy(np.flatnonzero(touched)),
        sources=torch.from_numpy(np.flatnonzero(whole)),
        is_source=torch.from_numpy(whole.ravel()),
        guide=torch.from_numpy(guide).reshape(-1, 4),
    )
