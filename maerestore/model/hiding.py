"""What the encoder sees instead of hidden patches: nothing, noise, or a plain colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shuffle_visible_first(mask: Tensor) -> Tensor:
    """(N, L), 1 = hidden -> (N, L) indices: the visible patches first, in raster order."""
    # Keys that all differ give the order of a stable sort, which ONNX has none of.
    places = torch.arange(mask.shape[1], device=mask.device)
    return ((mask > 0) * mask.shape[1] + places).argsort(dim=1)


def random_shuffle(noise: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The reference's masking: the `keep` patches of the lowest noise stay.

    Args:
        noise: (N, L).
        keep: patches of each row that stay visible.

    Returns:
        mask (N, L) float, 1 = hidden, and the order (N, L) in which the visible ones come first.
    """
    ids_shuffle = noise.argsort(dim=1)  # ascending: the lowest stay
    mask = torch.ones(noise.shape, device=noise.device)
    return mask.scatter_(1, ids_shuffle[:, :keep], 0.0), ids_shuffle


def replace_hidden(images: Tensor, mask: Tensor, hidden: str, noise: Tensor | None = None) -> Tensor:
    """Images with noise, or the mean colour of their visible pixels, in the hidden patches.

    Args:
        images: (N, C, H, W), normalised.
        mask: (N, L), 1 = hidden.
        hidden: "noise" or "mean".
        noise: (N, C, H, W), standard normal; drawn from torch's global generator where it is not given.

    Returns:
        (N, C, H, W).
    """
    n, _, height, width = images.shape
    across = round((mask.shape[1] * width / height) ** 0.5)
    area = F.interpolate(mask.reshape(n, 1, -1, across).float(), size=(height, width))  # (N, 1, H, W)
    if hidden == "noise":
        other = torch.randn_like(images) if noise is None else noise
    else:
        visible = (1 - area).sum((2, 3), keepdim=True).clamp(min=1)
        # Chosen, not multiplied: whatever stands at a hidden pixel, NaN even, must not get in.
        shown = torch.where(area > 0, 0.0, images)
        mean = shown.sum((2, 3), keepdim=True, dtype=visible.dtype) / visible  # half precision would not hold the sum
        other = mean.to(images.dtype).expand_as(images)
    return torch.where(area > 0, other, images)


def fixed_noise(images: Tensor, hidden: str) -> Tensor | None:
    """What a model is shown in hidden patches when its output must not depend on other random numbers.

    Args:
        images: (N, C, H, W), normalised.
        hidden: of the model's config.

    Returns:
        (N, C, H, W), the same noise for every picture of a size, so that a fill repeats and does not depend on the rest
        of its batch; None unless `hidden` is "noise".
    """
    if hidden != "noise":
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(images.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(images.device).expand_as(images)
