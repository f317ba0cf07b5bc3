"""What reads and fills an image asks of it: a `Photo` has these methods, and so has a float array's `FloatImage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from .box import Box, row_bands

if TYPE_CHECKING:
    from .photo import Piece


class ReadableImage(Protocol):
    """An image whose colours can be read."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    def rgb(self, window: Box | None = None) -> npt.NDArray[np.float32]:
        """(h, w, 3) float32 in [0, 1], of the whole image or of a window."""


class Canvas(ReadableImage, Protocol):
    """An image that can be filled."""

    def alpha(self, window: Box | None = None) -> npt.NDArray[Any] | None:
        """(h, w) opacity in [0, 1]; None without transparency."""

    def with_fills(self, pieces: Sequence[Piece], opacities: Sequence[npt.NDArray[Any] | None] | None = None) -> Canvas:
        """A new image with the pieces filled, see `Photo.with_fills`."""


def is_transparent(image: Canvas) -> bool:
    """Whether any pixel is less than opaque."""
    for band in row_bands(image.size):
        alpha = image.alpha(band)
        if alpha is None:
            return False
        if alpha.min() < 1:
            return True
    return False
