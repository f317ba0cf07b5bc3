"""An approximate harmonic fill in tensor operations: for batches in training, and for graphs that are exported.

Known pixels are averaged over ever larger cells; then, from the largest cells to the pixels, each hole pixel starts as
the enlarged value of its cell and is relaxed towards the mean of its neighbours a few times. The exact solution, for
single photos, is `maerestore.inpaint.harmonic.harmonic_fill`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SWEEPS = 8  # relaxations at each size


def smooth_fill(images: Tensor, mask: Tensor, sweeps: int = SWEEPS) -> Tensor:
    """Fill holes smoothly.

    Args:
        images: (N, C, H, W); what they hold in the hole is not read.
        mask: (N, 1, H, W), 1 = hole. A picture without any known pixel becomes 0.
        sweeps: relaxations at each size; more come closer to the harmonic fill.

    Returns:
        (N, C, H, W), equal to `images` outside the hole.

    Example:
        >>> row = torch.tensor([0.0, 9.0, 9.0, 3.0]).view(1, 1, 1, 4)
        >>> smooth_fill(row, (row == 9).float(), sweeps=60).flatten().round(decimals=2).tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    known = 1 - mask.to(images.dtype)
    return _fill(torch.where(mask > 0, 0.0, images), known, sweeps)


def _fill(colours: Tensor, known: Tensor, sweeps: int) -> Tensor:
    """`colours` are 0 where `known` is 0."""
    height, width = colours.shape[2:]
    if height * width == 1:
        return colours
    margin = (0, width % 2, 0, height % 2)
    share = F.avg_pool2d(F.pad(known, margin), 2)
    mean = F.avg_pool2d(F.pad(colours, margin), 2) / share.clamp(min=1e-6)
    half = _fill(torch.where(share > 0, mean, 0.0), (share > 0).to(colours.dtype), sweeps)
    guess = F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :, :height, :width]
    filled = torch.where(known > 0, colours, guess)
    for _ in range(sweeps):
        around = F.pad(filled, (1, 1, 1, 1), mode="replicate")  # no flow across the picture's border
        neighbours = around[:, :, :-2, 1:-1] + around[:, :, 2:, 1:-1] + around[:, :, 1:-1, :-2] + around[:, :, 1:-1, 2:]
        filled = torch.where(known > 0, filled, neighbours / 4)
    return filled
