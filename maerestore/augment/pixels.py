"""Images as the model takes them, and back: checked, in groups of its channels, at its size, and pasted.

Shapes: N images, C channels, H x W pixels of the image, h x w pixels of the model, G groups of channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.errors import MaerestoreError

# How far values may leave [0, 1]. Bicubic and Lanczos scaling of floats in the libraries overshoots at edges, by up to
# 0.2 in photographs; values normalised by mean and deviation go farther.
TOLERANCE = 0.25
MOST_CHANNELS = 16  # of images that are only 1, 3 or 4 pixels wide


def check_images(images: Tensor, look: bool = True) -> None:
    """Refuse what is no batch of images.

    Args:
        images: should be (N, C, H, W), uint8, or float in [0, 1].
        look: whether to look at the values too. On an accelerator that waits for all that is under way.

    Raises:
        MaerestoreError: another type, shape or dtype, channels that seem to come last, an empty image, or values that
            are not finite or farther outside [0, 1] than bicubic scaling overshoots.
    """
    if not isinstance(images, Tensor):
        raise MaerestoreError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}")
    if images.ndim != 4:
        raise MaerestoreError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise MaerestoreError(f"images must be uint8, or float in [0, 1], got dtype {dtype_name(images)}")
    if 0 in images.shape[1:]:
        raise MaerestoreError(f"images must have pixels, got shape {tuple(images.shape)}")
    # Channels that come last would be taken for columns, and garbage come back.
    if images.shape[1] > MOST_CHANNELS and images.shape[2] > 4 and images.shape[3] in (1, 3, 4):
        raise MaerestoreError(
            f"images must be (N, C, H, W), got shape {tuple(images.shape)}, which looks like (N, H, W, C): "
            "give images.permute(0, 3, 1, 2)"
        )
    if look and images.dtype != torch.uint8 and len(images):
        low, high = (float(value) for value in images.detach().aminmax())
        if not -float("inf") < low <= high < float("inf"):
            raise MaerestoreError("images hold values that are not finite (NaN or infinity)")
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise MaerestoreError(
                f"images that are float must lie in [0, 1], got values from {low:g} to {high:g}: "
                "make the view before the images are normalised"
            )


def dtype_name(images: Tensor) -> str:
    """As people write it: "int32" for torch.int32."""
    return str(images.dtype).removeprefix("torch.")


def channel_groups(channels: int, per_group: int) -> Tensor:
    """Which channels the model sees together: (G, per_group) indices.

    As many as the model has, in their order; the last channel fills up the last group. So gray goes to an RGB model
    three times over, and two further channels beside RGB go as the second, the last, the last.

    Example:
        >>> channel_groups(5, 3).tolist()
        [[0, 1, 2], [3, 4, 4]]
    """
    groups = -(-channels // per_group)
    return torch.arange(groups * per_group, device="cpu").clamp(max=channels - 1).reshape(groups, per_group)


def to_model(images: Tensor, shape: tuple[int, int], per_group: int) -> Tensor:
    """Scale and group: (N, C, H, W) uint8 or float in [0, 1] -> (N * G, per_group, h, w) float32 in [0, 1]."""
    # On CPUs torch scales bytes several times faster than floats (0.08 and 0.5 ms for 224 -> 128 px); it has no kernel
    # for bytes elsewhere.
    if images.dtype != torch.uint8:
        images = images.float()
    elif images.device.type != "cpu":
        images = images.float() / 255
    images = scaled(images, shape)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    channels = images.shape[1]
    if channels != per_group:
        ids = channel_groups(channels, per_group).to(images.device)
        images = images[:, ids.flatten()].reshape(-1, per_group, *shape)
    return images.clamp(0, 1)


def from_model(pictures: Tensor, channels: int) -> Tensor:
    """The inverse of the grouping: (N * G, per_group, h, w) -> (N, C, h, w), channels seen several times averaged."""
    per_group = pictures.shape[1]
    if channels == per_group:
        return pictures
    groups = -(-channels // per_group)
    stacked = pictures.reshape(-1, groups * per_group, *pictures.shape[2:])  # (N, G * per_group, h, w)
    last = stacked[:, channels - 1 :].mean(1, keepdim=True)
    return torch.cat([stacked[:, : channels - 1], last], dim=1)


def scaled(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bicubic, without aliasing, to (h, w); the values of floats may leave [0, 1]."""
    if tuple(images.shape[2:]) == tuple(shape):
        return images
    if images.dtype == torch.uint8 and tuple(shape) == (1, 1):  # torch's kernel for bytes fails on a single pixel
        return scaled(images.float(), shape).round().clamp(0, 255).to(torch.uint8)
    return F.interpolate(images, shape, mode="bicubic", antialias=True)


def hidden_pixels(mask: Tensor, grid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Which pixels a patch mask hides, at any size: (N, L), 1 = hidden -> (N, 1, H, W) bool.

    Whole numbers decide, so that a pixel belongs to the same patch on every device.
    """
    hidden = mask.reshape(-1, 1, *grid) > 0
    for axis in (0, 1):
        patch = torch.arange(shape[axis], device=mask.device) * grid[axis] // shape[axis]  # of each row or column
        hidden = hidden.index_select(2 + axis, patch)
    return hidden


def paste(images: Tensor, pictures: Tensor, hidden: Tensor, blend: float) -> Tensor:
    """Only hidden pixels change.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1].
        pictures: (N, C, h, w) float in [0, 1], scaled here.
        hidden: (N, 1, H, W) bool.
        blend: share of the picture in hidden pixels.

    Returns:
        new, of the shape, dtype and device of `images`.
    """
    size = (images.shape[2], images.shape[3])
    if images.dtype != torch.uint8:
        pictures = scaled(pictures, size).clamp(0, 1)
        mixed = pictures if blend == 1 else images.float().lerp(pictures, blend)
        return torch.where(hidden, mixed.to(images.dtype), images)
    levels = pictures * 255
    if images.device.type == "cpu":  # bytes, as in `to_model`
        levels = scaled(levels.round().to(torch.uint8), size)
    else:
        levels = scaled(levels, size)
    mixed = levels if blend == 1 else images.float().lerp(levels.float(), blend)
    mixed = mixed.round().clamp(0, 255).to(torch.uint8) if mixed.is_floating_point() else mixed
    return torch.where(hidden, mixed, images)
