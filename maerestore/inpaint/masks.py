"""What to fill, from every form that a mask may have: PIL images, NumPy arrays, tensors, lists.

A mask that would be read wrongly is refused: numbers of another range than is taken for granted would fill nothing, and
the photo that comes back would look like a success.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from maerestore.image import InputError, Photo, mask_of
from maerestore.inpaint.arrays import PIL_MODES, SLACK, FloatImage, as_canvas, decoded

_BRIGHTNESS = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes of one band of numbers


def as_masks(masks: Any, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """A mask for each image of a batch.

    Args:
        masks: one mask for all, as for `as_mask`; or one for each: a list of such masks, or an array or a tensor
            (B, H, W), (B, 1, H, W) or (B, H, W, 1).
        count: images in the batch.
        size: (width, height) of the images.

    Raises:
        InputError: as for `as_mask`, or another number of masks.
    """
    each = _each(masks, count, (size[1], size[0]))
    if len(each) == 1:
        return [as_mask(each[0], size)] * count
    if len(each) != count:
        raise InputError(f"{len(each)} masks for {count} images: give one mask for each, or one for all")
    return [as_mask(mask, size) for mask in each]


def as_mask(mask: Any, size: tuple[int, int], canvas: Photo | FloatImage | None = None) -> np.ndarray:
    """(H, W) bool, True = fill, from any supported mask.

    Args:
        mask: a PIL image, or an array, a tensor or nested lists (H, W), (1, H, W) or (H, W, 1). Of floats, which lie in
            [0, 1], those from 0.5 are filled; of integers those from 128 (of uint16 those from 32768), or all but 0
            where none is above 1. PIL images of one band are read as arrays (of mode I, where one is above 255, as
            uint16), others as `maerestore.image.read_mask`
            reads files: by their brightness, or by what is opaque.
        size: (width, height) that it must have.
        canvas: the image that is to be filled, by which a copy of it with a part erased is known.

    Raises:
        InputError: no mask, another size, floats out of range, or a mask that is not empty and yet fills nothing, as
            its integers do not reach the threshold.
    """
    if isinstance(mask, Image.Image):
        found = _of_image(mask, canvas)
    else:
        found = _of_numbers(_flat(_array(mask), size))
    if found.shape != (size[1], size[0]):
        raise InputError(
            f"the mask is {found.shape[1]}x{found.shape[0]}, the image {size[0]}x{size[1]}: they must agree"
        )
    return np.ascontiguousarray(found)


def _each(masks: Any, count: int, shape: tuple[int, int]) -> list[Any]:
    """The masks of a batch; a single one where one is given for all."""
    if isinstance(masks, Image.Image):
        return [masks]
    if isinstance(masks, (list, tuple)) and any(
        isinstance(mask, Image.Image) or getattr(mask, "ndim", 0) > 1 for mask in masks
    ):
        return list(masks)
    array = _array(masks)
    with_channel = array.shape == (*shape, 1) and array.shape != (count, *shape)
    return [array] if array.ndim <= 2 or with_channel else list(array)


def _array(mask: Any) -> np.ndarray:
    """As an array of numbers, whatever its shape and type."""
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.is_floating_point() else mask).numpy()  # NumPy has no bfloat16
    try:
        array = np.asarray(mask)
    except (ValueError, TypeError, RuntimeError) as err:  # rows of several lengths; a tensor of a list with a gradient
        raise InputError(f"a {type(mask).__name__} that is no mask: give a PIL image, an array or a tensor") from err
    if array.ndim == 0:
        raise InputError(f"a mask is a PIL image, an array or a tensor, got {type(mask).__name__}")
    if array.dtype.kind not in "buif":
        raise InputError(f"a mask is bool, of integers or of floats, got {array.dtype}")
    return array


def _flat(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W), without a channel or a batch of one."""
    shape = array.shape
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):
        last = array.shape[-1] == 1 and (array.shape[0] != 1 or array.shape[:-1] == (size[1], size[0]))
        array = array[..., 0] if last else array[0]
    if array.ndim != 2:
        raise InputError(f"a mask is (H, W), got {shape}")
    return array


def _of_numbers(array: np.ndarray) -> np.ndarray:
    """Numbers -> bool, by their type and range."""
    if array.dtype == np.bool_ or not array.size:
        return array.astype(bool)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise InputError("the mask holds values that are not finite")
        low, high = float(array.min()), float(array.max())
        if low < -SLACK or high > 1 + SLACK:
            raise InputError(f"a float mask lies in [0, 1], got values from {low:g} to {high:g}: give it as bool")
        return np.asarray(array >= 0.5)
    highest = int(array.max())
    threshold = 1 if highest <= 1 else 32768 if array.dtype.str[1:] == "u2" else 128
    filled = np.asarray(array >= threshold)
    if not filled.any() and array.any():
        raise InputError(
            f"the {array.dtype} mask would fill nothing: its largest value is {highest}, and what is filled starts at "
            f"{threshold}: give it as bool"
        )
    return filled


def _of_image(image: Image.Image, canvas: Photo | FloatImage | None) -> np.ndarray:
    """A PIL image, by the rules of mask files."""
    if image.mode in _BRIGHTNESS:
        array = decoded(image, "mask")
        if image.mode == "I" and array.max(initial=0) > 255:  # what Pillow makes of 16 bits in other modes
            array = array.clip(0, 65535).astype(np.uint16)
        return _of_numbers(array)
    if image.mode not in PIL_MODES:
        raise InputError(f"a mask of mode {image.mode} cannot be read: give it in mode L, or as an array")
    photo = as_canvas(image, "mask")
    assert isinstance(photo, Photo)
    filled = mask_of(photo, canvas)
    if not filled.any():
        alpha = photo.alpha()
        seen = photo.rgb().any(axis=-1)
        if (seen if alpha is None else seen & (alpha >= 0.5)).any():
            raise InputError(
                f"the mask of mode {image.mode} would fill nothing: none of it is half as bright as white; draw in "
                "white what is to be filled, or give it as a bool array"
            )
    return filled
