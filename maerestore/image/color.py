"""Between native samples and RGB in [0, 1].

Native samples are unsigned integers of 1 to 16 bits in one of the modes `MODES`; nothing here knows files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALPHA_MODES", "CHANNELS", "LUMA", "black_curve", "from_rgb", "luma", "to_rgb"]

CHANNELS = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
"""Samples per pixel of each mode."""

ALPHA_MODES = ("LA", "RGBA")

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Rec. 601 weights, as Pillow's conversion to `L` has them."""

FloatArray = npt.NDArray[np.float32]
SampleArray = npt.NDArray[Any]


def luma(rgb: FloatArray) -> FloatArray:
    """Return the Rec. 601 luma (...,) of `rgb` (..., 3)."""
    return np.asarray(rgb @ LUMA, dtype=np.float32)


def to_rgb(samples: SampleArray, mode: str, bits: int, premultiplied: bool = False) -> FloatArray:
    """Return RGB (H, W, 3) in [0, 1] of native samples of any mode but `P`.

    Gray is replicated; alpha is left out (and divided out where the samples are premultiplied by it);
    CMYK becomes (1 - C)(1 - K) and so on, as Pillow converts it.
    """
    top = np.float32(2**bits - 1)
    if mode in ("1", "L"):
        return np.repeat((samples.astype(np.float32) / top)[..., None], 3, axis=-1)
    if mode == "CMYK":
        ink = samples.astype(np.float32) / top
        return np.asarray((1 - ink[..., :3]) * (1 - ink[..., 3:]), dtype=np.float32)
    color = samples[..., :-1] if mode in ALPHA_MODES else samples
    rgb = color.astype(np.float32)
    if premultiplied:
        rgb = np.minimum(rgb / np.maximum(samples[..., -1:], 1), np.float32(1))
    else:
        rgb /= top
    return np.repeat(rgb, 3, axis=-1) if mode == "LA" else rgb


def black_curve(samples: SampleArray, known: npt.NDArray[np.bool_], bits: int) -> FloatArray:
    """How a CMYK photo is separated: how much of what its colours lack of white is black ink.

    Args:
        samples: (H, W, 4).
        known: (H, W) bool, the pixels to look at.
        bits: bits per sample.

    Returns:
        (256,) the mean K in [0, 1] of pixels whose lightest channel lacks 0, 1/255, ... 1 of white; between those that
        occur it is interpolated. Where no pixel is known, all that the three inks have in common.

    Example:
        >>> photo = np.array([[[128, 102, 102, 0], [0, 0, 0, 255]]], dtype=np.uint8)
        >>> black_curve(photo, np.ones((1, 2), bool), 8)[[0, 102, 255]].tolist()
        [0.0, 0.0, 1.0]
    """
    step = max(1, math.isqrt(known.size >> 20))  # one to four million pixels tell it, however large the photo
    ink = samples[::step, ::step][known[::step, ::step]].astype(np.float32) / np.float32(2**bits - 1)
    lacking = 1 - (1 - ink[:, :3].min(axis=1)) * (1 - ink[:, 3])
    level = np.rint(lacking * 255).astype(np.intp)
    count = np.bincount(level, minlength=256)
    total = np.bincount(level, ink[:, 3], minlength=256)
    levels = np.arange(256)
    met = count > 0
    black = np.interp(levels, levels[met], total[met] / count[met]) if met.any() else levels / 255
    return np.asarray(black, dtype=np.float32)


def from_rgb(
    rgb: FloatArray,
    old: SampleArray,
    mode: str,
    bits: int,
    premultiplied: bool = False,
    black: FloatArray | None = None,
) -> SampleArray:
    """Return native samples for `rgb`, with the alpha of `old`.

    Args:
        rgb: (N, 3) in [0, 1].
        old: (N,) or (N, C) samples that the new ones replace; their alpha is kept.
        mode: any mode but `P`.
        bits: bits per sample; values are rounded to the nearest.
        premultiplied: whether colours are stored multiplied by alpha.
        black: for CMYK, what `black_curve` gave; without it, what is common to the three inks is printed black.

    Returns:
        Samples of the shape and dtype of `old`.
    """
    top = np.float32(2**bits - 1)
    new = np.empty_like(old)
    if mode in ("1", "L"):
        new[...] = np.rint(np.clip(luma(rgb), 0, 1) * top)
    elif mode == "CMYK":
        lacking = 1 - rgb.max(axis=-1, keepdims=True)
        common = lacking if black is None else np.minimum(np.interp(lacking, np.arange(256) / 255, black), lacking)
        color = (1 - rgb - common) / np.maximum(1 - common, np.float32(1e-6))
        new[...] = np.rint(np.clip(np.concatenate([color, common], axis=-1), 0, 1) * top)
    else:
        color = np.clip(luma(rgb), 0, 1)[..., None] if mode == "LA" else rgb
        scale = old[..., -1:].astype(np.float32) if premultiplied else top
        has_alpha = mode in ALPHA_MODES
        new[..., : -1 if has_alpha else None] = np.rint(color * scale)
        if has_alpha:
            new[..., -1] = old[..., -1]
    return new
