"""A second look at the rim of a hole that the refiner saw smaller than it is.

A hole of a thousand pixels is refined at a fraction of its size, and what comes out is enlarged. Deep inside, where
nothing tells what is there, that is the best: at full size the refiner would see too little of the surroundings. Along
the rim it is where the eye looks, at edges that stop being sharp. So the refiner draws the rim again, in tiles at full
size, starting from its own picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.inpaint.coarse import Window
from maerestore.inpaint.windows import Box, cut
from maerestore.model.restorer import Restorer

RIM, FADE = 6.0, 16.0  # pixels from the known ones up to which all, and none, is drawn again
TILE, STEP = 128, 96  # side of a tile and pixels from one to the next; they overlap by the difference
TOKEN = 16  # pixels of a tile for each of its tokens


@torch.inference_mode()
def refined_rim(
    restorer: Restorer, window: Window, picture: np.ndarray, tokens: Tensor, *, bf16: bool = False, sharp: bool = True
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
        (h, w, 3) float32 in [0, 1], equal to `picture` but within `FADE` pixels of the rim, in the hole.
    """
    distance = cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5)
    share = np.clip((FADE - distance) / (FADE - RIM), 0, 1) * window.mask
    drawn, weights = np.zeros_like(picture), np.zeros((*window.mask.shape, 1), np.float32)
    for box in tiles(share > 0):
        weight = _tent(box)
        drawn[cut(box)] += weight * _drawn(restorer, window, picture, tokens, box, bf16, sharp)
        weights[cut(box)] += weight
    drawn /= np.maximum(weights, 1e-6)
    return np.asarray(picture + share[..., None] * (drawn - picture), np.float32)


def tiles(wanted: np.ndarray) -> list[Box]:
    """The boxes of a lattice that have wanted pixels (h, w) bool in what they answer for: all but half an overlap.

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


def _tent(box: Box) -> np.ndarray:
    """(h, w, 1): the weight of a tile's pixels beside other tiles', falling to its borders over the overlap."""
    sides = []
    for length in (box[2] - box[0], box[3] - box[1]):
        inward = np.arange(1, length + 1, dtype=np.float32)
        sides.append(np.minimum(np.minimum(inward, inward[::-1]) / (TILE - STEP), 1))
    return np.multiply.outer(*sides)[..., None]


def _drawn(
    restorer: Restorer, window: Window, picture: np.ndarray, tokens: Tensor, box: Box, bf16: bool, sharp: bool
) -> np.ndarray:
    """A tile as the refiner draws it: (h, w, 3) in [0, 1]."""
    model, device = restorer.autoencoder, tokens.device

    def planes(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[cut(box)], np.float32)).permute(2, 0, 1)[None].to(device)

    smooth, mask = model.normalize(planes(window.image)), planes(window.mask[..., None])
    smooth = smooth.contiguous(memory_format=torch.channels_last)
    fill = torch.where(mask > 0, model.normalize(planes(picture)), smooth)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        refined = restorer.refiner(smooth, mask, fill, smooth, part_of(tokens, box, window.mask.shape))
    drawn = model.denormalize((refined.sharp if sharp else refined.mean).float()).clamp(0, 1)
    return np.asarray(drawn[0].permute(1, 2, 0).cpu().numpy())


def part_of(tokens: Tensor, box: Box, size: tuple[int, ...]) -> Tensor:
    """The tokens of a part of a window, between those that there are.

    Args:
        tokens: (1, D, rows, columns), of the whole window.
        box: the part.
        size: (height, width) of the window, in pixels as the box.

    Returns:
        (1, D, h, w), one for each `TOKEN` pixels of the box or part of them.
    """
    axes = []
    for start, end, side in zip(box[:2], box[2:], size, strict=True):
        count = -(-(end - start) // TOKEN)
        middles = start + (torch.arange(count, device=tokens.device) + 0.5) * (end - start) / count
        axes.append(2 * middles / side - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    return F.grid_sample(tokens.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
