"""Write a photo, in the format its suffix names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from maerestore.errors import MaerestoreWarning

from .bmp import write_bmp_palette, write_bmp_rgba
from .convert import fit, profile_fits, target_of
from .errors import InputError, quoted, reason_of
from .jpeg import write_jpeg
from .output import atomic_file, check_target, format_of
from .photo import Photo
from .png import write_png
from .tiff import write_tiff

__all__ = ["check_writable", "lost_metadata", "write_photo", "written_bits"]

_DESCRIBED = ("PNG", "TIFF", "JPEG", "WEBP")
"""The formats that have a place for profile, EXIF and XMP."""

_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535}


def write_photo(
    photo: Photo, path: str | os.PathLike[str], overwrite: bool = False, quality: int | None = None
) -> None:
    """Write a photo to `path`, in the format of its suffix, all or nothing.

    Every format but JPEG is written without loss: WebP in its lossless coding, whatever the source was, so
    that pixels outside a mask stay what they were. A JPEG from a JPEG keeps its quantisation tables, chroma
    subsampling and scan order, and what was not changed up to rounding (`jpeg_planes`); from another format it gets
    quality 95 and 4:4:4. What a format cannot hold
    (16 bits, CMYK, profiles) is converted or left out as `convert.fit` says; transparency is not: see Raises. Where
    metadata cannot be written, all that only describes the photo is left out, with a `MaerestoreWarning`.

    Args:
        photo: the photo.
        path: .png, .jpg, .tif, .webp, .bmp, .gif or .ppm, and their usual variants.
        overwrite: replace the file if it exists; its permissions are kept.
        quality: 1 to 100, for JPEG instead of the source's own and for WebP to write it with loss.

    Raises:
        InputError: the file exists or cannot be written, the suffix names no format, or the format cannot
            hold the photo's size, transparency or (GIF) colours. No partial file is left in any case.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "new.png"
        >>> write_photo(Photo(np.zeros((2, 3), dtype=np.uint16), "L", 16), file)
        >>> Image.open(file).mode
        'I;16'
    """
    path = Path(path)
    file_format = format_of(path)
    check_target(path, overwrite)
    transparent = photo.is_transparent()
    check_writable(photo, path, transparent)
    fitted = fit(photo, file_format, transparent)
    write = _WRITERS[file_format]
    # Of metadata that does not fit: better a photo without it than none.
    bare = fitted.metadata.without_descriptions()
    left = [replace(bare, dpi=None), bare]
    with atomic_file(path, overwrite) as file:
        while True:
            try:
                write(fitted, file, quality)
                break
            except (OSError, MemoryError, InputError):
                raise
            except Exception as error:
                if not left:
                    raise
                reason = reason_of(error)
            fitted = replace(fitted, metadata=left.pop())
            file.seek(0)
            file.truncate()
    if len(left) < 2:
        warnings.warn(
            f"{quoted(path)} is written without the descriptions of the photo, such as EXIF: not all of its metadata "
            f"fits into {file_format} ({reason})",
            MaerestoreWarning,
            stacklevel=2,
        )


def check_writable(photo: Photo, path: str | os.PathLike[str], transparent: bool | None = None) -> None:
    """Check, before any work is done on a photo, that the format of `path` can hold it.

    Args:
        photo: the photo.
        path: as for `write_photo`.
        transparent: whether any pixel will be less than opaque when it is written; None for what holds now.

    Raises:
        InputError: as `write_photo`, for the suffix, the size, the transparency and the colours.

    Example:
        >>> check_writable(Photo(np.zeros((2, 3, 3), dtype=np.uint8)), "new.gif")
        Traceback (most recent call last):
        maerestore.image.errors.InputError: 'new.gif': GIF cannot hold this photo's colours: write .png, .webp or .tif.
    """
    path = Path(path)
    file_format = format_of(path)
    limit = _LONGEST_SIDE.get(file_format)
    if limit is not None and max(photo.size) > limit:
        width, height = photo.size
        raise InputError(
            f"{quoted(path)}: {file_format} holds at most {limit} pixels a side, not {width}x{height}: "
            "write .png or .tif."
        )
    try:
        target_of(photo, file_format, photo.is_transparent() if transparent is None else transparent)
    except InputError as error:
        raise InputError(f"{quoted(path)}: {error}") from None


def written_bits(photo: Photo, path: str | os.PathLike[str]) -> int:
    """Bits per sample that the format of `path` keeps of a photo: of 16 bits all in PNG, TIFF and PPM, else 8.

    Args:
        photo: the photo, for which `check_writable` raised nothing.
        path: as for `write_photo`.

    Example:
        >>> deep = Photo(np.zeros((2, 3, 3), dtype=np.uint16), bits=16)
        >>> [written_bits(deep, name) for name in ("new.png", "new.tif", "new.ppm", "new.webp", "new.jpg")]
        [16, 16, 16, 8, 8]
    """
    target = target_of(photo, format_of(path), transparent=False)
    return photo.bits if target is None else target[1]


def lost_metadata(photo: Photo, path: str | os.PathLike[str]) -> list[str]:
    """What a photo has of profile, EXIF and XMP that its successor will not have.

    A profile does not count where it is that of sRGB, which is what viewers take colours without one for.

    Args:
        photo: the photo, for which `check_writable` raised nothing.
        path: as for `write_photo`.

    Example:
        >>> from maerestore.image import Metadata
        >>> tagged = Photo(np.zeros((2, 3), dtype=np.uint8), "L", metadata=Metadata(xmp=b"<x/>"))
        >>> lost_metadata(tagged, "new.bmp"), lost_metadata(tagged, "new.webp")
        (['XMP'], [])
    """
    metadata, file_format = photo.metadata, format_of(path)
    roomy = file_format in _DESCRIBED
    target = target_of(photo, file_format, transparent=False)
    fits = roomy and (target is None or profile_fits(metadata.icc or b"", target[0]))
    lost = ["colour profile"] if metadata.icc and not fits and not _is_srgb(metadata.icc) else []
    if not roomy:
        lost += [name for name, block in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if block]
    return lost


def _is_srgb(icc: bytes) -> bool:
    """Whether a profile calls itself sRGB, in text of one or two bytes a letter, and not a linear one."""
    text = icc.replace(b"\0", b"").lower()
    return b"srgb" in text and b"linear" not in text


def _to_pillow(photo: Photo) -> Image.Image:
    """Copy an 8-bit, 1-bit or palette photo into a Pillow image."""
    if photo.mode == "1":
        return Image.fromarray(photo.samples.astype(bool))
    mode = "L" if photo.mode == "P" else photo.mode
    image = Image.frombytes(mode, photo.size, np.ascontiguousarray(photo.samples).tobytes())
    if photo.palette is not None:
        image.putpalette(photo.palette[:, :3].tobytes())
    return image


def _write_webp(photo: Photo, file: IO[bytes], quality: int | None) -> None:
    metadata = photo.metadata
    options: dict[str, Any] = {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    options["icc_profile"] = metadata.icc or b""
    options["exif"] = metadata.exif or b""
    options["xmp"] = metadata.xmp or b""
    _to_pillow(photo).save(file, "WEBP", **options)


def _write_bmp(photo: Photo, file: IO[bytes], quality: int | None) -> None:
    if photo.mode == "RGBA":
        write_bmp_rgba(photo, file)
        return
    if photo.mode == "P":
        write_bmp_palette(photo, file)
        return
    options = {"dpi": photo.metadata.dpi} if photo.metadata.dpi else {}
    _to_pillow(photo).save(file, "BMP", **options)


def _write_gif(photo: Photo, file: IO[bytes], quality: int | None) -> None:
    options: dict[str, Any] = {"optimize": False}
    if photo.palette is not None and (photo.palette[:, 3] == 0).any():
        options["transparency"] = int(photo.palette[:, 3].argmin())
    if photo.metadata.comment:
        options["comment"] = photo.metadata.comment
    _to_pillow(photo).save(file, "GIF", **options)


def _write_ppm(photo: Photo, file: IO[bytes], quality: int | None) -> None:
    width, height = photo.size
    if photo.mode == "1":
        # PBM: 1 is black
        file.write(f"P4\n{width} {height}\n".encode() + np.packbits(photo.samples ^ 1, axis=1).tobytes())
        return
    magic = "P5" if photo.mode == "L" else "P6"
    file.write(f"{magic}\n{width} {height}\n{2**photo.bits - 1}\n".encode())
    file.write(photo.samples.astype(photo.samples.dtype.newbyteorder(">"), copy=False).tobytes())


_WRITERS: dict[str, Callable[[Photo, IO[bytes], int | None], None]] = {
    "PNG": lambda photo, file, quality: write_png(photo, file),
    "TIFF": lambda photo, file, quality: write_tiff(photo, file),
    "JPEG": write_jpeg,
    "WEBP": _write_webp,
    "BMP": _write_bmp,
    "GIF": _write_gif,
    "PPM": _write_ppm,
}
