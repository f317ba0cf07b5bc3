"""PPM with more than 8 bits per sample, which Pillow squeezes to 8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import PpmImagePlugin

__all__ = ["decode_deep", "deepest"]


def deepest(image: PpmImagePlugin.PpmImageFile) -> int:
    """The value that stands for white in an opened PPM in mode "RGB"."""
    arguments = image.tile[0][3]
    return int(arguments[1]) if isinstance(arguments, tuple) else 255


def decode_deep(image: PpmImagePlugin.PpmImageFile, path: Path) -> npt.NDArray[np.uint16]:
    """Decode a PPM whose white is over 255, binary or plain text.

    Args:
        image: the file as Pillow opened it, for its header.
        path: of the file.

    Returns:
        (H, W, 3) uint16, on the scale of 0 to 65535.

    Raises:
        ValueError: the file is truncated or, where it is text, holds among its samples what is none.
    """
    decoder, _, offset, _ = image.tile[0]
    white, shape = deepest(image), (image.height, image.width, 3)
    count = shape[0] * shape[1] * shape[2]
    with path.open("rb") as file:
        file.seek(offset)
        stored: npt.NDArray[Any]
        if decoder == "ppm_plain":
            text = re.match(rb"[\d\s]*", re.sub(rb"#[^\r\n]*", b"", file.read()))
            assert text is not None  # it may be empty; what follows the numbers is none of the pixels
            # Without a count, for with one NumPy 2.4 makes up what is missing.
            stored = np.fromstring(text[0].decode("ascii"), dtype=np.int64, sep=" ")[:count]
        else:
            stored = np.frombuffer(file.read(2 * count), dtype=">u2")
    if len(stored) < count:
        raise ValueError("the image data cannot be decoded")
    # Rounded to the nearest; what is whiter than white is white.
    scaled = (np.arange(white + 1, dtype=np.int64) * 65535 + white // 2) // white
    return np.take(scaled.astype(np.uint16), np.minimum(stored, white)).reshape(shape)
