"""Pooling: the tokens of an image to one vector.

In the comments N is the batch, L the number of patches, D the width.
"""

from __future__ import annotations

import torch
from torch import Tensor

GEM_POWER = 3.0


def pool(tokens: Tensor, kind: str, attention: Tensor | None = None) -> Tensor:
    """Pool the tokens of one layer.

    Args:
        tokens: (N, 1 + L, D), class token first.
        kind: one of `maerestore.features.options.POOLINGS` but "patch".
        attention: (N, L), not negative, for "attention".

    Returns:
        (N, D) float32; (N, 2 D) for "cls+mean".

    Raises:
        ValueError: an unknown kind, or "attention" without attention.

    Example:
        >>> tokens = torch.tensor([[[9.0], [1.0], [3.0]]])
        >>> [pool(tokens, kind).item() for kind in ("cls", "mean", "max")]
        [9.0, 2.0, 3.0]
        >>> pool(tokens, "attention", torch.tensor([[3.0, 1.0]])).item()
        1.5
    """
    tokens = tokens.float()
    first, patches = tokens[:, 0], tokens[:, 1:]
    if kind == "cls":
        return first
    if kind == "mean":
        return patches.mean(1)
    if kind == "max":
        return patches.amax(1)
    if kind == "gem":
        return patches.clamp(min=1e-6).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER)
    if kind == "cls+mean":
        return torch.cat([first, patches.mean(1)], dim=1)
    if kind == "attention" and attention is not None:
        weights = attention.float()
        return ((weights / weights.sum(1, keepdim=True))[:, None] @ patches)[:, 0]
    raise ValueError(f"cannot pool by {kind!r}")
