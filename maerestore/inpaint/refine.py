"""The refiner on windows of the photo: a fill that continues what surrounds it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.model_window import BATCH, Hiding, ModelWindow, at_model_size, model_shape, resize
from maerestore.inpaint.rim import SMALLER, refined_rim
from maerestore.model.restorer import Restorer
from maerestore.precision import autocast

# Windows are refined at their own size up to this many pixels squared; larger ones are made smaller, and only their rim
# is refined at full size: a refiner knows holes as large as it was trained on, and deep in larger ones draws a weave.
# The picture with the least squared error has none, and would only be more blurred.
LIMIT, SMOOTH_LIMIT = 384, 640
CELL = 8  # sizes of the refiner are multiples of this where a window is made smaller


@torch.inference_mode()
def refined_fill(
    restorer: Restorer,
    windows: list[ModelWindow],
    size: int,
    curve: BlendCurve,
    progress: Callable[[int], None] | None = None,
    *,
    limit: int | None = None,
    bf16: bool = False,
    hiding: Hiding | None = None,
    sharp: bool = True,
) -> list[np.ndarray]:
    """Fill windows with the autoencoder and the refiner, in one pass of each; a large window's rim gets another.

    Args:
        restorer: in eval mode, on its device.
        windows: what to fill; their `image` holds the harmonic fill.
        size: the autoencoder sees windows at about this many pixels squared.
        curve: its share, by distance from the known pixels, in the fill that the refiner starts from. Four passes with
            shifted patches, as `maerestore.inpaint.coarse.reconstruct` makes them, gain nothing here: the refiner
            draws over the borders of patches.
        progress: called with the number of windows done after each batch.
        limit: the refiner sees windows at their own size up to about this many pixels squared; None for the best size.
        bf16: compute in bfloat16.
        hiding: known pixels that the autoencoder is not shown; other ones give another fill.
        sharp: the refiner's picture with texture; False takes the one with the least squared error.

    Returns:
        for each window (h, w, 3) float32, outside the hole as the refiner draws it.
    """
    patch = restorer.autoencoder.config.patch_size
    limit = limit or (LIMIT if sharp else SMOOTH_LIMIT)
    plans = []
    for window in windows:
        shape = window.mask.shape[0], window.mask.shape[1]
        work = shape if shape[0] * shape[1] <= limit * limit else model_shape(*shape, limit, CELL)
        plans.append((work, window.seen_shape(size, patch)))
    results: dict[int, np.ndarray] = {}
    for plan in dict.fromkeys(plans):
        work, seen = plan
        members = [i for i, p in enumerate(plans) if p == plan]
        at_once = max(1, BATCH * 256**2 // max(128**2, work[0] * work[1]))  # bounds the memory
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            pictures, tokens = _refine(restorer, [windows[i] for i in batch], work, seen, curve, bf16, hiding, sharp)
            for i, picture, told in zip(batch, pictures, tokens.split(1), strict=True):
                height, width = windows[i].mask.shape
                array = picture.permute(1, 2, 0).contiguous().cpu().numpy()
                results[i] = resize(array, (height, width), cv2.INTER_CUBIC)
                if height * width > SMALLER**2 * work[0] * work[1]:
                    enlarged = np.clip(results[i], 0, 1)
                    results[i] = refined_rim(restorer, windows[i], enlarged, told, bf16=bf16, sharp=sharp)
            if progress is not None:
                progress(len(batch))
    return [results[i] for i in range(len(windows))]


def _refine(
    restorer: Restorer,
    windows: list[ModelWindow],
    work: tuple[int, int],
    seen: tuple[int, int],
    curve: BlendCurve,
    bf16: bool,
    hiding: Hiding | None,
    sharp: bool,
) -> tuple[Tensor, Tensor]:
    """The refiner's pictures of a batch, (N, 3, *work) in [0, 1], and the tokens that it was told."""
    model = restorer.autoencoder
    device = model.mean.device
    pairs = [at_model_size(window, work) for window in windows]
    smooth = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).to(device)
    smooth = model.normalize(smooth).contiguous(memory_format=torch.channels_last)
    masks = np.stack([mask for _, mask in pairs])
    scale = (seen[0] * seen[1] / (work[0] * work[1])) ** 0.5
    far = float(sum(work))  # where nothing is known OpenCV's distance is the largest float
    distances = [cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in masks]
    share = np.stack([curve(scale * np.minimum(distance, far)) for distance in distances])
    unseen = None if hiding is None else _planes(np.stack([hiding(w.box, seen) for w in windows]), device)
    with autocast(device, bf16):
        given = smooth, _planes(masks, device), smooth
        restored, tokens = restorer.with_tokens(*given, seen, _planes(share, device), unseen)
    return model.denormalize((restored.sharp if sharp else restored.mean).float()).clamp(0, 1), tokens


def _planes(arrays: np.ndarray, device: torch.device) -> Tensor:
    """(N, h, w) -> (N, 1, h, w) float32."""
    return torch.from_numpy(arrays.astype(np.float32))[:, None].to(device)
