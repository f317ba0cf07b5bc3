"""Settings of a fill: types and ranges, refused in one line."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from maerestore.image import InputError

SMOOTHEST = 64.0  # pixels of the model; its whole picture is a few times as wide


def check_fill(smooth: Any, size: Any, patch_size: int) -> None:
    """Refuse settings that an inpainter cannot work with.

    Args:
        smooth: sigma of the low-pass over the model's fill, in its pixels, from 0 to 64.
        size: pixels of the side that it sees windows at, a multiple of its patch size; None for its own.
        patch_size: of the model, in pixels.

    Raises:
        InputError: it names the setting and its value.
    """
    from maerestore.model.config import LARGEST_GRID  # loads torch

    if isinstance(smooth, bool) or not isinstance(smooth, (int, float)) or not 0 <= smooth <= SMOOTHEST:
        raise InputError(f"smooth must be a number of pixels from 0 to {SMOOTHEST:g}, got {repr(smooth)[:40]}")
    if size is None:
        return
    check_whole("size", size, at_least=1)
    if size % patch_size or size > LARGEST_GRID * patch_size:
        raise InputError(f"size must be a multiple of {patch_size}, at most {LARGEST_GRID * patch_size}, got {size}")


def check_settings(sharp: Any, feather: Any, seed: Any) -> int:
    """Refuse settings of a fill that are of another type or out of range.

    Returns:
        the seed, as `check_seed`.

    Raises:
        InputError: it names the setting and its value.
    """
    if not isinstance(sharp, (bool, np.bool_)):
        raise InputError(f"sharp must be True or False, got {sharp!r}")
    check_whole("feather", feather)
    return check_seed(seed)


def check_whole(name: str, value: Any, at_least: int = 0) -> None:
    """Refuse what is no whole number from `at_least`, or more than any photo has pixels along a side."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not at_least <= value < 2**31:
        unit = " of pixels" if name in ("dilate", "feather") else ""
        raise InputError(f"{name} must be a whole number{unit}, {at_least} or more, got {repr(value)[:40]}")


def check_seed(seed: Any) -> int:
    """The seed as an int of Python, from whatever kind of whole number.

    Raises:
        InputError: no whole number, or one that does not fit 64 bits.
    """
    try:
        number = operator.index(seed)  # a generator of torch takes no integers of NumPy
    except TypeError:
        number = None
    if number is None or isinstance(seed, bool):
        raise InputError(f"seed must be a whole number, got {seed!r}")
    if not -(2**63) <= number < 2**64:
        raise InputError(f"seed must fit 64 bits, got {number}")
    return number
