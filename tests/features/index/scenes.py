"""Pictures that have what photographs have: coarse and fine structure, and colours."""

from __future__ import annotations

import numpy as np
from PIL import Image


def scene(seed: int, size: tuple[int, int] = (360, 240)) -> Image.Image:
    """Noise of all scales, the finer the weaker."""
    rng, levels = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24, 48, 96):
        noise = rng.integers(0, 256, (cells * 2 // 3, cells, 3), dtype=np.uint8)
        levels += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), float) / cells
    levels -= levels.min()
    return Image.fromarray((levels * (255 / levels.max())).astype(np.uint8))


def cropped(picture: Image.Image, part: float) -> Image.Image:
    """A picture with a part of its side cut off each side."""
    x, y = round(part * picture.width), round(part * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))
