"""Read a photo of any supported format into its native samples."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, PpmImagePlugin, TiffImagePlugin

from . import bmp, jpeg, png, ppm, tiff
from .color import ALPHA_MODES
from .depth import stored_bits
from .errors import InputError, quoted
from .exif import ORIENTATION, orientation_of, states_anything, turn_upright, upright_exif, upright_xmp
from .metadata import Metadata, is_profile
from .opening import open_still, short
from .palette import complete_palette
from .photo import Photo

__all__ = ["read_photo"]

_MOST_DPI = 65535  # of a JPEG's field; what is more comes of damage, and would not fit into other formats' either


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read a still image, turned upright, without loss of depth, palette or alpha.

    16-bit colour is read at 16 bits from PNG, TIFF and PPM. Everything else is read as Pillow reads it.

    Args:
        path: a PNG, JPEG, TIFF, WebP, BMP, GIF, PPM, AVIF, JPEG 2000, PSD (flattened) or QOI file; HEIC where
            `pillow-heif` is installed.

    Raises:
        InputError: the file is missing, a folder, empty, not an image, truncated, animated, without pixels or
            over 200 megapixels, or in a colour mode that is not supported.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "gray.png"
        >>> Image.new("L", (3, 2), 128).save(file)
        >>> photo = read_photo(file)
        >>> photo.size, photo.mode, photo.bits, photo.format
        ((3, 2), 'L', 8, 'PNG')
    """
    path = Path(path)
    name = quoted(path)
    with open_still(path) as image:
        try:
            return _read(image, path)
        except InputError:
            raise
        except MemoryError:
            width, height = image.size
            raise InputError(f"{name} ({width}x{height}) does not fit into memory: make it smaller.") from None
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
            raise InputError(f"{name} is truncated or damaged ({short(error)}): give an intact file.") from None


def _read(image: Image.Image, path: Path) -> Photo:
    """Read the opened image, whose header has been checked."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        photo, stored = _read_tiff(image, path)
    elif image.format == "PNG":
        photo, stored = _read_png(image, path)
    else:
        photo, stored = _read_other(image, path)
    metadata = photo.metadata
    if stored >= 5 and metadata.dpi:
        metadata = replace(metadata, dpi=metadata.dpi[::-1])
    return replace(photo, metadata=metadata)


def _read_tiff(image: TiffImagePlugin.TiffImageFile, path: Path) -> tuple[Photo, int]:
    try:
        deep_mode, bits, settings = tiff.layout_of(image)
    except ValueError as error:
        raise InputError(f"{quoted(path)}: {error}; save it with 8 or 16 bits per channel.") from None
    orientation = int(image.tag_v2.get(ORIENTATION, 1))
    # Pillow turns a TIFF without an orientation tag by its XMP, which no viewer does.
    xmp = image.info.pop("xmp", None)
    exif = tiff.descriptive_exif(image)
    if deep_mode is None:
        image.load()  # and turns it upright
        photo = _native(image, bits, [], path)
    else:
        samples = turn_upright(tiff.decode_deep(path, deep_mode, settings), orientation)
        extra = settings.extra_sample if deep_mode in ALPHA_MODES else 2
        photo = Photo(samples, deep_mode, bits, premultiplied=extra == 1, extra_channel=extra == 0)
    if xmp:
        image.info["xmp"] = xmp
    metadata = replace(_common(image, exif), tiff=settings)
    return replace(photo, format="TIFF", metadata=metadata), orientation


def _read_png(image: Image.Image, path: Path) -> tuple[Photo, int]:
    with path.open("rb") as file:
        chunks = list(png.iter_chunks(file))
    bits, color_type = chunks[0][1][8:10]
    deep_mode = {2: "RGB", 4: "LA", 6: "RGBA"}.get(color_type) if bits == 16 else None
    if deep_mode is None:
        image.load()
        photo = _native(image, bits, chunks, path)
    else:
        samples = png.decode_deep(path.read_bytes(), deep_mode)
        photo = Photo(samples, deep_mode, 16, color_key=_color_key(chunks) if deep_mode == "RGB" else None)
    exif = _exif_of(image)
    orientation = orientation_of(exif)
    metadata = _common(image, exif)
    carried = png.carried_chunks(chunks, metadata.icc, metadata.exif, turned=orientation >= 5)
    samples = turn_upright(photo.samples, orientation)
    return replace(photo, samples=samples, metadata=replace(metadata, png_chunks=carried)), orientation


def _read_other(image: Image.Image, path: Path) -> tuple[Photo, int]:
    file_format = {"MPO": "JPEG"}.get(str(image.format), str(image.format))
    settings = jpeg.settings_of(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "RGB" and ppm.deepest(image) > 255:
        photo = Photo(ppm.decode_deep(image, path), "RGB", 16)
    else:
        image.load()
        bits = bmp.palette_bits(path) if file_format == "BMP" and image.mode == "P" else 8
        photo = _native(image, bits, [], path)
    exif = _exif_of(image)
    orientation = orientation_of(exif)
    samples = turn_upright(photo.samples, orientation)
    if settings is not None:
        sideways = orientation >= 5 and settings.subsampling == 1  # 4:2:2 becomes 4:4:0, which Pillow cannot write
        settings = replace(settings, orientation=orientation, subsampling=0 if sideways else settings.subsampling)
        if photo.mode == "RGB":
            settings = replace(settings, encoded=path.read_bytes(), decoded=samples)
    stored = stored_bits(path, file_format)
    metadata = replace(_common(image, exif), jpeg=settings, stored_bits=stored if stored != photo.bits else None)
    return replace(photo, samples=samples, format=file_format, metadata=metadata), orientation


def _exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block of an image; nothing in it where it is written down in a way that cannot be read."""
    raw = image.info.get("exif")
    profile = image.info.get("Raw profile type exif")
    if raw is None and profile is not None:
        try:  # as hexadecimal digits, behind three lines that say so
            raw = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            return b""
    return raw.removeprefix(b"Exif\x00\x00") or None if isinstance(raw, bytes) else None


