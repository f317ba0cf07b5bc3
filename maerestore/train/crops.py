"""Random resized crops of a batch, cut on the device that trains.

A batch comes as canvases, (N, S, B, C) uint8 with short side S; right of a photo narrower than the canvas lies black.
`sizes` (N, 3) int32 says height, width, and whether the photo was turned on its side to fit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def cut(canvas: Tensor, sizes: Tensor, boxes: Tensor, flip: Tensor, out: int, native: bool = False) -> Tensor:
    """Cut and scale squares.

    Args:
        canvas: (N, S, B, C) uint8.
        sizes: (N, 3) height, width, turned.
        boxes: (N, 4) top, left, height, width in pixels of the canvas.
        flip: (N,) bool, mirror left to right.
        out: side of the result in pixels.
        native: boxes are of that side, at whole pixels; what they hold comes as it is.

    Returns:
        (N, C, out, out) float32 in [0, 1].
    """
    images = canvas.permute(0, 3, 1, 2).float() / 255
    short, long = images.shape[2:]
    # Bilinear sampling aliases below half size: sample finer, then average.
    finer = 1 if native else max(1, round(short / out / 1.5))
    side = out * finer
    steps = (torch.arange(side, device=images.device) + 0.5) / side
    y = boxes[:, :1] + boxes[:, 2:3] * steps  # (N, side), pixels
    x = boxes[:, 1:2] + boxes[:, 3:] * steps
    x = torch.minimum(x, sizes[:, 1, None] - 0.5)  # sampling must not reach into the black
    grid = torch.stack(
        [(2 * x / long - 1)[:, None].expand(-1, side, -1), (2 * y / short - 1)[:, :, None].expand(-1, -1, side)],
        dim=-1,
    )
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if finer > 1:
        images = F.avg_pool2d(images, finer)
    turned = sizes[:, 2].bool()
    images = torch.where(turned[:, None, None, None], images.transpose(2, 3), images)
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def random_boxes(sizes: Tensor, u: Tensor, scale: tuple[float, float]) -> Tensor:
    """Boxes of random resized crops, aspect 3/4 to 4/3, as MAE pretraining uses.

    A box that does not fit into the photo is cut off; of a photo longer than 4:3, areas may be smaller than `scale`.

    Args:
        sizes: (N, 3) height, width, turned.
        u: (4, N) uniform in [0, 1): area, aspect, top, left.
        scale: range of the area, as a share of the photo's. (1, 1) takes the largest square, at a random place.

    Returns:
        (N, 4) top, left, height, width in pixels.
    """
    height, width = sizes[:, 0].float(), sizes[:, 1].float()
    if scale == (1.0, 1.0):
        h = w = torch.minimum(height, width)
    else:
        area = height * width * (scale[0] + u[0] * (scale[1] - scale[0]))
        ratio = torch.exp((2 * u[1] - 1) * np.log(4 / 3))
        h = torch.minimum((area / ratio).sqrt(), height)
        w = torch.minimum((area * ratio).sqrt(), width)
        w = torch.minimum(w, h * (4 / 3))  # one side that was cut off takes the other with it, or the aspect is lost
        h = torch.minimum(h, w * (4 / 3))
    return torch.stack([u[2] * (height - h), u[3] * (width - w), h, w], dim=1)


def native_boxes(sizes: Tensor, u: Tensor, out: int) -> Tensor:
    """Squares of `out` pixels at whole pixels, which come as they are: what is resampled is blurred.

    Args:
        sizes: (N, 3) height, width, turned.
        u: (2, N) uniform in [0, 1): top, left.
        out: side in pixels; of a photo that is narrower, the largest square.

    Returns:
        (N, 4) top, left, height, width in pixels.

    Example:
        >>> native_boxes(torch.tensor([[100, 140, 0]]), torch.tensor([[0.99], [0.5]]), 96).tolist()
        [[4.0, 22.0, 96.0, 96.0]]
    """
    height, width = sizes[:, 0].float(), sizes[:, 1].float()
    side = torch.minimum(height, width).clamp(max=out)
    return torch.stack([(u[0] * (height - side + 1)).floor(), (u[1] * (width - side + 1)).floor(), side, side], dim=1)


def random_crops(
    canvas: Tensor,
    sizes: Tensor,
    total: int,
    part: slice,
    out: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    flip: bool = True,
    cutter: Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor] = cut,
    native: bool = False,
) -> Tensor:
    """Random resized crops of photographs that are the `part` of a batch of `total`: (n, C, out, out) in [0, 1].

    `cutter` is `cut`, or what a compiler made of it. Where `native`, crops are `native_boxes`, whatever `scale` says.
    """
    u = torch.rand(5, total, generator=generator, device=canvas.device)[:, part]
    boxes = native_boxes(sizes, u[2:4], out) if native else random_boxes(sizes, u[:4], scale)
    return cutter(canvas, sizes, boxes, (u[4] < 0.5) & flip, out, native)


def centre_boxes(sizes: Tensor) -> Tensor:
    """The middle square of each photo: (N, 3) -> (N, 4)."""
    height, width = sizes[:, 0].float(), sizes[:, 1].float()
    side = torch.minimum(height, width)
    return torch.stack([(height - side) / 2, (width - side) / 2, side, side], dim=1)
