"""EXIF orientation: reading it, turning arrays upright, and resetting the tag in place.

EXIF blocks are patched byte for byte rather than parsed and written anew: maker notes hold absolute
offsets, which a rewritten block would break.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "orientation_of",
    "states_anything",
    "turn_upright",
    "upright_exif",
    "upright_xmp",
    "without_thumbnail",
]

ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_STRIP_OFFSETS, _STRIP_LENGTHS = 0x0111, 0x0117
_SHORT, _LONG = 3, 4
_PREFIX = b"Exif\x00\x00"


@dataclass(frozen=True)
class _Entry:
    tag: int
    type: int
    count: int
    value_at: int  # offset of the four value bytes in the block


class _Block:
    """A mutable EXIF block: a TIFF header and its directories."""

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self.base = len(_PREFIX) if exif.startswith(_PREFIX) else 0
        self.order = {b"II": "<", b"MM": ">"}.get(bytes(self.data[self.base : self.base + 2]), "")
        if not self.order:
            raise ValueError("not an EXIF block")

    def unpack(self, code: str, at: int) -> int:
        return int(struct.unpack_from(self.order + code, self.data, at)[0])

    def pack(self, code: str, at: int, value: int) -> None:
        struct.pack_into(self.order + code, self.data, at, value)

    def first_directory(self) -> int:
        return self.base + self.unpack("L", self.base + 4)

    def next_link(self, directory: int) -> int:
        """Offset of the link to the next directory."""
        return directory + 2 + 12 * self.unpack("H", directory)

    def entries(self, directory: int) -> Iterator[_Entry]:
        for index in range(self.unpack("H", directory)):
            at = directory + 2 + 12 * index
            yield _Entry(self.unpack("H", at), self.unpack("H", at + 2), self.unpack("L", at + 4), at + 8)

    def read(self, entry: _Entry) -> int:
        return self.unpack("H" if entry.type == _SHORT else "L", entry.value_at)

    def values(self, entry: _Entry) -> list[int]:
        """All numbers of an entry, which lie elsewhere where they are many."""
        code, size = ("H", 2) if entry.type == _SHORT else ("L", 4)
        at = entry.value_at if size * entry.count <= 4 else self.base + self.unpack("L", entry.value_at)
        if at + size * entry.count > len(self.data):
            return []
        return [self.unpack(code, at + size * i) for i in range(entry.count)]

    def write(self, entry: _Entry, value: int) -> None:
        self.pack("H" if entry.type == _SHORT else "L", entry.value_at, value)


def orientation_of(exif: bytes | None) -> int:
    """Return the orientation (1 to 8) an EXIF block states; 1 where it states none or is damaged.

    Args:
        exif: an EXIF block with or without its `Exif\\0\\0` prefix, or None.
    """
    try:
        block = _Block(exif or b"")
        for entry in block.entries(block.first_directory()):
            if entry.tag == ORIENTATION and entry.type in (_SHORT, _LONG):
                value = block.read(entry)
                return value if 1 <= value <= 8 else 1
    except (ValueError, struct.error):
        pass
    return 1


def states_anything(exif: bytes) -> bool:
    """Return whether a block is EXIF: its first directory lies in it, with a tag that can be read or with none at all.

    What else of it is odd or cut off does not matter, for other programs may still read the rest.

    Args:
        exif: a block with or without its `Exif\\0\\0` prefix.

    Example:
        >>> states_anything(b"II*\\0\\x08\\0\\0\\0\\0\\0"), states_anything(b"garbage")
        (True, False)
    """
    try:
        block = _Block(exif)
        next(block.entries(block.first_directory()), None)
    except (ValueError, struct.error):
        return False
    return True


def turn_upright(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return `samples` (H, W) or (H, W, C) as they should be looked at.

    Args:
        samples: rows and columns as stored.
        orientation: the EXIF orientation, 1 to 8; 5 to 8 swap height and width.

    Example:
        >>> turn_upright(np.array([[1, 2]]), 6).tolist()
        [[1], [2]]
    """
    if orientation == 1:
        return samples
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def upright_exif(exif: bytes) -> bytes:
    """Return the block with its orientation set to 1 and, where it was turned, pixel dimensions swapped.

    What is damaged comes back as it is, as does what a damaged part hides; but an orientation that
    `orientation_of` reads is always reset, for the pixels are turned by it.
    """
    turned = orientation_of(exif) >= 5
    with suppress(ValueError, struct.error):
        block = _Block(exif)
        with suppress(struct.error):
            _reset_orientation(block, swap=turned)
        return bytes(block.data)
    return exif


def _reset_orientation(block: _Block, swap: bool) -> None:
    """Change the first directory and the Exif directory, each once: pointers of a damaged block may form a ring."""
    first = block.first_directory()
    inner: int | None = None
    for entry in block.entries(first):
        if entry.tag == ORIENTATION and entry.type in (_SHORT, _LONG):
            block.write(entry, 1)
        elif entry.tag == _EXIF_IFD:
            inner = block.base + block.read(entry)
    if not swap or inner is None or inner == first:
        return
    found = {entry.tag: entry for entry in block.entries(inner) if entry.type in (_SHORT, _LONG)}
    if _PIXEL_X in found and _PIXEL_Y in found:
        x, y = found[_PIXEL_X], found[_PIXEL_Y]
        width, height = block.read(x), block.read(y)
        if x.type == y.type or max(width, height) < 1 << 16:
            block.write(x, height)
            block.write(y, width)


def without_thumbnail(exif: bytes) -> bytes:
    """Return the block without its thumbnail: blanked, and its directory unlinked.

    A camera's thumbnail shows the photo before the fill; left in place, a file browser would go on
    showing what the user removed.
    """
    try:
        block = _Block(exif)
        link = block.next_link(block.first_directory())
        second = block.unpack("L", link)
        if second:
            found = {entry.tag: block.values(entry) for entry in block.entries(block.base + second)}
            for offsets, lengths in ((_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH), (_STRIP_OFFSETS, _STRIP_LENGTHS)):
                for offset, length in zip(found.get(offsets, []), found.get(lengths, []), strict=False):
                    start = block.base + offset
                    if start + length <= len(block.data):
                        block.data[start : start + length] = bytes(length)
            block.pack("L", link, 0)
    except (ValueError, struct.error):
        return exif
    return bytes(block.data)


def upright_xmp(xmp: bytes) -> bytes:
    """Return the XMP packet with its `tiff:Orientation`, which repeats the EXIF tag, set to 1."""
    xmp = re.sub(rb"""(tiff:Orientation=["'])[0-9](["'])""", rb"\g<1>1\g<2>", xmp)
    return re.sub(rb"(<tiff:Orientation>)[0-9](</tiff:Orientation>)", rb"\g<1>1\g<2>", xmp)
