"""Hidden patches, rebuilt by the autoencoder: what a view shows in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.model import MaskedAutoencoder

_compiled: Any = None


def fill(model: MaskedAutoencoder, pixels: Tensor, mask: Tensor, visible: int, noises: Tensor | None) -> Tensor:
    """Rebuild hidden patches.

    Visible patches hold the image: what the decoder says of them was never trained, and scaling blurs it into the
    hidden ones.

    Args:
        model: the autoencoder.
        pixels: (N, C, h, w), normalised, at the model's size.
        mask: (N, L), 1 = hidden.
        visible: patches that each row of `mask` keeps.
        noises: what `stand_in` gives.

    Returns:
        (N, C, h, w) float32 in [0, 1].
    """
    patch = model.config.patch_size
    size = (pixels.shape[2], pixels.shape[3])
    grid = (size[0] // patch, size[1] // patch)
    latent, _, ids_restore, _ = model.encode(pixels, mask=mask, num_visible=visible, hidden_noise=noises)
    pred = model.predicted_pixels(pixels, model.decode(latent, ids_restore, grid))
    patches = torch.where(mask[:, :, None] > 0, pred, model.patchify(pixels))
    return model.denormalize(model.unpatchify(patches, size)).clamp(0, 1)


def stand_in(model: MaskedAutoencoder, pixels: Tensor, noise: np.ndarray) -> Tensor | None:
    """What a model that sees noise in hidden patches is shown: drawn from the draw, for the same view every time.

    Args:
        model: the autoencoder.
        pixels: (n * G, C, h, w), the G groups of channels of an image one after the other.
        noise: (n, L), of the draw.

    Returns:
        of the shape of `pixels`; None for a model that sees none.
    """
    if model.config.hidden != "noise":
        return None
    seeds = np.ascontiguousarray(noise, np.float32).view(np.uint32).sum(1, dtype=np.uint64) % 2**63
    shape = (len(pixels) // len(noise), *pixels.shape[1:])
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed)), device="cpu") for seed in seeds]
    return torch.cat(rows).to(pixels.device)


def compiled_fill() -> Any:
    """`fill` compiled, the same function every time."""
    global _compiled
    if _compiled is None:
        compiled = torch.compile(fill, dynamic=False)
        # Of its own accord dynamo gives up at eight graphs, fewer than two numbers of images have with five ratios.
        limit = max(64, torch._dynamo.config.cache_size_limit)  # later torch calls it recompile_limit, and knows both
        _compiled = torch._dynamo.config.patch(cache_size_limit=limit)(compiled)
    return _compiled
