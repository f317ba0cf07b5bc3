"""Open image files, and refuse what is not one still image."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from . import tiff
from .errors import InputError, quoted, reason_of, refuse_url
from .output import READ_ONLY, SUFFIXES

__all__ = ["IMAGE_SUFFIXES", "MANY_FRAMES_ONE_PHOTO", "MAX_PIXELS", "check_file", "count_frames", "open_still", "short"]

IMAGE_SUFFIXES = {*SUFFIXES, *READ_ONLY}
"""What counts as an image in folders and tars; a file that is named itself is taken whatever its suffix."""

MAX_PIXELS = 200_000_000
"""The most pixels a photo or mask may have."""

MANY_FRAMES_ONE_PHOTO = ("MPO", "PSD", "HEIF")
"""Formats of Pillow whose further frames are previews, layers and other shots, not an animation."""

_FORMATS = ["PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "PSD", "QOI"]
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # the last two: AVIF as well
_READABLE = "PNG, JPEG, TIFF, WebP, BMP, GIF, PPM, AVIF, JPEG 2000, QOI or PSD"
_RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
)  # fmt: skip
_LIMIT_LOCK = threading.Lock()

# What decoders log is for those who handle logs; what nobody handles, Python would write to stderr.
for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def open_still(source: Path | bytes) -> Image.Image:
    """Open an image file without decoding its pixels; the caller closes it.

    Args:
        source: the file, or what it contains.

    Raises:
        InputError: the file is not one still image of 1 to `MAX_PIXELS` pixels, as far as its header says.
    """
    if isinstance(source, bytes):
        name = "the content"
        if not source:
            raise InputError(f"{name} is empty: give an image file.")
    else:
        name = quoted(source)
        check_file(source)
    raw = isinstance(source, Path) and source.suffix.lower() in _RAW
    try:
        image = _open(source, name)
    except UnidentifiedImageError:
        if raw:
            raise _is_raw(name) from None
        if _head(source)[:4] in (b"II*\0", b"MM\0*"):
            raise InputError(
                f"{name} is damaged, or a TIFF with floating-point samples, 16-bit gray with alpha or other unusual "
                "ones: save it as RGB with 8 or 16 bits per channel."
            ) from None
        raise InputError(f"{name} is not an image, or is damaged: give a {_READABLE} file.") from None
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{name} cannot be read: allow reading it, then try again.") from None
    except Exception as error:
        raise InputError(f"{name} is damaged and cannot be opened ({short(error)}): give an intact file.") from None
    try:
        if raw and image.format == "TIFF":  # which Pillow takes for its small preview
            raise _is_raw(name)
        _check_image(image, name)
    except BaseException:
        image.close()
        raise
    return image


def _is_raw(name: str) -> InputError:
    return InputError(f"{name} is camera RAW, which is not read: develop it to a 16-bit TIFF first.")


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:12]
    with source.open("rb") as file:
        return file.read(12)


def short(error: BaseException) -> str:
    """Return what an error says for use inside another message: decoders quote what they read, however long it is."""
    return reason_of(error)[:120]


def check_file(path: Path) -> None:
    """Refuse what is not a file with something in it; nothing is opened.

    Raises:
        InputError: as `open_still`, for what the file system says.
    """
    name = quoted(path)
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder: give an image file.")
        if not path.exists():
            refuse_url(path)
            raise InputError(f"{name} does not exist: check the path.")
        if not path.is_file():
            raise InputError(f"{name} is not a regular file: give an image file.")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty: give an image file.")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read ({short(error)}): check the path.") from None


@contextmanager
def _without_pillow_limits() -> Iterator[None]:
    """Lift Pillow's limits while a header is read: the error that comes at 179 megapixels, and the one at a PNG's
    profile or text of more than a megabyte, which tables of colours have."""
    with _LIMIT_LOCK:
        limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, PngImagePlugin.MAX_TEXT_MEMORY
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _open(source: Path | bytes, name: str) -> Image.Image:
    head = _head(source)
    heic = head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS
    if heic:
        with suppress(ImportError):
            from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

            register_heif_opener()
    Image.init()
    try:
        with _without_pillow_limits():
            formats = [known for known in [*_FORMATS, "HEIF"] if known in Image.OPEN]
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except UnidentifiedImageError:
        if heic and "HEIF" not in Image.OPEN:
            raise InputError(f"{name} is HEIC, which needs pillow-heif: run 'pip install pillow-heif'.") from None
        raise
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # An uncompressed TIFF whose file has a name is mapped into memory, with width and height exchanged where the
        # orientation turns it on its side (Pillow 13).
        image.filename = ""
    return image


def _check_image(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise InputError(f"{name} has no pixels ({width}x{height}): give an image of at least 1x1.")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels, over the limit of {MAX_PIXELS // 10**6} megapixels: make it smaller."
        )
    try:
        frames = count_frames(image)
    except Exception as error:
        raise InputError(f"{name} is truncated or damaged ({short(error)}): give an intact file.") from None
    if frames > 1 and image.format not in MANY_FRAMES_ONE_PHOTO:
        what = "pages" if image.format == "TIFF" else "frames and is animated"
        raise InputError(f"{name} has {frames} {what}: give a still image, such as one frame saved as PNG.")


def count_frames(image: Image.Image) -> int:
    """Count the frames of an image, or the full images of a TIFF, which is left at its first."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return tiff.count_pages(image)
    return int(getattr(image, "n_frames", 1))
