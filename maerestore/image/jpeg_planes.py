"""The brightness and colour planes of a JPEG as they are stored, so that what was not changed can be stored again.

A JPEG holds brightness (Y) and colour (Cb, Cr), colour mostly at half the size (4:2:0) or half the width (4:2:2).
Decoders enlarge the colour smoothly; halved again by an encoder it is not what it was, and colours drift along every
edge of the photo. So the planes are taken from the file itself, and only changed pixels from the photo. Encoded with
the file's own tables, a pixel far from every change then comes back as it was, up to a rounding here and there. (In
photos that were turned it does where the sides are whole blocks, as those of cameras are.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .box import Box
from .exif import turn_upright
from .metadata import JpegSettings
from .opening import open_still

__all__ = ["recomposed"]

_FULL, _HALF, _QUARTER = 0, 1, 2  # of chroma, as Pillow numbers them: 4:4:4, 4:2:2 and 4:2:0
_BAND = 16  # rows compared at a time


def recomposed(samples: npt.NDArray[Any], settings: JpegSettings) -> Image.Image | None:
    """A photo in the planes of the JPEG that it was read from.

    Args:
        samples: (H, W, 3) uint8 RGB, the photo, upright; pixels that differ from the file's count as changed.
        settings: of the file.

    Returns:
        an image in mode "YCbCr", to be encoded with the same subsampling; None where the file stores no such planes
        (gray, RGB, CMYK), in another subsampling, or where it is not at hand.
    """
    before = settings.decoded
    if settings.encoded is None or before is None or before.shape != samples.shape:
        return None
    if settings.keep_rgb or settings.subsampling not in (_FULL, _HALF, _QUARTER):
        return None
    if settings.subsampling == _HALF and settings.orientation in (2, 3) and samples.shape[1] % 2:
        return None  # mirrored, pairs of an odd width are other pairs
    try:
        planes = _upright(_planes(settings), settings)
    except Exception:  # it could be read before: whatever happens here must not keep a photo from being written
        return None
    if (planes.height, planes.width) != samples.shape[:2]:
        return None
    if (found := _changed(before, samples)) is not None:
        (top, left, bottom, right), changed = found
        part = np.ascontiguousarray(samples[top:bottom, left:right])
        new = Image.fromarray(part).convert("YCbCr")
        planes.paste(new, (left, top), Image.fromarray(changed.astype(np.uint8) * np.uint8(255)))
    planes.info = {}  # the file's metadata, which Pillow would write, is the photo's affair
    return planes


def _planes(settings: JpegSettings) -> Image.Image:
    """The planes, as stored; chroma of half the size is repeated, not interpolated."""
    if settings.subsampling == _FULL:
        return _decode(settings, "YCbCr")
    if settings.subsampling == _HALF:
        brightness, *enlarged = _decode(settings, "YCbCr").split()
        return Image.merge("YCbCr", [brightness, *(Image.fromarray(_repeated(np.asarray(c))) for c in enlarged)])
    with ThreadPoolExecutor(1) as pool:  # Pillow decodes without the lock of the interpreter
        # At half the size, 4:2:0 chroma is decoded as it is stored.
        halved = pool.submit(_decode, settings, "YCbCr", True)
        brightness = _decode(settings, "L")
        chroma = halved.result().split()[1:]
    width, height = brightness.size
    if chroma[0].size != ((width + 1) // 2, (height + 1) // 2):
        raise ValueError(f"chroma of {chroma[0].size} for {brightness.size}")
    large = [np.asarray(plane).repeat(2, 0)[:height].repeat(2, 1)[:, :width] for plane in chroma]
    return Image.merge("YCbCr", [brightness, *(Image.fromarray(np.ascontiguousarray(plane)) for plane in large)])


def _decode(settings: JpegSettings, mode: str, halve: bool = False) -> Image.Image:
    """The file in a mode, at its own size or at half of that, with its metadata."""
    with open_still(settings.encoded or b"") as image:
        image.draft(mode, (image.width // 2, image.height // 2) if halve else image.size)  # rounded up by the decoder
        image.load()
        if image.mode != mode:
            raise ValueError(f"decoded as {image.mode}")
    return image


def _repeated(enlarged: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Chroma whose width a decoder has doubled, as stored, each value twice: (H, W).

    Of neighbours c and d the decoder makes (3 c + d) / 4 and (c + 3 d) / 4; of these two c follows up to rounding, and
    once more from the neighbour on the other side.

    Example:
        >>> stored = np.array([[10, 50, 50, 210]])
        >>> enlarged = np.array([[10, 20, 40, 50, 50, 90, 170, 210]], np.uint8)
        >>> _repeated(enlarged)[0, ::2].tolist()
        [10, 50, 50, 210]
    """
    width = enlarged.shape[1]
    values = np.pad(enlarged, ((0, 0), (0, width % 2)), mode="edge").astype(np.int16)
    left, right = values[:, ::2], values[:, 1::2]
    stored = np.empty_like(left)
    stored[:, 0], stored[:, -1] = left[:, 0], right[:, -1]  # at the ends it is repeated
    before = 3 * left[:, 1:-1] - right[:, :-2]  # twice the value
    behind = 3 * right[:, 1:-1] - left[:, 2:]
    stored[:, 1:-1] = (before + behind + 2) >> 2
    if width % 2 and stored.shape[1] > 2:  # the last value lacks its second half
        stored[:, -1] = (4 * left[:, -1] - stored[:, -2] + 1) // 3
    return np.repeat(stored.clip(0, 255).astype(np.uint8), 2, axis=1)[:, :width]


def _upright(planes: Image.Image, settings: JpegSettings) -> Image.Image:
    if settings.orientation == 1:
        return planes
    turned = turn_upright(np.asarray(planes), settings.orientation)
    return Image.merge("YCbCr", [Image.fromarray(np.ascontiguousarray(turned[..., i])) for i in range(3)])


def _changed(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> tuple[Box, npt.NDArray[np.bool_]] | None:
    """What spans the pixels that differ, and which in it do; None where none do."""
    height = len(before)
    # Whole bands first, which compares a large photo several times faster than its pixels.
    bands = [
        top
        for top in range(0, height, _BAND)
        if not np.array_equal(before[top : top + _BAND], after[top : top + _BAND])
    ]
    if not bands:
        return None
    top, bottom = bands[0], min(height, bands[-1] + _BAND)
    differs = before[top:bottom] != after[top:bottom]
    changed = differs[..., 0] | differs[..., 1] | differs[..., 2]  # `any` along three values takes ten times as long
    columns = np.flatnonzero(changed.any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return (top, left, bottom, right), changed[:, left:right]
