"""Photos of every kind, made in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maerestore.image import Photo
from maerestore.image.color import CHANNELS

SUFFIX = {
    "PNG": ".png",
    "TIFF": ".tif",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "PPM": ".ppm",
}

LOSSLESS_KINDS = [
    *(("PNG", mode, bits) for mode, bits in [("1", 1), ("L", 2), ("L", 4), ("L", 8), ("L", 16)]),
    *(("PNG", mode, bits) for mode in ("LA", "RGB", "RGBA") for bits in (8, 16)),
    *(("PNG", "P", bits) for bits in (1, 2, 4, 8)),
    *(("TIFF", mode, bits) for mode, bits in [("1", 1), ("L", 4), ("L", 8), ("L", 16), ("LA", 8)]),
    *(("TIFF", mode, bits) for mode in ("RGB", "RGBA", "CMYK") for bits in (8, 16)),
    *(("TIFF", "P", bits) for bits in (1, 4, 8)),
    ("WEBP", "RGB", 8),
    ("WEBP", "RGBA", 8),
    *(("BMP", mode, bits) for mode, bits in [("1", 1), ("L", 8), ("P", 1), ("P", 4), ("P", 8)]),
    ("BMP", "RGB", 8),
    ("BMP", "RGBA", 8),
    ("GIF", "L", 8),
    ("GIF", "P", 8),
    *(("PPM", mode, bits) for mode, bits in [("1", 1), ("L", 8), ("L", 16), ("RGB", 8), ("RGB", 16)]),
]
"""(format, mode, bits) of everything that is written and read back without loss."""


def make_photo(
    file_format: str, mode: str, bits: int, size: tuple[int, int], seed: int = 0, entries: int | None = None
) -> Photo:
    """Return a photo of random samples; a palette gets `entries` colours, some transparent in a PNG."""
    rng = np.random.default_rng(seed)
    width, height = size
    shape = (height, width) if CHANNELS[mode] == 1 else (height, width, CHANNELS[mode])
    palette = None
    top = 2**bits
    if mode == "P":
        top = min(top, entries or top)
        palette = rng.integers(0, 256, (top, 4), dtype=np.uint8)
        palette[:, 3] = 255
        if file_format == "PNG" and top > 2:
            palette[:2, 3] = (0, 100)
        if file_format == "GIF":
            palette[0, 3] = 0
    samples = rng.integers(0, top, shape).astype(np.uint16 if bits > 8 else np.uint8)
    return Photo(samples, mode, bits, format=file_format, palette=palette)


@pytest.fixture
def no_leftovers(tmp_path: Path) -> Callable[[], list[str]]:
    """A function that lists the temporary files an aborted write has left."""
    return lambda: sorted(path.name for path in tmp_path.rglob("*.tmp"))
