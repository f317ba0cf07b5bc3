"""Open image files, and refuse what is not one still image."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from . import tiff
from .errors import InputError, quoted

__all__ = ["MAX_PIXELS", "open_still", "short"]

MAX_PIXELS = 200_000_000
"""The most pixels a photo or mask may have."""

_FORMATS = ["PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "PSD", "QOI"]
_MANY_FRAMES_ONE_PHOTO = ("MPO", "PSD", "HEIF")  # previews, layers and further shots, not an animation
_READABLE = "PNG, JPEG, TIFF, WebP, BMP, GIF, AVIF, JPEG 2000 or PPM"
_LIMIT_LOCK = threading.Lock()


def open_still(path: Path) -> Image.Image:
    """Open an image file without decoding its pixels; the caller closes it.

    Raises:
        InputError: the file is not one still image of 1 to `MAX_PIXELS` pixels, as far as its header says.
    """
    name = quoted(path)
    _check_file(path)
    try:
        image = _open(path)
    except UnidentifiedImageError:
        if _signature(path) in (b"II*\0", b"MM\0*"):
            raise InputError(
                f"{name} is damaged, or a TIFF with unusual samples: save it with 8 or 16 bits per channel."
            ) from None
        raise InputError(f"{name} is not an image, or is damaged: give a {_READABLE} file.") from None
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{name} cannot be read: allow reading it, then try again.") from None
    except Exception as error:
        raise InputError(f"{name} is damaged and cannot be opened ({short(error)}): give an intact file.") from None
    try:
        _check_image(image, path)
    except BaseException:
        image.close()
        raise
    return image


def _signature(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def short(error: BaseException) -> str:
    """Return the first line of an error's message, for use inside another."""
    return (str(error) or type(error).__name__).splitlines()[0].strip().rstrip(".")[:120]


def _check_file(path: Path) -> None:
    name = quoted(path)
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder: give an image file.")
        if not path.exists():
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
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit, whose error comes at 179 megapixels, while a header is read."""
    with _LIMIT_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(path: Path) -> Image.Image:
    if path.suffix.lower() in (".heic", ".heif", ".hif"):
        try:
            from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise InputError(
                f"{quoted(path)} is HEIC, which needs pillow-heif: run 'pip install pillow-heif'."
            ) from None
        register_heif_opener()
    Image.init()
    with _without_pillow_limit():
        return Image.open(path, formats=[name for name in [*_FORMATS, "HEIF"] if name in Image.OPEN])


def _check_image(image: Image.Image, path: Path) -> None:
    name = quoted(path)
    width, height = image.size
    if min(width, height) < 1:
        raise InputError(f"{name} has no pixels ({width}x{height}): give an image of at least 1x1.")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels, over the limit of {MAX_PIXELS // 10**6} megapixels: make it smaller."
        )
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            frames = tiff.count_pages(image)
        else:
            frames = getattr(image, "n_frames", 1)
    except Exception as error:
        raise InputError(f"{name} is truncated or damaged ({short(error)}): give an intact file.") from None
    if frames > 1 and image.format not in _MANY_FRAMES_ONE_PHOTO:
        what = "pages" if image.format == "TIFF" else "frames and is animated"
        raise InputError(f"{name} has {frames} {what}: give a still image, such as one frame saved as PNG.")
