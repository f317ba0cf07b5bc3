"""How sure the fill is: the error to expect at each pixel, from what can be seen without the truth.

Three things tell where the smooth fill (`sharp=False`) goes wrong. The autoencoder, shown different subsets of the
known patches, gives different pictures: their spread grows where it guesses. The error grows with the distance from the
known pixels, where the fill is exact. And a smooth fill lacks the texture of its surroundings, which is measured there.
With d the distance in pixels of the model, texture and spread in units of a colour in [0, 1],

    error = TEXTURE * texture + (1 - exp(-d / REACH)) * (BASE + SPREAD * spread)
    confidence = exp(-error / UNIT)

The constants are those of the bundled model, fitted to the mean absolute error by `scripts/fit_confidence.py`, on 48
photographs kept aside from training at 256 px; they leave a root mean squared difference of 0.0826.
For another model the order of pixels still says something, the numbers less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from maerestore.inpaint.boxes import grow, slices
from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.inpaint.model_window import ModelWindow, at_model_size, resize
from maerestore.inpaint.scene import Scene
from maerestore.model import MaskedAutoencoder
from maerestore.model.hiding import fixed_noise
from maerestore.precision import autocast

TEXTURE, BASE, SPREAD = 1.907, 0.053, 3.425
REACH = 24.0  # pixels of the model
UNIT = 0.1  # expected error at which the confidence is 1 / e
HIDDEN = (0.15, 0.4)  # share of the known patches that a draw hides
FINE = 1.0  # pixels of the model: what varies within about this is texture
TEXTURE_AREA = 2.0  # and is averaged over about this
MIN_SCALE, PLAIN_SCALE = 1 / 64, 0.5  # of windows; where the model does not look, pixels are taken for half a one


@torch.inference_mode()
def spread_of_draws(
    model: MaskedAutoencoder,
    windows: list[ModelWindow],
    size: int,
    draws: int,
    seed: int,
    smooth: float = 0.0,
    bf16: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """How far reconstructions of a window differ that were shown different known patches.

    Args:
        model: in eval mode, on its device.
        windows: what to reconstruct.
        size: windows are scaled to about this many pixels squared.
        draws: reconstructions of each window, one batch.
        seed: of what is hidden; a window's draws do not depend on other windows.
        smooth, bf16, progress: as for `coarse_fill`.

    Returns:
        for each window (h, w, 1) float32: the standard deviation over the draws, root mean square over the channels.
    """
    config = model.config
    device, patch = model.mean.device, config.patch_size
    spreads = []
    for window in windows:
        shape = window.seen_shape(size, patch)
        image, mask = at_model_size(window, shape)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        inputs = model.normalize(pixels.mean(1, keepdim=True) if config.in_chans == 1 else pixels)
        unknown = torch.from_numpy(mask)[None, None].float().to(device).expand(draws, -1, -1, -1)
        generator = np.random.default_rng([seed % 2**64, *window.box])
        shares = generator.uniform(*HIDDEN, size=(draws, 1))
        hidden = generator.random((draws, shape[0] // patch * (shape[1] // patch))) < shares
        with autocast(device, bf16):
            seen = inputs.expand(draws, -1, -1, -1)
            removed = torch.from_numpy(hidden).to(device).float()
            pictures = model.reconstruct(seen, removed, unknown, fixed_noise(seen, config.hidden))
        pictures = model.denormalize(pictures).clamp(0, 1)
        drawn = [np.ascontiguousarray(p) for p in pictures.permute(0, 2, 3, 1).float().cpu().numpy()]
        if smooth > 0:
            drawn = [cv2.GaussianBlur(p, (0, 0), smooth).reshape(p.shape) for p in drawn]
        spread = np.sqrt(np.var(drawn, axis=0, ddof=1).mean(-1))
        spreads.append(resize(spread.astype(np.float32), window.mask.shape, cv2.INTER_LINEAR)[..., None])
        if progress is not None:
            progress(1)
    return spreads


def confidence_map(scene: Scene, seen: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> np.ndarray:
    """The map of a photo.

    Args:
        scene: its holes.
        seen: for each region the spread (h, w, C) over its box and the scale (h, w), as from `Scene.map_windows`; None
            where the model does not look.

    Returns:
        (H, W) float32 in [0, 1], 1 at known pixels.
    """
    sure = np.ones(scene.mask.shape, np.float32)
    for i, (region, view) in enumerate(zip(scene.regions, seen, strict=True)):
        error = expected_error(clues(scene, i, view))
        sure[slices(region.box)][region.mask] = np.exp(-error / UNIT)[region.mask]
    return sure


class Clues(NamedTuple):
    """What tells of the error, at each pixel of a region's box (h, w) or of a list of pixels.

    Attributes:
        texture: of the surroundings, in units of a colour in [0, 1].
        distance: to the nearest known pixel, in pixels of the model.
        spread: of the reconstructions, in units of a colour.
    """

    texture: np.ndarray
    distance: np.ndarray
    spread: np.ndarray


def clues(scene: Scene, index: int, view: tuple[np.ndarray, np.ndarray] | None) -> Clues:
    """The clues of a region.

    Args:
        scene: the holes.
        index: of the region.
        view: its spread and scale, as for `confidence_map`.
    """
    mask = scene.regions[index].mask
    spread = view[0][..., 0] if view is not None else np.zeros(mask.shape, np.float32)
    scale = view[1] if view is not None else np.full(mask.shape, PLAIN_SCALE, np.float32)
    texture = surrounding_texture(scene, index, float(scale[mask].mean()))
    return Clues(texture, scene.distances[index] * scale, spread)


def expected_error(seen: Clues) -> np.ndarray:
    """Expected mean absolute error of the smooth fill."""
    depth = 1 - np.exp(-seen.distance / REACH)
    return np.asarray(TEXTURE * seen.texture + depth * (BASE + SPREAD * seen.spread))


def surrounding_texture(scene: Scene, index: int, scale: float) -> np.ndarray:
    """The texture around a region, continued into it.

    Args:
        scene: the holes.
        index: of the region.
        scale: model pixels per photo pixel.

    Returns:
        (h, w) float32 over the region's box: the mean absolute deviation of known pixels from their low-pass.
    """
    region = scene.regions[index]
    fine, area = FINE / max(scale, MIN_SCALE), TEXTURE_AREA / max(scale, MIN_SCALE)
    margin = max(region.reach, int(np.ceil(3 * (fine + area))))
    box = grow(region.box, margin, (scene.mask.shape[0], scene.mask.shape[1]))
    image, unknown = scene.visible.rgb(box), scene.unknown[slices(box)]
    known = (~unknown).astype(np.float32)
    deviation = np.abs(image - low_pass(image, known, fine)).mean(-1)
    texture = low_pass(deviation[..., None], known, area)
    own = np.zeros(unknown.shape, bool)
    own[slices(region.box, box)] = region.mask
    if (region.whole or scene.unknown is not scene.mask) and not unknown.all():
        own = unknown  # neither other parts of the hole nor transparent pixels have texture to continue
    return harmonic_fill(texture, own)[slices(region.box, box)][..., 0]


def low_pass(image: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian means of (h, w, C) float32 over the pixels where (h, w) float32 `known` is 1; 0 where none is near."""
    weights = cv2.GaussianBlur(known, (0, 0), sigma)
    total = cv2.GaussianBlur(image * known[..., None], (0, 0), sigma).reshape(image.shape)
    return np.asarray(total / np.maximum(weights, 1e-6)[..., None], np.float32)
