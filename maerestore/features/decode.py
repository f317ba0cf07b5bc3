"""Decoding any image to upright 8-bit RGB, from which features are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from maerestore.image.errors import InputError, quoted
from maerestore.image.opening import open_still, short

_STRAIGHT = {"RGBa": "RGBA", "La": "LA"}  # by modes whose colours are multiplied with alpha


def load_image(source: str | Path | bytes | Image.Image, at_least: int | None = None) -> np.ndarray:
    """Decode an image: upright, 8 bits per channel, on white where it is transparent.

    Args:
        source: the path of a file, its content, or a PIL image.
        at_least: side in pixels that is needed, at least 1. A much larger JPEG is then decoded at a half, a quarter or
            an eighth of its size, which is several times faster; its shorter side stays at least twice `at_least`. None
            to decode at full size.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: not an image, a damaged or animated one, or one of more than `maerestore.image.MAX_PIXELS` pixels.

    Example:
        >>> load_image(Image.new("LA", (4, 2))).shape
        (2, 4, 3)
    """
    if isinstance(source, Image.Image):
        return _decoded(source, "the image")
    if isinstance(source, bytes):
        return _decode(open_still(source), "the content", at_least)
    return _decode(open_still(Path(source)), quoted(source), at_least)


def _decode(image: Image.Image, name: str, at_least: int | None) -> np.ndarray:
    with image:
        return _decoded(image, name, at_least)


def _decoded(image: Image.Image, name: str, at_least: int | None = None) -> np.ndarray:
    try:
        if at_least is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (2 * at_least, 2 * at_least))
        return _rgb(image)
    except (InputError, MemoryError):
        raise
    except Exception as err:  # truncated data, broken chunks: each decoder says so in its own way
        raise InputError(f"{name} is truncated or damaged ({short(err)})") from None


def _rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a sample, of which the upper 8 matter here
        levels: Any = np.asarray(image).astype(np.int64)
        gray = (levels // 257).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError("the image holds floating-point samples: save it with 8 or 16 bits a channel")
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if image.mode.endswith("A") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))  # a copy: Pillow's own memory cannot be written to