def _common(image: Image.Image, exif: bytes | None) -> Metadata:
    """What every format may hold, upright but for the order of the two resolutions."""
    info = image.info
    xmp = info.get("xmp")
    if not isinstance(xmp, bytes):
        xmp = str(info.get("XML:com.adobe.xmp", "")).encode()
    dpi = info.get("dpi")
    if dpi is not None:
        dpi = (float(dpi[0]), float(dpi[1]))
        dpi = dpi if all(0 < value <= _MOST_DPI for value in dpi) else None
    comment = info.get("comment")
    icc = info.get("icc_profile", b"")  # None where Pillow cannot put it together
    damaged = []
    if icc != b"" and not is_profile(icc):
        damaged.append("colour profile")
        icc = None
    if exif is not None and not states_anything(exif):
        damaged.append("EXIF")
        exif = None
    return Metadata(
        icc=icc or None,
        exif=upright_exif(exif) if exif else None,
        xmp=upright_xmp(xmp) or None,
        dpi=dpi,
        comment=comment if isinstance(comment, bytes) else None,
        damaged=tuple(damaged),
    )


def _native(image: Image.Image, bits: int, chunks: list[png.Chunk], path: Path) -> Photo:
    """The samples of an image that Pillow reads exactly."""
    mode = image.mode
    if mode in ("RGBa", "RGBX", "La", "YCbCr", "PA", "HSV"):
        mode = {"La": "LA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(mode, "RGBA")
        image = image.convert(mode)
    if mode == "1":
        return Photo(np.asarray(image).astype(np.uint8), "1", 1, color_key=_color_key(chunks))
    if mode.startswith("I"):
        deep = np.asarray(image)
        if mode == "I" and (deep.min() < 0 or deep.max() > 65535):
            raise InputError(f"{quoted(path)} has 32-bit samples: save it with 8 or 16 bits per channel.")
        return Photo(deep.astype(np.uint16), "L", 16, color_key=_color_key(chunks))
    if mode == "P":
        return _palette_photo(image, bits, chunks)
    if image.format == "GIF" and mode == "L" and (np.asarray(image) == image.info.get("transparency", -1)).any():
        # What Pillow makes of a palette that is the gray ramp, in which one entry is transparent.
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
        palette[:, 3] = np.where(np.arange(256) == image.info["transparency"], 0, 255)
        return Photo(np.asarray(image), "P", 8, palette=palette)
    if mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise InputError(f"{quoted(path)} is in colour mode {mode}: convert it to RGB, then try again.")
    samples = np.asarray(image)
    if mode == "L" and bits < 8:
        # Pillow stretches 2- and 4-bit gray over the 8-bit range.
        samples = samples // np.uint8(255 // (2**bits - 1))
        if bits == 1:
            return Photo(samples, "1", 1, color_key=_color_key(chunks))
    return Photo(samples, mode, bits, color_key=_color_key(chunks) if mode in ("L", "RGB") else None)


def _color_key(chunks: list[png.Chunk]) -> tuple[int, ...] | None:
    data = dict(chunks).get(b"tRNS")
    return struct.unpack(f">{len(data) // 2}H", data) if data else None


def _palette_photo(image: Image.Image, bits: int, chunks: list[png.Chunk]) -> Photo:
    samples = np.asarray(image)
    entries = np.array(image.getpalette("RGB") or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)[: 2**bits]
    transparency = dict(chunks).get(b"tRNS", image.info.get("transparency"))
    palette = complete_palette(entries, int(samples.max()), transparency)
    return Photo(samples, "P", bits, palette=palette)
