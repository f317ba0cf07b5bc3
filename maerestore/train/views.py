"""Two strongly augmented crops of each photograph, for contrastive learning; made in batches on the device that trains.

As in SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709): random resized crop, flip, colour jitter, gray, blur.
Every picture has its own random numbers, and all of them come from the generator that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.train.crops import random_crops
from maerestore.train.values import RecipeError, block, number, pair

_LUMA = (0.299, 0.587, 0.114)
_DRAWS = 9  # random numbers a picture, beside those of its crop


@dataclass(frozen=True)
class ViewSettings:
    """How a view is made.

    Args:
        scale: area range of its crop, as a share of the photo's, in (0, 1].
        flip: whether it is mirrored at random.
        jitter: probability that brightness, contrast, saturation and hue are changed.
        brightness, contrast, saturation: they are multiplied with a factor from 1 - x to 1 + x, x in [0, 1].
        hue: it is turned by up to this share of the colour circle, in [0, 0.5].
        gray: probability that the colours are taken away.
        blur: probability of a Gaussian blur.
        sigma: range of its standard deviation, in thousandths of the side; over 0.

    Raises:
        RecipeError: a value of another type or out of range; the message names the setting.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (1.0, 10.0)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            name = f"contrastive.views.{f.name}"
            if f.type == "float":
                value = number(name, value)
                top = 0.5 if f.name == "hue" else 1.0
                if not 0 <= value <= top:
                    raise RecipeError(f"{name} must lie in [0, {top:g}], got {value}")
            elif f.name in ("scale", "sigma"):
                value = pair(name, value, number)
                limit = 1.0 if f.name == "scale" else math.inf
                if not 0 < value[0] <= value[1] <= limit:
                    raise RecipeError(f"{name} {value} is no range in (0, {limit:g}]")
            elif not isinstance(value, bool):
                raise RecipeError(f"{name} must be true or false, got {value!r}")
            object.__setattr__(self, f.name, value)

    @classmethod
    def from_dict(cls, values: Any) -> ViewSettings:
        """Read the `views` of a recipe's contrastive block.

        Raises:
            RecipeError: no mapping, an unknown key, or a value that does not fit.
        """
        return block(cls, "contrastive.views", values)


def two_views(
    canvas: Tensor,
    sizes: Tensor,
    total: int,
    part: slice,
    side: int,
    settings: ViewSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Two views of each photograph, and the crops that they are made of.

    Args:
        canvas, sizes: (n, S, B, C) uint8 and (n, 3), photographs as `maerestore.train.crops` describes them.
        total: photographs of the whole batch.
        part: those of them that these are.
        side: of the views in pixels.
        settings: how views are made.
        generator: where the randomness comes from, on the device.

    Returns:
        the views and their crops, both (2, n, C, side, side) float32 in [0, 1]: the first views, then the second ones.
    """
    views, crops = [], []
    for _ in range(2):
        crops.append(random_crops(canvas, sizes, total, part, side, settings.scale, generator, settings.flip))
        draws = torch.rand(_DRAWS, total, generator=generator, device=canvas.device)[:, part]
        views.append(distort(crops[-1], draws, settings))
    return torch.stack(views), torch.stack(crops)


def distort(images: Tensor, draws: Tensor, settings: ViewSettings) -> Tensor:
    """Change colours and sharpness: (n, C, S, S) in [0, 1], C 1 or 3, by (9, n) uniform numbers in [0, 1)."""
    s = settings
    changes = (draws[0] < s.jitter).float()  # (n,)
    strength = torch.tensor([s.brightness, s.contrast, s.saturation], device=images.device)[:, None]
    brightness, contrast, saturation = 1 + strength * (2 * draws[1:4] - 1) * changes
    if images.shape[1] == 3:
        saturation = saturation * (draws[5] >= s.gray)
        matrix = colour_matrix(saturation, 2 * math.pi * s.hue * (2 * draws[4] - 1) * changes)
        images = torch.einsum("nij,njhw->nihw", matrix, images)
        luma = torch.tensor(_LUMA, device=images.device)[:, None, None]
        middle = (images * luma).sum(1).mean((1, 2))
    else:
        middle = images.mean((1, 2, 3))
    factor = (brightness * contrast)[:, None, None, None]
    shift = (brightness * middle * (1 - contrast))[:, None, None, None]
    images = (images * factor + shift).clamp(0, 1)
    if s.blur == 0:
        return images
    sigma = images.shape[-1] / 1000 * (s.sigma[0] + (s.sigma[1] - s.sigma[0]) * draws[6])
    return blur(images, torch.where(draws[7] < s.blur, sigma, 0.0), reach=images.shape[-1] / 1000 * s.sigma[1])


def colour_matrix(saturation: Tensor, turn: Tensor) -> Tensor:
    """Scale the colours' distance from gray and turn their hue (radians): (n,) each -> (n, 3, 3) on RGB.

    The turn is one in the plane of the YIQ chroma, which keeps the brightness, instead of the usual way by HSV.

    Example:
        >>> m = colour_matrix(torch.tensor([0.0]), torch.tensor([1.0]))[0]
        >>> torch.allclose(m, torch.tensor([0.299, 0.587, 0.114]).expand(3, 3), atol=1e-6)
        True
    """
    to_yiq = torch.tensor(
        [_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)], device=saturation.device
    )
    cos, sin, zero = saturation * turn.cos(), saturation * turn.sin(), torch.zeros_like(turn)
    rows = [torch.stack(row, -1) for row in ((zero + 1, zero, zero), (zero, cos, -sin), (zero, sin, cos))]
    return torch.linalg.inv(to_yiq) @ torch.stack(rows, -2) @ to_yiq


def blur(images: Tensor, sigma: Tensor, reach: float) -> Tensor:
    """Gaussian blur of each picture with its own standard deviation, 0 for none; borders are continued.

    Args:
        images: (n, C, S, S).
        sigma: (n,), in pixels.
        reach: the largest standard deviation that there can be; the kernel goes twice as far.
    """
    radius = min(math.ceil(2 * reach), images.shape[-1] - 1)
    if radius == 0:
        return images
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)  # (n, 2 radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]
    # Sums of shifted pictures: kernels that differ from picture to picture make grouped convolutions slow.
    for axis in (2, 3):
        padded = F.pad(images, (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0), mode="replicate")
        shifted = (padded.narrow(axis, i, images.shape[axis]) * kernel[:, i] for i in range(2 * radius + 1))
        images = sum(shifted, torch.zeros_like(images))
    return images
