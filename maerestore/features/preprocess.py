"""Images to what a model sees: scaled to an area, whatever the aspect, and cut to whole patches; never squashed.

A strip is one patch wide at least, so that the ends of a very long one are cut off: of the bundled model's 10 x 10
patches, half of an image of 400:1 is seen, and less of longer ones.

Everything here runs on the CPU, so that a device changes nothing but the network's rounding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.decode import load_image

_LONGEST = 4  # a strip has at most so many times the patches of a square, or of one of 4 x 4
_STICKS_OUT = 8  # what is so many times as long as is kept, is cut before it is scaled
_MARGIN = 4  # pixels that the filter looks at beside those that are kept: 2 of its own scale, and some for rounding


def grid_for(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Patches (down, across) for an image: about (size / patch)^2 of them, in the image's own aspect.

    An image that is longer than (size / patch)^2 to 1 gets more, since one patch across is the least; from 16 times
    that aspect on, the number is four times as large, and does not grow any more.

    Example:
        >>> grid_for(300, 400, 128, 8), grid_for(50, 5000, 128, 8), grid_for(77, 77, 128, 8)
        ((14, 18), (2, 160), (16, 16))
        >>> grid_for(60_000_000, 1, 128, 8)
        (1024, 1)
    """
    side = size / math.sqrt(height * width) / patch  # patches a pixel
    most = round(_LONGEST * max(4, size / patch) ** 2)
    return min(most, max(1, round(height * side))), min(most, max(1, round(width * side)))


def to_grid(image: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Scale an image so that it covers a grid of patches, and cut off evenly what sticks out.

    That is less than a patch, but for strips whose grid is one patch wide: of those, the middle of the length is kept.

    Args:
        image: (C, H, W), uint8 or float.
        grid: patches (down, across).
        patch: side in pixels.

    Returns:
        (C, grid[0] * patch, grid[1] * patch), of the same dtype.
    """
    height, width = grid[0] * patch, grid[1] * patch
    scale = max(height / image.shape[1], width / image.shape[2])
    if max(image.shape[1] * scale / height, image.shape[2] * scale / width) > _STICKS_OUT:
        # A thin strip of millions of pixels would take any memory.
        image = _middle(image, height / scale, width / scale, _MARGIN * max(1, 1 / scale))
    scaled = max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))
    if scaled != tuple(image.shape[1:]):
        image = F.interpolate(image[None], scaled, mode="bicubic", antialias=True)[0]
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return image[:, top : top + height, left : left + width]


def _middle(image: Tensor, height: float, width: float, margin: float) -> Tensor:
    """The middle of an image, at least of a height and a width, with a margin around it where the image has one."""
    rows, columns = (math.ceil(length + 2 * margin) for length in (height, width))
    top, left = (max(0, (have - want) // 2) for have, want in zip(image.shape[1:], (rows, columns), strict=True))
    return image[:, top : top + rows, left : left + columns]


def in_unit_range(image: Tensor) -> Tensor:
    """uint8 or float -> float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)


def as_tensor(image: Any, at_least: int | None = None) -> Tensor:
    """One image of any supported kind as (3, H, W), uint8 or float32 in [0, 1].

    Args:
        image: a path, the bytes of a file, a PIL image, an array (H, W) or (H, W, 1, 3 or 4), or a tensor (1 or 3, H,
            W); arrays and tensors are uint8, or float in [0, 1].
        at_least: as for `load_image`.

    Raises:
        InputError: a file that is no readable image.
        MaerestoreError: another kind, shape, dtype or range.
    """
    if isinstance(image, (str, Path, bytes, Image.Image)):
        return torch.from_numpy(load_image(image, at_least)).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
            raise MaerestoreError(f"an array image is (H, W) or (H, W, 1, 3 or 4), got shape {image.shape}")
        if array.shape[2] == 4:
            if array.dtype != np.uint8:
                raise MaerestoreError(f"an array with alpha is uint8, got dtype {array.dtype}")
            return as_tensor(Image.fromarray(array, "RGBA"))
        # torch warns of memory that it may not write to, such as Pillow's.
        array = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
        tensor = torch.from_numpy(array).permute(2, 0, 1)
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu()
    else:
        raise MaerestoreError(f"an image is a path, bytes, PIL image, array or tensor, got {type(image).__name__}")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        raise MaerestoreError(f"a tensor image is (1 or 3, H, W) with some pixels, got shape {tuple(tensor.shape)}")
    if tensor.dtype != torch.uint8:
        if not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise MaerestoreError(f"an image is uint8, or float in [0, 1], got dtype {dtype}")
        tensor = tensor.float()
        low, high = (float(value) for value in tensor.aminmax())
        if not (low >= -0.25 and high <= 1.25):  # bicubic scaling overshoots; NaN fails both
            raise MaerestoreError(
                f"a float image lies in [0, 1], got values from {low:g} to {high:g}: give it before it is normalised"
            )
    return tensor.expand(3, -1, -1)
