"""What an image looks like: a photograph, a drawing of few colours, or a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .box import row_bands
from .canvas import ReadableImage
from .color import luma
from .photo import Photo

__all__ = ["is_drawing", "is_photograph", "looks_like_a_mask"]

_FEW_COLORS = 8
_MOSTLY = 0.95
_MIDDLE = (1 / 8, 7 / 8)  # what is between is neither near black nor near white
_MUCH = 0.25
_BEND = 1.5 / 255
_ROUGH = 1 / 3
_ROWS = 256  # that are looked at for it
_ENOUGH = 256  # pixels, to tell by
_EXTREME = 0.99
_NEAR = 1 / 512


def looks_like_a_mask(image: ReadableImage) -> bool:
    """Say whether nearly all of an image is black and white."""
    width, height = image.size
    shares = []
    for row in range(0, height, -(-height // _ROWS)):
        color = image.rgb((row, 0, row + 1, width))
        shares.append(((color < _NEAR) | (color > 1 - _NEAR)).mean())
    return bool(np.mean(shares) > _EXTREME)


def is_photograph(image: Photo) -> bool:
    """Say whether an opaque image has much that is neither near black nor near white, and not smooth as masks are.

    Second differences along rows tell the two apart: those above 1.5 of 255 are at most a quarter in soft edges and in
    flat paint of any colour, even after JPEG, and 0.44 to 0.98 in photographs.
    """
    if image.bits == 1:
        return False
    width, height = image.size
    middling = rough = count = 0
    for row in range(0, height, -(-height // _ROWS)):
        level = luma(image.rgb((row, 0, row + 1, width)))[0]
        middle = (level > _MIDDLE[0]) & (level < _MIDDLE[1])
        middling, count = middling + np.count_nonzero(middle), count + width
        rough += np.count_nonzero(np.abs(np.diff(level, 2))[middle[1:-1]] > _BEND)
    return count >= _ENOUGH and middling > _MUCH * count and rough > _ROUGH * middling


def is_drawing(image: Photo, opaque: npt.NDArray[np.bool_]) -> tuple[bool, bool]:
    """Say whether few colours make up the opaque pixels, and whether those are all gray."""
    counts = np.zeros(1 << 15, dtype=np.int64)
    for window in row_bands(image.size):
        color = image.rgb(window)[opaque[window[0] : window[2]]]
        levels = np.minimum(color * 32, 31).astype(np.int32)
        counts += np.bincount(levels @ np.array([1 << 10, 1 << 5, 1]), minlength=1 << 15)
    commonest = np.argsort(counts)[: -_FEW_COLORS - 1 : -1]
    drawn = counts[commonest].sum() >= _MOSTLY * counts.sum()
    commonest = commonest[counts[commonest] > 0]
    channels = np.stack([commonest >> 10, (commonest >> 5) & 31, commonest & 31])
    gray = (channels.max(axis=0) - channels.min(axis=0) <= 2).all()
    return bool(drawn), bool(gray)
