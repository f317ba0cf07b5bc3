"""How long a warm fill takes: a photo of 512 x 512 pixels, a quarter of it missing."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np

from .peers import PEERS, Method, timed
from .report import Record

SIZE = 512
REPEATS = 5
REFERENCES = ("telea", "biharmonic")


def quarter_hole(size: int) -> np.ndarray:
    """A square of half the side in the middle: (size, size) bool, a quarter of it True."""
    mask = np.zeros((size, size), bool)
    mask[size // 4 : size // 4 + size // 2, size // 4 : size // 4 + size // 2] = True
    return mask


def measure_speed(
    photo: np.ndarray, methods: dict[str, Method], clock: Callable[..., tuple[np.ndarray, float]] = timed
) -> list[Record]:
    """Median seconds of five fills after one that is not counted, and as a ratio to the reference methods.

    Args:
        photo: (size, size, 3) uint8.
        methods: to measure beside the references.
        clock: runs a method on a picture and a mask and tells its seconds.

    Returns:
        rows with "method", "seconds", "images_per_second" and "times_telea", "times_biharmonic".
    """
    mask = quarter_hole(len(photo))
    holed = photo.copy()
    holed[mask] = 127
    seconds = {}
    for name, method in {**{name: PEERS[name] for name in REFERENCES}, **methods}.items():
        method(holed, mask)
        seconds[name] = statistics.median(clock(method, holed, mask)[1] for _ in range(REPEATS))
    return [
        {
            "method": name,
            "seconds": value,
            "images_per_second": 1 / value,
            **{f"times_{reference}": value / seconds[reference] for reference in REFERENCES},
        }
        for name, value in seconds.items()
    ]


def format_speed(rows: list[Record], size: int = SIZE) -> str:
    """One line per method."""
    width = max(len(row["method"]) for row in rows) + 2
    head = "".join(f"{title:>14}" for title in ("seconds", "images/s", "x Telea", "x biharmonic"))
    lines = [f"warm fill, {size} px, hole 25 %, median of {REPEATS}", " " * width + head]
    for row in rows:
        lines.append(
            f"{row['method']:<{width}}{row['seconds']:14.3f}{row['images_per_second']:14.2f}"
            f"{row['times_telea']:14.2f}{row['times_biharmonic']:14.3f}"
        )
    return "\n".join(lines)
