"""Bring a photo into a mode and depth that another file format can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .color import ALPHA_MODES
from .errors import InputError
from .photo import Photo

__all__ = ["FORMATS", "fit", "profile_fits", "target_of"]

_PNG = {"1": (1,), "L": (2, 4, 8, 16), "LA": (8, 16), "P": (1, 2, 4, 8), "RGB": (8, 16), "RGBA": (8, 16)}
FORMATS: dict[str, dict[str, tuple[int, ...]]] = {
    "PNG": _PNG,
    "TIFF": {**_PNG, "LA": (8,), "CMYK": (8, 16)},  # Pillow does not open 16-bit LA
    "JPEG": {"L": (8,), "RGB": (8,), "CMYK": (8,)},
    "WEBP": {"RGB": (8,), "RGBA": (8,)},
    "BMP": {"1": (1,), "L": (8,), "P": (1, 2, 4, 8), "RGB": (8,), "RGBA": (8,)},
    "GIF": {"1": (1,), "L": (8,), "P": (1, 2, 4, 8)},
    "PPM": {"1": (1,), "L": (8, 16), "RGB": (8, 16)},
}
"""For each format that can be written: its modes, and the bits per sample of each."""

_OPAQUE_FORMATS = ("JPEG", "PPM")
_WIDER = {
    "1": ("1", "L", "RGB"),
    "L": ("L", "RGB"),
    "LA": ("LA", "RGBA"),
    "P": ("P", "RGB"),
    "RGB": ("RGB",),
    "RGBA": ("RGBA",),
    "CMYK": ("CMYK", "RGB"),
}
_WITH_ALPHA = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA", "CMYK": "RGBA"}
_WITHOUT_ALPHA = {"LA": "L", "RGBA": "RGB"}


def fit(photo: Photo, file_format: str, transparent: bool | None = None) -> Photo:
    """Return the photo in the mode nearest to its own that `file_format` holds.

    A photo the format can hold comes back as it is. Otherwise gray becomes RGB, a palette is looked up, CMYK
    becomes RGB, 16 bits are rounded to 8, and an alpha channel that is opaque everywhere is left out;
    transparency is never dropped or flattened.

    Args:
        photo: the photo.
        file_format: a key of `FORMATS`.
        transparent: whether any pixel is less than opaque, where that is known; None to look.

    Raises:
        InputError: as `target_of`.
    """
    if photo.extra_channel and file_format != "TIFF":  # elsewhere it would be opacity
        color = np.ascontiguousarray(photo.samples[..., :-1])
        color = color[..., 0] if photo.mode == "LA" else color
        photo = replace(photo, samples=color, mode=_WITHOUT_ALPHA[photo.mode], extra_channel=False)
    target = target_of(photo, file_format, photo.is_transparent() if transparent is None else transparent)
    if photo.format != file_format and photo.premultiplied:
        photo = _straight(photo)
    if target is None:
        return photo
    mode, bits = target
    samples = _converted(photo, mode, bits)
    metadata = photo.metadata
    if metadata.icc and not profile_fits(metadata.icc, mode):
        metadata = replace(metadata, icc=None)
    return replace(
        photo,
        samples=samples,
        mode=mode,
        bits=bits,
        palette=photo.palette if mode == "P" else None,
        color_key=None,
        metadata=metadata,
    )


def target_of(photo: Photo, file_format: str, transparent: bool) -> tuple[str, int] | None:
    """Choose the mode and the bits per sample to convert a photo to; None where the format holds it as it is.

    Args:
        photo: the photo; its samples are not looked at.
        file_format: a key of `FORMATS`.
        transparent: whether any pixel is less than opaque.

    Raises:
        InputError: the photo has transparent pixels, or more colours, than the format can hold.
    """
    modes = FORMATS[file_format]
    if _holds(photo, file_format, transparent):
        return None
    mode = photo.mode
    if transparent and mode not in ALPHA_MODES:
        mode = _WITH_ALPHA[mode]
    elif not transparent and mode in ALPHA_MODES and mode not in modes:
        mode = _WITHOUT_ALPHA[mode] if photo.mode == "LA" and "L" in modes else mode
        if mode in ALPHA_MODES and "RGBA" not in modes:
            mode = _WITHOUT_ALPHA[mode]
    candidates = [candidate for candidate in _WIDER[mode] if candidate in modes]
    target = next((c for c in candidates if photo.bits in modes[c]), next(iter(candidates), None))
    if target is None and transparent and (file_format in _OPAQUE_FORMATS or file_format == "GIF"):
        raise InputError(f"{file_format} cannot hold this photo's transparency: write .png, .webp or .tif.")
    if target is None:
        raise InputError(f"{file_format} cannot hold this photo's colours: write .png, .webp or .tif.")
    bits = max((depth for depth in modes[target] if depth <= photo.bits), default=modes[target][0])
    if photo.mode == "CMYK" and target == "RGB":
        bits = 8  # the conversion is Pillow's, which has no other depth
    return target, bits


def _holds(photo: Photo, file_format: str, transparent: bool) -> bool:
    if photo.bits not in FORMATS[file_format].get(photo.mode, ()):
        return False
    if photo.color_key is not None:
        return file_format == "PNG" or not transparent
    if photo.palette is not None and transparent:
        see_through = photo.palette[:, 3] < 255
        single = see_through.sum() == 1 and photo.palette[see_through, 3].item() == 0
        return file_format == "PNG" or (file_format == "GIF" and bool(single))
    return True


def profile_fits(icc: bytes, mode: str) -> bool:
    """Whether a profile is one of the kind of colours that a mode has."""
    space = {"1": b"GRAY", "L": b"GRAY", "LA": b"GRAY", "CMYK": b"CMYK"}.get(mode, b"RGB ")
    return icc[16:20] == space


def _straight(photo: Photo) -> Photo:
    """Divide premultiplied colours by their alpha."""
    top = np.float32(2**photo.bits - 1)
    samples = photo.samples.copy()
    for row in samples:
        alpha = np.maximum(row[:, -1:], 1).astype(np.float32)
        row[:, :-1] = np.rint(np.minimum(row[:, :-1] / alpha, np.float32(1)) * top)
    return replace(photo, samples=samples, premultiplied=False)


def _converted(photo: Photo, mode: str, bits: int) -> npt.NDArray[Any]:
    """Samples of `photo` in `mode`; integers throughout, so that equal depths convert exactly."""
    samples, depth = photo.samples, photo.bits
    if photo.mode == "CMYK" and mode == "RGB":
        ink = np.ascontiguousarray(_at_depth(samples, depth, 8))
        return np.asarray(Image.frombuffer("CMYK", photo.size, ink, "raw", "CMYK", 0, 1).convert("RGB"))
    if photo.mode == "P" and mode != "P":
        assert photo.palette is not None
        entries = photo.palette if mode == "RGBA" else photo.palette[:, :3]
        return np.take(entries, samples, axis=0)
    alpha: npt.NDArray[Any] | None = None
    if mode in ALPHA_MODES:
        if photo.mode in ALPHA_MODES:
            alpha = samples[..., -1:]
        else:
            opacity = photo.alpha()
            assert opacity is not None
            alpha = (opacity * (2**depth - 1)).astype(samples.dtype)[..., None]
    color = samples if photo.mode in ("RGB", "CMYK") else np.atleast_3d(samples)
    if photo.mode in ALPHA_MODES:
        color = color[..., :-1]
    if mode in ("RGB", "RGBA") and color.shape[-1] == 1:
        color = np.repeat(color, 3, axis=-1)
    if alpha is not None:
        color = np.concatenate([color, alpha], axis=-1)
    if mode in ("1", "L", "P"):
        color = color[..., 0]
    return np.ascontiguousarray(_at_depth(color, depth, bits)) if mode != "P" else color


def _at_depth(samples: npt.NDArray[Any], old: int, new: int) -> npt.NDArray[Any]:
    """Rescale from `old` to `new` bits per sample: exactly upwards, to the nearest downwards."""
    if old == new:
        return samples
    if old < new:
        dtype = np.uint16 if new > 8 else np.uint8
        wide: npt.NDArray[Any] = samples.astype(dtype)
        return np.asarray(wide * ((2**new - 1) // (2**old - 1)))
    # (v + 128) // 257 is v / 257 rounded; bands keep the wider intermediate small
    result = np.empty(samples.shape, dtype=np.uint8)
    for row in range(len(samples)):
        result[row] = (samples[row].astype(np.uint32) + 128) // 257
    return result
