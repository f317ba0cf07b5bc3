"""Preparing images for a model: scaled to a given area, keeping the aspect ratio, and cropped to whole patches.

An elongated image is at least one patch wide, so the ends of a very long one are cut off: with the 10 x 10 patches of
the bundled model, half of a 400:1 image is used, and less of longer ones.

Everything here runs on the CPU, so that the device changes nothing but the rounding in the network.
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

_LONGEST = 4  # an elongated image has at most this many times the patches of a square one (of 4 x 4 patches at least)
_CROP_FIRST = 8  # images that are more than this many times as long as what is kept are cropped before they are scaled
_MARGIN = 4  # pixels around the crop that the filter needs: it reaches 2, the others are for rounding


def grid_for(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """The grid of patches (down, across) for an image: about (size / patch)^2 patches, in its aspect ratio.

    An image with an aspect ratio above (size / patch)^2 gets more, since it is at least one patch wide; the number is
    limited to four times as many, which is reached at 16 times that aspect ratio.

    Args:
        height, width: of the image in pixels, at least 1.
        size: side in pixels of the square whose area the image is scaled to.
        patch: side of a patch in pixels.

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
    """Scale an image so that it covers a grid of patches, and crop it evenly to the grid.

    Less than one patch is cropped, except from elongated images whose grid is one patch wide.

    Args:
        image: (C, H, W), uint8 or float.
        grid: patches (down, across).
        patch: side in pixels.

    Returns:
        (C, grid[0] * patch, grid[1] * patch), of the same dtype.
    """
    height, width = grid[0] * patch, grid[1] * patch
    scale = max(height / image.shape[1], width / image.shape[2])
    if max(image.shape[1] * scale / height, image.shape[2] * scale / width) > _CROP_FIRST:
        # Otherwise a thin image of millions of pixels would need far too much memory.
        image = _middle(image, height / scale, width / scale, _MARGIN * max(1, 1 / scale))
    scaled = max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))
    if scaled != tuple(image.shape[1:]):
        image = F.interpolate(image[None], scaled, mode="bicubic", antialias=True)[0]
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return image[:, top : top + height, left : left + width]


def _middle(image: Tensor, height: float, width: float, margin: float) -> Tensor:
    """The middle of an image, at least `height` x `width`, with a margin around it where the image is large enough."""
    rows, columns = (math.ceil(length + 2 * margin) for length in (height, width))
    top, left = (max(0, (have - want) // 2) for have, want in zip(image.shape[1:], (rows, columns), strict=True))
    return image[:, top : top + rows, left : left + columns]


def in_unit_range(image: Tensor) -> Tensor:
    """uint8 or float -> float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)


def as_tensor(image: Any, at_least: int | None = None) -> Tensor:
    """Convert an image of any supported kind to a tensor.

    Args:
        image: a path, the bytes of a file, a PIL image, an array (H, W) or (H, W, C) with C of 1, 3 or 4, or a tensor
            (C, H, W) with C of 1 or 3. Arrays and tensors are uint8, or float in [0, 1] (arrays with alpha: uint8).
        at_least: as for `load_image`.

    Returns:
        (3, H, W), uint8 or float32.

    Raises:
        InputError: a file that is not a readable image.
        MaerestoreError: another type, shape, dtype or range.
    """
    if isinstance(image, (str, Path, bytes, Image.Image)):
        decoded = load_image(image, at_least)
        if 0 in decoded.shape:  # of Pillow: files without pixels are refused
            raise MaerestoreError(f"an image has some pixels, got {decoded.shape[1]} x {decoded.shape[0]}")
        return torch.from_numpy(decoded).permute(2, 0, 1)
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
        try:
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            tensor = torch.from_numpy(native).permute(2, 0, 1)
        except TypeError:
            raise MaerestoreError(f"an image is uint8, or float in [0, 1], got dtype {array.dtype}") from None
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
