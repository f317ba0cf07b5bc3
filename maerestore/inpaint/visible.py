"""What of a photo with transparent pixels counts as known, and what is seen in place of the others.

Under a transparent pixel a file holds an arbitrary colour: black, white, or what an eraser left. So transparent pixels
outside the holes are unknown, like the holes, and the colours of the visible ones around are seen in their place. In
the output they stay as they are, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from maerestore.image.box import Box, row_bands
from maerestore.image.canvas import Canvas, ReadableImage
from maerestore.inpaint.boxes import slices

DISTANT = 8  # pixels; in squares of this side colours are taken where none is visible in the whole of a window


def unknown_pixels(photo: Canvas, mask: np.ndarray) -> np.ndarray:
    """The holes and the transparent pixels of a photo.

    Args:
        photo: the photo.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W) bool; `mask` itself where nothing outside it is transparent, or all is: colours are then all there is.
    """
    unknown = mask
    for band in row_bands(photo.size):
        alpha = photo.alpha(band)
        if alpha is None:
            return mask
        if (alpha <= 0).any():
            unknown = mask.copy() if unknown is mask else unknown
            unknown[slices(band)] |= alpha <= 0
    if unknown is mask or unknown.all() or unknown.sum() == mask.sum():
        return mask
    return unknown


@dataclass(frozen=True, eq=False)
class VisiblePhoto:
    """A photo in whose transparent pixels the colours of the visible ones around are seen.

    Attributes:
        photo: the photo.
        mask: (H, W) bool, its holes, whose colours no pixel is given.
        unknown: (H, W) bool, what `unknown_pixels` gave.
    """

    photo: ReadableImage
    mask: np.ndarray
    unknown: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.photo.size

    def rgb(self, window: Box | None = None) -> np.ndarray:
        """(h, w, 3) float32 in [0, 1], as `Photo.rgb`; in the holes what lies there."""
        box = window or (0, 0, self.size[1], self.size[0])
        clear = self.unknown[slices(box)] & ~self.mask[slices(box)]
        image = self.photo.rgb(box)
        if not clear.any():
            return image
        if self.unknown[slices(box)].all():
            image[clear] = self._distant(box)[clear]
        else:
            image[clear] = _spread(image, ~self.unknown[slices(box)])[clear]
        return image

    def _distant(self, box: Box) -> np.ndarray:
        """(h, w, 3): the colours of a window in which nothing is visible, from the visible ones of the whole photo."""
        rows, columns = (np.arange(box[i], box[i + 2]) // DISTANT for i in (0, 1))
        return self._small[rows[:, None], columns]

    @cached_property
    def _small(self) -> np.ndarray:
        """The photo in squares of `DISTANT` pixels: the mean of what is visible in each, or of what is nearest."""
        width, height = self.size
        down, across = -(-height // DISTANT), -(-width // DISTANT)
        total, share = np.zeros((down, across, 3), np.float32), np.zeros((down, across), np.float32)
        for top, _, bottom, _ in row_bands((width, height), multiple=DISTANT):
            known = ~self.unknown[top:bottom]
            pad = ((0, -(bottom - top) % DISTANT), (0, -width % DISTANT))
            band = slice(top // DISTANT, -(-bottom // DISTANT))
            size = (across, band.stop - band.start)
            image = self.photo.rgb((top, 0, bottom, width)) * known[..., None]
            total[band] = cv2.resize(np.pad(image, (*pad, (0, 0))), size, interpolation=cv2.INTER_AREA).reshape(
                size[1], across, 3
            )
            share[band] = cv2.resize(np.pad(known, pad).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return _spread(total / np.maximum(share, 1 / DISTANT**2)[..., None], share > 0)


def visible_photo(photo: ReadableImage, mask: np.ndarray, unknown: np.ndarray) -> ReadableImage:
    """The photo itself where nothing in it is transparent, or else its `VisiblePhoto`."""
    return photo if unknown is mask else VisiblePhoto(photo, mask, unknown)


def _spread(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`image` (h, w, 3) with means of what is known in the place of what is not, the coarser the further away."""
    if known.all():
        return image
    height, width = known.shape
    pad = ((0, height % 2), (0, width % 2))
    size = ((width + 1) // 2, (height + 1) // 2)
    # Even sides, so that each pixel of the smaller picture is the mean of four.
    share = cv2.resize(np.pad(known, pad).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.pad(image * known[..., None], (*pad, (0, 0))), size, interpolation=cv2.INTER_AREA)
    share = share.reshape(size[1], size[0])
    small = _spread(total / np.maximum(share, 0.25)[..., None], share > 0)
    large = cv2.resize(small, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)[:height, :width]
    return np.where(known[..., None], image, large).astype(np.float32)
