"""Means of errors by weight, as losses take them."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """The mean over images of each one's weighted mean, so that it does not depend on how a batch is split.

    Args:
        error: (N, ...).
        weight: at least 0, of a shape that expands to the error's; only the weights of an image among each other
            count. An image without weight counts 0.

    Returns:
        scalar float32.

    Example:
        >>> error = torch.tensor([2.0, 4.0]).view(1, 1, 1, 2)
        >>> float(weighted_mean(error, torch.tensor([0.3, 0.1]).view(1, 1, 1, 2)))
        2.5
    """
    weight = weight.float().expand_as(error).flatten(1)
    total = weight.sum(1)
    # Chosen, not clamped: weights may be as small as they like, and where there are none, slopes are 0 and not 0 * inf.
    return ((error.float().flatten(1) * weight).sum(1) / torch.where(total > 0, total, 1.0)).mean()
