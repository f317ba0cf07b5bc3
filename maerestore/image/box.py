"""Rectangles of a picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, the last two exclusive."""

_BAND = 1 << 22  # pixels


def row_bands(size: tuple[int, int], multiple: int = 1) -> Iterator[Box]:
    """Cut a picture into bands of full rows, so that work on a large one needs memory for one band only.

    Args:
        size: (width, height) in pixels.
        multiple: of which the bands have rows, all but the last.

    Yields:
        boxes of about four million pixels, or of so few rows, from top to bottom.

    Example:
        >>> list(row_bands((4_000_000, 3)))
        [(0, 0, 1, 4000000), (1, 0, 2, 4000000), (2, 0, 3, 4000000)]
    """
    width, height = size
    rows = max(1, _BAND // (width * multiple)) * multiple
    for top in range(0, height, rows):
        yield top, 0, min(top + rows, height), width


def span_of(mask: npt.NDArray[np.bool_]) -> Box:
    """The smallest box around what is True in (H, W) bool; something has to be.

    Example:
        >>> span_of(np.array([[False, False, False], [False, True, True]]))
        (1, 1, 2, 3)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
