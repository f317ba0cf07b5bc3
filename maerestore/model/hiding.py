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
        other = ((images * (1 - area)).sum((2, 3), keepdim=True) / visible).expand_as(images)
    return torch.where(area > 0, other, images)
