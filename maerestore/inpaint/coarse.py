"""The autoencoder's guess at what the hole shows: right in colour and shape, as sharp as its patches allow."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.inpaint.model_window import BATCH, Hiding, ModelWindow, at_model_size, resize
from maerestore.model import MaskedAutoencoder
from maerestore.model.hiding import fixed_noise
from maerestore.precision import autocast


@torch.inference_mode()
def coarse_fill(
    model: MaskedAutoencoder,
    windows: list[ModelWindow],
    size: int,
    smooth: float = 0.0,
    progress: Callable[[int], None] | None = None,
    *,
    bf16: bool = False,
    hiding: Hiding | None = None,
) -> list[np.ndarray]:
    """Fill windows with the autoencoder.

    Args:
        model: in eval mode, on its device.
        windows: what to fill.
        size: windows are scaled to about this many pixels squared.
        smooth: sigma of a low-pass over the fill, in pixels of the model: what is left of single patches in a
            reconstruction is noise.
        progress: called with the number of windows done after each batch.
        bf16: run the autoencoder in bfloat16.
        hiding: known pixels that it is not shown; other ones give another fill.

    Returns:
        for each window (h, w, 3) float32: the enlarged reconstruction; outside the hole the photo, slightly blurred.
    """
    config, device = model.config, model.mean.device
    shapes = [window.seen_shape(size, config.patch_size) for window in windows]
    results: list[np.ndarray | None] = [None] * len(windows)
    for shape in dict.fromkeys(shapes):
        members = [i for i, s in enumerate(shapes) if s == shape]
        for start in range(0, len(members), BATCH):
            batch = members[start : start + BATCH]
            pairs = [at_model_size(windows[i], shape) for i in batch]
            images = torch.from_numpy(np.stack([p[0] for p in pairs])).permute(0, 3, 1, 2).contiguous()
            masks = torch.from_numpy(np.stack([p[1] for p in pairs]))[:, None].float()
            unknown = masks
            if hiding is not None:
                hidden = torch.from_numpy(np.stack([hiding(windows[i].box, shape) for i in batch]))
                unknown = torch.maximum(masks, hidden[:, None].float())
            with autocast(device, bf16):
                filled = reconstruct(model, images, unknown)
            # What was only hidden is known.
            filled = torch.where(masks.to(filled.device) > 0, filled, images.to(filled.device))
            for i, picture in zip(batch, filled.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
                h, w = windows[i].mask.shape
                picture = cv2.GaussianBlur(picture, (0, 0), smooth) if smooth > 0 else picture
                results[i] = resize(np.ascontiguousarray(picture), (h, w), cv2.INTER_CUBIC)
            if progress is not None:
                progress(len(batch))
    return [r for r in results if r is not None]


def reconstruct(model: MaskedAutoencoder, images: Tensor, masks: Tensor) -> Tensor:
    """Fill (N, 3, H, W) in [0, 1] where (N, 1, H, W) is 1.

    Four passes, with the grid of patches shifted by half a patch down, across, and both: each pixel counts most where
    it lies in the middle of its patch, so that no patch border is left to see. Two of the passes see mirror images.
    """
    config, device = model.config, model.mean.device
    images, masks = images.to(device), masks.to(device)
    inputs = model.normalize(images.mean(1, keepdim=True) if config.in_chans == 1 else images)
    p = config.patch_size
    half = p // 2
    total, weights = torch.zeros_like(inputs), torch.zeros_like(inputs[:1, :1])
    for down in (0, half):
        for across in (0, half):
            mirror = down != across
            # The frame that a shift needs is unknown to the model, like a hole.
            frame = (across, p - across if across else 0, down, p - down if down else 0)
            seen = F.pad(inputs, frame, mode="replicate")
            unknown = F.pad(masks, frame, value=1.0)
            if mirror:
                seen, unknown = seen.flip(3), unknown.flip(3)
            picture = model.reconstruct(seen, pixel_mask=unknown, hidden_noise=fixed_noise(seen, config.hidden))
            picture = picture.flip(3) if mirror else picture
            height, width = images.shape[2:]
            picture = picture[:, :, down : down + height, across : across + width]
            weight = torch.outer(_hat(height, p, down), _hat(width, p, across)).to(device)
            total += weight * picture
            weights += weight
    filled = model.denormalize(total / weights).clamp(0, 1)
    return torch.where(masks > 0, filled, images)


def _hat(length: int, period: int, shift: int) -> Tensor:
    """Weights that peak in the middle of each patch; those of shift 0 and half an even period add up to 1."""
    phase = (torch.arange(length, dtype=torch.float32, device="cpu") + shift + 0.5) / period % 1.0
    return 1 - (2 * phase - 1).abs()
