"""Painting into a palette image without disturbing the pixels that stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["complete_palette", "extend_palette", "nearest_entry"]

UInt8Array = npt.NDArray[np.uint8]

_CLOSE_ENOUGH = 3 * 2.0**2
"""Squared RGB distance (2 levels per channel) below which an existing entry needs no new neighbour."""


def complete_palette(entries: UInt8Array, highest: int, transparency: bytes | int | None) -> UInt8Array:
    """The palette of an image as files have it, with an entry for every index in use and with its opacity.

    Args:
        entries: (K, 3) RGB or (K, 4) RGBA, uint8.
        highest: index in use. Files exist whose indices point past the palette; readers show such pixels black.
        transparency: the opacity of the first entries, a byte each, or the one entry that is transparent; what points
            past the palette is left out.

    Returns:
        (max(K, highest + 1), 4) uint8 RGBA.

    Example:
        >>> complete_palette(np.full((1, 3), 9, np.uint8), 1, b"\x07").tolist()
        [[9, 9, 9, 7], [0, 0, 0, 255]]
    """
    palette = np.zeros((max(len(entries), highest + 1), 4), np.uint8)
    palette[:, 3] = 255
    palette[: len(entries), : entries.shape[1]] = entries
    if isinstance(transparency, bytes):
        opacity = np.frombuffer(transparency, np.uint8)[: len(palette)]
        palette[: len(opacity), 3] = opacity
    elif isinstance(transparency, int) and transparency < len(palette):
        palette[transparency, 3] = 0
    return palette


def nearest_entry(colors: UInt8Array, palette: UInt8Array) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
    """Find the palette entry nearest to each colour in RGB.

    Args:
        colors: (N, 3) uint8.
        palette: (K, 3) uint8, K from 1 to 256.

    Returns:
        The entries (N,) uint8 and the squared distances (N,) float32.
    """
    index = np.empty(len(colors), dtype=np.uint8)
    distance = np.empty(len(colors), dtype=np.float32)
    entries = palette.astype(np.float32)
    norms = (entries**2).sum(axis=1)
    for start in range(0, len(colors), 1 << 15):
        part = colors[start : start + (1 << 15)].astype(np.float32)
        # |c - e|^2 without its first term, which is the same for every entry.
        partial = norms - 2 * (part @ entries.T)
        best = partial.argmin(axis=1)
        index[start : start + len(part)] = best
        distance[start : start + len(part)] = partial[np.arange(len(part)), best] + (part**2).sum(axis=1)
    return index, distance


def extend_palette(
    palette: UInt8Array, used: npt.NDArray[np.bool_], colors: UInt8Array, alpha: UInt8Array, bits: int
) -> tuple[UInt8Array, UInt8Array]:
    """Choose palette entries for new pixels, putting new colours into slots no staying pixel uses.

    Args:
        palette: (K, 4) uint8 RGBA entries.
        used: (K,) bool, the entries that pixels outside the hole use; these are never changed.
        colors: (N, 3) uint8, the wanted colours.
        alpha: (N,) uint8, the alpha each pixel has and keeps.
        bits: bits per index, so that at most `2**bits` entries exist afterwards.

    Returns:
        The entry of each pixel (N,) uint8, and the palette (K', 4) with K' >= K.
    """
    levels, counts = np.unique(alpha, return_counts=True)
    free = list(range(len(palette), 2**bits)) + np.flatnonzero(~used).tolist()
    if free and len(colors):
        level = levels[counts.argmax()]
        group = colors[alpha == level]
        kept = palette[used & (palette[:, 3] == level), :3]
        if len(kept):
            group = group[nearest_entry(group, kept)[1] > _CLOSE_ENOUGH]
        # Every other alpha level in the hole needs an entry of its own to stay what it is.
        reserved = {
            int(np.flatnonzero(palette[:, 3] == other)[0])
            for other in levels
            if other != level and not (used & (palette[:, 3] == other)).any()
        }
        slots = [slot for slot in free if slot not in reserved]
        new = _median_cut(group, len(slots))
        palette = palette.copy()
        needed = max(slots[: len(new)], default=-1) + 1
        if needed > len(palette):
            padding = np.zeros((needed - len(palette), 4), dtype=np.uint8)
            padding[:, 3] = 255
            palette = np.concatenate([palette, padding])
        palette[slots[: len(new)], :3] = new
        palette[slots[: len(new)], 3] = level
    index = np.empty(len(colors), dtype=np.uint8)
    for level in levels:
        entries = np.flatnonzero(palette[:, 3] == level)
        chosen = alpha == level
        index[chosen] = entries[nearest_entry(colors[chosen], palette[entries, :3])[0]]
    return index, palette


def _median_cut(colors: UInt8Array, count: int) -> UInt8Array:
    """Return at most `count` colours (M, 3) that stand for `colors` (N, 3)."""
    if not len(colors) or count < 1:
        return np.empty((0, 3), dtype=np.uint8)
    distinct = np.unique(colors, axis=0)
    if len(distinct) <= count:
        return distinct
    strip = Image.fromarray(np.ascontiguousarray(colors[None]))
    cut = strip.quantize(colors=count, method=Image.Quantize.MEDIANCUT).getpalette() or []
    return np.array(cut, dtype=np.uint8).reshape(-1, 3)[:count]
