"""Masks as people draw them, read as boolean arrays."""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maerestore.errors import MaerestoreWarning

from .box import Box, row_bands
from .canvas import ReadableImage
from .color import luma
from .decode import read_photo
from .errors import InputError, quoted
from .looks import is_drawing, is_photograph, looks_like_a_mask
from .photo import Photo
from .soft_edge import HALF, grown_over_edge

__all__ = ["erased", "erased_hole", "mask_is_empty", "mask_is_full", "mask_of", "read_mask"]

BoolArray = npt.NDArray[np.bool_]

_COPIED = 0.995
_ALIKE = np.float32(3.5 / 255)  # what another decoder or an editor may change nearly everywhere,
_STROKE = np.float32(64 / 255)  # and what it changes nowhere
_STRETCH = 0.03  # how far the scales of both sides may differ, besides a pixel that a small mask's sides are rounded by


def read_mask(
    path: str | os.PathLike[str],
    photo_size: tuple[int, int] | None,
    white: Literal["hole", "keep"] = "hole",
    resize: bool = False,
    photo: ReadableImage | None = None,
) -> BoolArray:
    """Read a mask from any image file, turned upright by its own EXIF orientation.

    An opaque mask is read by its Rec. 601 luma: 128 and more of 255 (half the range and more at any other
    depth) is white, and white is the hole. That holds for 1-bit, gray, RGB, CMYK and palette files, for JPEG
    with its ringing around edges, and for files whose alpha channel is opaque everywhere.

    A mask with transparent pixels (alpha under 128) says by its opaque pixels what it is:

    * No opaque pixel: nothing was painted, and the mask is empty.
    * A copy of the photo, when it shows what the photo shows: the transparent pixels are the hole, and with
      them the soft edge that a brush left (`maerestore.image.soft_edge`).
    * A drawing, when at most 8 colours (of 32 levels a channel) make up 95 % of the opaque pixels:
      strokes on a transparent layer. If it is gray and has both light and dark strokes, the light ones are
      the hole, as in an opaque mask. Otherwise everything painted is the hole, in whatever colour.
    * A photo, when there are more colours: a region of it was erased, and the transparent pixels are the
      hole, as of a copy.

    Args:
        path: the mask file.
        photo_size: (width, height) that the mask must have, upright; None to take any.
        white: "keep" inverts the result: white, painted or erased pixels stay and the others are filled.
        resize: bring a mask of another size to `photo_size` by nearest neighbour.
        photo: the photo that is to be filled, by which a copy of it is known.

    Returns:
        (H, W) bool, True where the photo is to be filled.

    Raises:
        InputError: the file cannot be read as a still image, has another size and `resize` is not set, or is painted
            and yet marks nothing: too faintly, or too darkly.
        ValueError: `white` is neither of its two values.

    Warns:
        MaerestoreWarning: it looks like a photograph, which is hardly meant, and `photo` does not look like a mask; or
            it is resized to another shape.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = tempfile.mkdtemp() + "/mask.png"
        >>> Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(file)
        >>> read_mask(file, (4, 1)).tolist()
        [[False, False, True, True]]
    """
    if white not in ("hole", "keep"):
        raise ValueError(f"white must be 'hole' or 'keep', not {white!r}")
    image = read_photo(path)
    name = quoted(os.fspath(path))
    try:
        mask = mask_of(image, photo)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if mask_is_empty(mask) and (brightest := _brightest(image)) > 0:
        depth = _depth(image)
        raise InputError(
            f"{name}: the brightest pixel of the mask is {brightest} of {2**depth - 1}, and white starts at "
            f"{2 ** (depth - 1)}: draw in white what is to be {'filled' if white == 'hole' else 'kept'}."
        )
    if white == "keep":
        mask = ~mask
    height, width = mask.shape
    if photo_size not in (None, (width, height)) and not resize:
        raise InputError(
            f"mask {name} is {width}x{height} but the photo is {photo_size[0]}x{photo_size[1]}: "
            "give a mask of the photo's size, or add --resize-mask."
        )
    doubtful = is_photograph(image) and not erased(image).any() and not (photo is not None and looks_like_a_mask(photo))
    if doubtful and not mask_is_empty(mask) and not mask_is_full(mask):  # which callers refuse, in one line
        warnings.warn(
            f"{name} looks like a photograph, not a mask: what is light in it is "
            f"{'filled' if white == 'hole' else 'kept'}; paint white on black, or on a transparent layer",
            MaerestoreWarning,
            stacklevel=2,
        )
    if photo_size in (None, (width, height)):
        return mask
    stretch = abs(np.log(photo_size[0] / width) - np.log(photo_size[1] / height))
    if stretch > _STRETCH + 1 / min(width, height, *photo_size) and not mask_is_empty(mask):
        warnings.warn(
            f"{name} is {width}x{height}, the photo {photo_size[0]}x{photo_size[1]}: of another shape, so that "
            "scaling distorts what it marks; see where with `maerestore show`",
            MaerestoreWarning,
            stacklevel=2,
        )
    rows = _nearest(photo_size[1], height)
    columns = _nearest(photo_size[0], width)
    return mask[rows[:, None], columns[None, :]]


