"""A second look at the rim of a hole that the refiner saw smaller than it is.

A hole a thousand pixels across is refined at a fraction of its size, and what comes out is enlarged. Deep inside, where
nothing tells what is there, that is the best: at full size the refiner would see too little of the surroundings. Along
the rim it is where the eye looks, at edges that stop being sharp. So the refiner draws the rim again, in tiles at full
size, starting from its own picture. Boxes are in pixels of the window here.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from maerestore.image.box import Box
from maerestore.inpaint.boxes import slices
from maerestore.inpaint.model_window import BATCH, ModelWindow
from maerestore.model.restorer import Restorer
from maerestore.precision import autocast

SMALLER = 1.1  # times that a window was made smaller from which its rim is drawn again
FULL, FADED = 6.0, 16.0  # pixels from the known ones up to which all, and from which on nothing, is drawn again
TILE, STEP = 128, 96  # side of a tile and pixels from one to the next; they overlap by the difference
TOKEN = 16  # pixels of a tile for each of its tokens
AT_ONCE = BATCH * 256**2 // TILE**2  # tiles a pass


@torch.inference_mode()
def refined_rim(
    restorer: Restorer,
    window: ModelWindow,
    picture: np.ndarray,
    tokens: Tensor,
    *,
    bf16: bool = False,
    sharp: bool = True,
) -> np.ndarray:
    """Draw the rim again.

    Args:
        restorer: in eval mode, on its device.
        window: what was filled; its `image` holds the harmonic fill.
        picture: (h, w, 3) float32 in [0, 1], the fill so far, of the window's size.
        tokens: (1, D, rows, columns) of the decoder, of the whole window.
        bf16: compute in bfloat16.
        sharp: the refiner's picture with texture; False takes the one with the least squared error.

    Returns:
        (h, w, 3) float32 in [0, 1], equal to `picture` but within `FADED` pixels of the rim, in what the window is
        looked at for.
    """
    share = rim_share(cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5))
    share *= window.mask if window.wanted is None else window.wanted
    size = (picture.shape[0], picture.shape[1])
    drawn, weights = np.zeros_like(picture), np.zeros((*size, 1), np.float32)
    boxes = tiles(share > 0)  # all of one shape
    for start in range(0, len(boxes), AT_ONCE):
        batch = boxes[start : start + AT_ONCE]
        for box, tile in zip(batch, _drawn(restorer, window, picture, tokens, batch, bf16, sharp), strict=True):
            weight = tent(box, size)
            drawn[slices(box)] += weight * tile
            weights[slices(box)] += weight
    drawn /= np.maximum(weights, 1e-6)
    drawn -= picture
    drawn *= share[..., None]
    drawn += picture
    return drawn


def rim_share(distance: np.ndarray) -> np.ndarray:
    """The share of what is drawn at the rim, by the distance in pixels from the known ones: 1 there, 0 inside."""
    return np.clip((FADED - distance) / (FADED - FULL), 0, 1)


def tiles(wanted: np.ndarray) -> list[Box]:
    """Overlapping boxes: those with wanted pixels (h, w) bool in what they answer for, all but half an overlap.

    Example:
        >>> wanted = np.zeros((300, 200), bool)
        >>> wanted[290, 5] = True
        >>> tiles(wanted)
        [(172, 0, 300, 128)]
    """
    height, width = wanted.shape
    margin = (TILE - STEP) // 2
    boxes = []
    for top in _starts(height):
        for left in _starts(width):
            bottom, right = min(height, top + TILE), min(width, left + TILE)
            rows = slice(top + margin * (top > 0), bottom - margin * (bottom < height))
            columns = slice(left + margin * (left > 0), right - margin * (right < width))
            if wanted[rows, columns].any():
                boxes.append((top, left, bottom, right))
    return boxes


def _starts(side: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with it."""
    last = max(0, side - TILE)
    return [*range(0, last, STEP), last]


def tent(box: Box, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 1) float32: what a tile's pixels count beside other tiles', less and less to where another one goes on."""
    sides = []
    for start, end, side in zip(box[:2], box[2:], size, strict=True):
        place = np.arange(start, end, dtype=np.float32)
        before = place - start + 1 if start > 0 else np.full_like(place, TILE)
        behind = end - place if end < side else np.full_like(place, TILE)
        sides.append(np.minimum(np.minimum(before, behind) / (TILE - STEP), 1))
    return np.multiply.outer(*sides)[..., None]


def _drawn(
    restorer: Restorer,
    window: ModelWindow,
    picture: np.ndarray,
    tokens: Tensor,
    boxes: list[Box],
    bf16: bool,
    sharp: bool,
) -> np.ndarray:
    """Tiles of one shape as the refiner draws them: (N, h, w, 3) in [0, 1]."""
    model, device = restorer.autoencoder, tokens.device

    def planes(array: np.ndarray) -> Tensor:
        stacked = np.stack([array[slices(box)] for box in boxes]).astype(np.float32)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).to(device)

    smooth, mask = model.normalize(planes(window.image)), planes(window.mask[..., None])
    smooth = smooth.contiguous(memory_format=torch.channels_last)
    fill = torch.where(mask > 0, model.normalize(planes(picture)), smooth)
    told = torch.cat([part_of(tokens, box, window.mask.shape) for box in boxes])
    with autocast(device, bf16):
        refined = restorer.refiner(smooth, mask, fill, smooth, told)
    drawn = model.denormalize((refined.sharp if sharp else refined.mean).float()).clamp(0, 1)
    return np.asarray(drawn.permute(0, 2, 3, 1).cpu().numpy())


def part_of(tokens: Tensor, box: Box, size: tuple[int, ...]) -> Tensor:
    """The tokens of a part of a window, interpolated between those that there are.

    Args:
        tokens: (1, D, rows, columns), of the whole window.
        box: the part.
        size: (height, width) of the window.

    Returns:
        (1, D, h, w) float32, one for each `TOKEN` pixels of the box or rest of them.
    """
    # Bilinear weights as two products: grid_sample does not clamp at the border on every device.
    down, across = (
        _interpolation(start, end, side, count).to(tokens.device)
        for start, end, side, count in zip(box[:2], box[2:], size, tokens.shape[2:], strict=True)
    )
    return down @ tokens.float() @ across.T


def _interpolation(start: int, end: int, side: int, count: int) -> Tensor:
    """(tokens of the part, count): what each of `count` tokens along a side is to those from `start` to `end`."""
    ours = -(-(end - start) // TOKEN)
    middles = start + (np.arange(ours) + 0.5) * (end - start) / ours
    place = np.clip(middles / side * count - 0.5, 0, count - 1)
    weights = np.maximum(1 - abs(place[:, None] - np.arange(count)), 0)
    return torch.from_numpy(weights.astype(np.float32))
