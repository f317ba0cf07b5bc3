"""The refiner on windows of the photo: a fill that continues what surrounds it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from maerestore.inpaint.coarse import BATCH, Window, model_shape, resize, shrink
from maerestore.model.restorer import Restorer

LIMIT = 640  # windows are refined at their own size up to this many pixels squared; larger ones are made smaller
CELL = 8  # sizes of the refiner are multiples of this where a window is made smaller


@torch.inference_mode()
def refined_fill(
    restorer: Restorer,
    windows: list[Window],
    size: int,
    progress: Callable[[int], None] | None = None,
    *,
    limit: int = LIMIT,
    bf16: bool = False,
) -> list[np.ndarray]:
    """Refine the fill of windows.

    Args:
        restorer: in eval mode, on its device.
        windows: what to refine; their `image` holds the fill so far, their `smooth` the harmonic one.
        size: the autoencoder, whose decoder tells what is there, sees windows at about this many pixels squared.
        progress: called with the number of windows done after each batch.
        limit: the refiner sees windows at their own size up to about this many pixels squared.
        bf16: compute in bfloat16.

    Returns:
        for each window (h, w, 3) float32, outside the hole as the refiner draws it.
    """
    patch = restorer.autoencoder.config.patch_size
    plans = []
    for window in windows:
        shape = window.mask.shape[0], window.mask.shape[1]
        work = shape if shape[0] * shape[1] <= limit * limit else model_shape(*shape, limit, CELL)
        plans.append((work, model_shape(*shape, size, patch)))
    results: dict[int, np.ndarray] = {}
    for plan in dict.fromkeys(plans):
        work, seen = plan
        members = [i for i, p in enumerate(plans) if p == plan]
        at_once = max(1, BATCH * 256**2 // max(256**2, work[0] * work[1]))  # bounds the memory
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            for i, picture in zip(batch, _refine(restorer, [windows[i] for i in batch], work, seen, bf16), strict=True):
                height, width = windows[i].mask.shape
                array = picture.permute(1, 2, 0).contiguous().cpu().numpy()
                results[i] = resize(array, (height, width), cv2.INTER_CUBIC)
            if progress is not None:
                progress(len(batch))
    return [results[i] for i in range(len(windows))]


def _refine(
    restorer: Restorer, windows: list[Window], work: tuple[int, int], seen: tuple[int, int], bf16: bool
) -> Tensor:
    """The sharp pictures of a batch: (N, 3, *work) in [0, 1]."""
    model = restorer.autoencoder
    device = model.mean.device

    def stack(arrays: list[np.ndarray]) -> Tensor:
        pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(device)
        return model.normalize(pictures).contiguous(memory_format=torch.channels_last)

    filled = [shrink(window, work) for window in windows]
    smooth = [shrink(Window(w.box, w.image if w.smooth is None else w.smooth, w.mask), work)[0] for w in windows]
    coarse = stack([image for image, _ in filled])
    masks = torch.from_numpy(np.stack([mask for _, mask in filled]))[:, None].float().to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        restored = restorer(coarse, masks, stack(smooth), seen, coarse)
    return model.denormalize(restored.sharp.float()).clamp(0, 1)