def mask_of(image: Photo, photo: ReadableImage | None = None) -> BoolArray:
    """Read an image that is already loaded as a mask, by the rule of `read_mask`.

    Args:
        image: the mask.
        photo: the photo that it is for; a copy of it with a part erased is then known as one.

    Returns:
        (H, W) bool of the image's size, True = hole.

    Raises:
        InputError: something is painted on a transparent layer, but nowhere half opaque; the message names no file.

    Example:
        >>> mask_of(Photo(np.array([[0, 127, 128, 255]], dtype=np.uint8), "L")).tolist()
        [[False, False, True, True]]
    """
    opaque = ~erased(image)
    if opaque.all():
        return _bright(image)
    if not opaque.any():
        if (most := _most_opaque(image)) > 0:
            # It looks like a mask to whoever drew it: an empty one would leave the photo as it is without a word.
            raise InputError(
                f"nothing of the mask counts as painted: the paint is at most {100 * most:.0f} % opaque, and half is "
                "needed: paint with a brush (and a layer) of 100 % opacity."
            )
        return np.zeros_like(opaque)
    if photo is not None and _is_copy(image, photo, opaque):
        return grown_over_edge(image, ~opaque)
    drawn, gray = is_drawing(image, opaque)
    if not drawn:
        return grown_over_edge(image, ~opaque)
    bright = _bright(image)
    light = bright & opaque
    return light if gray and light.any() and (opaque & ~bright).any() else opaque


def erased(photo: Photo) -> BoolArray:
    """Say what is transparent (alpha under 128).

    Returns:
        (H, W) bool.

    Example:
        >>> erased(Photo(np.array([[[9, 127], [9, 128]]], dtype=np.uint8), "LA")).tolist()
        [[True, False]]
    """
    found = np.zeros(photo.size[::-1], dtype=bool)
    for window in row_bands(photo.size):
        alpha = photo.alpha(window)
        if alpha is not None:
            found[window[0] : window[2]] = alpha < HALF
    return found


def erased_hole(photo: Photo) -> BoolArray:
    """The mask that a photo carries itself: what is transparent, and the soft edge of what was erased.

    Returns:
        (H, W) bool, True = hole.

    Example:
        >>> layer = np.full((1, 7, 2), 255, dtype=np.uint8)
        >>> layer[0, 2:5, 1] = (0, 90, 200)
        >>> erased_hole(Photo(layer, "LA")).astype(int).tolist()
        [[0, 0, 1, 1, 1, 0, 0]]
    """
    return grown_over_edge(photo, erased(photo))


def mask_is_empty(mask: BoolArray) -> bool:
    """Return whether the mask leaves nothing to fill (all black).

    Example:
        >>> mask_is_empty(np.zeros((2, 2), dtype=bool))
        True
    """
    return not mask.any()


def mask_is_full(mask: BoolArray) -> bool:
    """Return whether the mask leaves no known pixel (all white).

    Example:
        >>> mask_is_full(np.ones((2, 2), dtype=bool))
        True
    """
    return bool(mask.all())


def _bright(image: Photo) -> BoolArray:
    half = 2 ** (_depth(image) - 1)
    return np.concatenate([_levels(image, window) >= half for window in row_bands(image.size)])


def _is_copy(image: Photo, photo: ReadableImage, opaque: BoolArray) -> bool:
    """Say whether an image is the photo, but for what was erased.

    It is where nearly all of its opaque majority is alike, and nothing is so different that it could be a stroke. What
    is of one colour throughout is paint, though the photo may be of the same.
    """
    if image.size != photo.size or 2 * opaque.sum() <= opaque.size:
        return False
    alike = 0
    low, high = np.ones(3, np.float32), np.zeros(3, np.float32)
    for window in row_bands(image.size):
        chosen = opaque[window[0] : window[2]]
        if not chosen.any():
            continue
        color = image.rgb(window)[chosen]
        difference = np.abs(color - photo.rgb(window)[chosen]).max(axis=-1)
        if difference.max() > _STROKE:
            return False
        alike += np.count_nonzero(difference <= _ALIKE)
        low, high = np.minimum(low, color.min(axis=0)), np.maximum(high, color.max(axis=0))
    return bool(alike >= _COPIED * opaque.sum() and (low < high).any())


def _levels(image: Photo, window: Box) -> npt.NDArray[Any]:
    """(h, w) brightness, in whole levels of `_depth` bits."""
    top, left, bottom, right = window
    if image.mode in ("1", "L"):
        return np.asarray(image.samples[top:bottom, left:right])
    if image.mode == "LA" and not image.premultiplied:
        return np.asarray(image.samples[top:bottom, left:right, 0])
    return np.rint(luma(image.rgb(window)) * np.float32(2 ** _depth(image) - 1))


def _depth(image: Photo) -> int:
    """Bits of a level of brightness."""
    return 8 if image.mode == "P" else image.bits


def _brightest(image: Photo) -> int:
    """The highest level of what is opaque; 0 where nothing is."""
    highest = 0
    for window in row_bands(image.size):
        alpha = image.alpha(window)
        levels = _levels(image, window)
        highest = max(highest, int((levels if alpha is None else levels[alpha >= HALF]).max(initial=0)))
    return highest


def _most_opaque(image: Photo) -> float:
    """The highest alpha, in [0, 1]."""
    bands = (image.alpha(window) for window in row_bands(image.size))
    return max(1.0 if alpha is None else float(alpha.max()) for alpha in bands)


def _nearest(new: int, old: int) -> npt.NDArray[np.intp]:
    """Indices of the old pixels whose centres are nearest to those of the new ones."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
