"""Boxes of a photo, (top, left, bottom, right) with the last two exclusive: slices, margins, intersections."""

from __future__ import annotations

from maerestore.image.box import Box


def slices(box: Box, frame: Box = (0, 0, 0, 0)) -> tuple[slice, slice]:
    """Index of a box in an array (h, w, ...) that covers the box `frame`, or the whole photo.

    Example:
        >>> slices((3, 4, 5, 6), frame=(1, 2, 9, 9))
        (slice(2, 4, None), slice(2, 4, None))
    """
    return slice(box[0] - frame[0], box[2] - frame[0]), slice(box[1] - frame[1], box[3] - frame[1])


def grow(box: Box, margin: int, photo_size: tuple[int, int]) -> Box:
    """A box with a margin on every side, as far as the photo goes; `photo_size` is (height, width)."""
    return (
        max(0, box[0] - margin),
        max(0, box[1] - margin),
        min(photo_size[0], box[2] + margin),
        min(photo_size[1], box[3] + margin),
    )


def intersection(one: Box, other: Box) -> Box:
    """The box that two overlapping boxes have in common."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
