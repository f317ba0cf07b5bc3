"""Between native samples and RGB in [0, 1].

Native samples are unsigned integers of 1 to 16 bits in one of the modes `MODES`; nothing here knows files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALPHA_MODES", "CHANNELS", "LUMA", "from_rgb", "luma", "to_rgb"]

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


def from_rgb(rgb: FloatArray, old: SampleArray, mode: str, bits: int, premultiplied: bool = False) -> SampleArray:
    """Return native samples for `rgb`, with the alpha of `old`.

    Args:
        rgb: (N, 3) in [0, 1].
        old: (N,) or (N, C) samples that the new ones replace; their alpha is kept.
        mode: any mode but `P`.
        bits: bits per sample; values are rounded to the nearest.
        premultiplied: whether colours are stored multiplied by alpha.

    Returns:
        Samples of the shape and dtype of `old`.
    """
    top = np.float32(2**bits - 1)
    new = np.empty_like(old)
    if mode in ("1", "L"):
        new[...] = np.rint(np.clip(luma(rgb), 0, 1) * top)
    elif mode == "CMYK":
        # Full gray-component replacement: what is common to the three inks is printed black.
        black = 1 - rgb.max(axis=-1, keepdims=True)
        color = (1 - rgb - black) / np.maximum(1 - black, np.float32(1e-6))
        new[...] = np.rint(np.clip(np.concatenate([color, black], axis=-1), 0, 1) * top)
    else:
        color = np.clip(luma(rgb), 0, 1)[..., None] if mode == "LA" else rgb
        scale = old[..., -1:].astype(np.float32) if premultiplied else top
        has_alpha = mode in ALPHA_MODES
        new[..., : -1 if has_alpha else None] = np.rint(color * scale)
        if has_alpha:
            new[..., -1] = old[..., -1]
    return new
