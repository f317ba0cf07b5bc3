"""JPEG: compress the photo as its source was compressed."""

from __future__ import annotations

import struct
import warnings
from typing import IO, Any

import numpy as np
from PIL import Image, JpegImagePlugin

from maerestore.errors import MaerestoreWarning

from .jpeg_planes import recomposed
from .metadata import JpegSettings
from .photo import Photo

__all__ = ["settings_of", "write_jpeg"]

_RGB_COMPONENTS = (82, 71, 66)  # the letters R, G, B as component numbers
_LONGEST_SEGMENT = 65533
_LONGEST = {"exif": _LONGEST_SEGMENT, "xmp": _LONGEST_SEGMENT - 29}
_EXIF_PREFIX = b"Exif\x00\x00"
DEFAULT_QUALITY = 95


def settings_of(image: JpegImagePlugin.JpegImageFile) -> JpegSettings:
    """Return how an opened JPEG was compressed."""
    sampling = JpegImagePlugin.get_sampling(image)
    if sampling < 0 and image.layers == 3:
        sampling = 0  # a layout Pillow cannot write, such as 4:4:0 or 4:1:1: lose nothing instead
    components = tuple(layer[0] for layer in image.layer)
    segments = b"".join(
        b"\xff\xed" + struct.pack(">H", len(data) + 2) + data for name, data in image.applist if name == "APP13"
    )
    return JpegSettings(
        qtables=_tables_of(image),
        subsampling=sampling,
        progressive=bool(image.info.get("progressive")),
        keep_rgb=image.layers == 3 and (components == _RGB_COMPONENTS or image.info.get("adobe_transform") == 0),
        segments=segments,
    )


def _tables_of(image: JpegImagePlugin.JpegImageFile) -> tuple[tuple[int, ...], ...]:
    """The quantisation table of each component, without repetitions at the end; nothing where one is missing."""
    numbers = [layer[3] for layer in image.layer]
    if len(numbers) == 4 and image.info.get("adobe_transform") == 2:
        numbers = numbers[:1]  # brightness, two of colour, black: Pillow writes four inks, all as fine as brightness
    while len(numbers) > 1 and numbers[-1] == numbers[-2]:  # an encoder gives the last one to all that follow
        numbers.pop()
    tables = [tuple(image.quantization.get(number, ())) for number in numbers]
    return tuple(tables) if all(tables) else ()


def _turned(table: tuple[int, ...], orientation: int) -> list[int]:
    """A quantisation table for a photo that was turned upright: rows for columns where its height became its width."""
    square = np.reshape(table, (8, 8))
    return [int(value) for value in (square.T if orientation >= 5 else square).flat]


def write_jpeg(photo: Photo, file: IO[bytes], quality: int | None = None) -> None:
    """Write an 8-bit photo in mode "L", "RGB" or "CMYK", with its metadata, to an open file.

    A photo that came from a JPEG keeps that file's quantisation tables, chroma subsampling and scan order, and its
    pixels far from any change (`maerestore.image.jpeg_planes`); any other is written at quality 95 with 4:4:4 chroma.
    `quality` overrides the tables and keeps the rest.
    """
    metadata = photo.metadata
    options: dict[str, Any] = {"quality": quality or DEFAULT_QUALITY, "subsampling": 0}
    settings = metadata.jpeg
    if settings is not None:
        options.update(
            subsampling=0 if settings.keep_rgb else settings.subsampling,  # RGB cannot be written subsampled
            progressive=settings.progressive,
            keep_rgb=settings.keep_rgb,
            extra=settings.segments,
        )
        if quality is None and settings.qtables:
            del options["quality"]
            options["qtables"] = [_turned(table, settings.orientation) for table in settings.qtables]
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    for name, block, prefix in (("exif", metadata.exif, _EXIF_PREFIX), ("xmp", metadata.xmp, b"")):
        if block and len(prefix + block) <= _LONGEST[name]:
            options[name] = prefix + block
        elif block:  # of another format, which has no such limit
            warnings.warn(
                f"the photo's {name.upper()} is left out: it is {len(block)} bytes long, more than JPEG holds",
                MaerestoreWarning,
                stacklevel=2,
            )
    if metadata.dpi:
        options["dpi"] = tuple(round(value) for value in metadata.dpi)
    if metadata.comment:
        options["comment"] = metadata.comment[:_LONGEST_SEGMENT]
    image = None
    if settings is not None and photo.mode == "RGB" and "qtables" in options:
        image = recomposed(photo.samples, settings)
    if image is None:
        pixels = np.ascontiguousarray(photo.samples)
        image = Image.frombuffer(photo.mode, photo.size, pixels, "raw", photo.mode, 0, 1)
    image.save(file, "JPEG", **options)
