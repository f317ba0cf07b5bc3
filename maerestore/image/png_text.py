"""The chunks that go beside a PNG's pixels: their kinds, and what those of text say, which can be changed.

Programs without chunks for XMP and Photoshop's resources of their own write them as text: XMP under a keyword, and as
ImageMagick does, any profile as hexadecimal digits ("Raw profile type 8bim").
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

__all__ = ["BEFORE_PALETTE", "OF_PIXELS", "change_profiles", "change_text"]

BEFORE_PALETTE = (b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI")
"""Chunks that say how samples look, and stand before a palette."""

OF_PIXELS = (*BEFORE_PALETTE, b"bKGD", b"pHYs")
"""Chunks that belong to the pixels, and do not describe what they show."""

Change = Callable[[bytes], bytes]

_XMP = (b"XML:com.adobe.xmp", b"Raw profile type xmp")
_PHOTOSHOP = (b"Raw profile type 8bim", b"Raw profile type iptc", b"Raw profile type APP13")
_RAW = re.compile(rb"\s*(\S+)\s+(\d+)\s+([0-9a-fA-F\s]*)\Z")


def change_profiles(kind: bytes, data: bytes, xmp: Change, photoshop: Change) -> bytes:
    """Return a chunk's data with changes made to the XMP or the Photoshop resources it holds; all other data as it is.

    Args:
        kind: of the chunk.
        data: of the chunk.
        xmp: gets an XMP packet, and returns what takes its place.
        photoshop: the same for a list of resources.
    """
    keyword = data.split(b"\0", 1)[0]
    if keyword in _XMP:
        change = xmp
    elif keyword in _PHOTOSHOP:
        change = photoshop
    else:
        return data
    return change_text(kind, data, lambda text: _in_raw_profile(text, change) if b"Raw" in keyword else change(text))


def change_text(kind: bytes, data: bytes, change: Change) -> bytes:
    """Return the data of a `tEXt`, `zTXt` or `iTXt` chunk with another text; as it is if that is damaged or equal.

    Example:
        >>> change_text(b"tEXt", b"Title\\0sea", lambda text: text.upper())
        b'Title\\x00SEA'
    """
    try:
        if kind == b"tEXt":
            head, packed = data.index(b"\0") + 1, False
        elif kind == b"zTXt":
            head, packed = data.index(b"\0") + 2, True
        elif kind == b"iTXt":
            flags = data.index(b"\0") + 1
            language = data.index(b"\0", flags + 2) + 1
            head, packed = data.index(b"\0", language) + 1, data[flags] != 0
        else:
            return data
        text = zlib.decompress(data[head:]) if packed else data[head:]
    except (ValueError, IndexError, zlib.error):
        return data
    changed = change(text)
    if changed == text:
        return data
    return data[:head] + (zlib.compress(changed) if packed else changed)


def _in_raw_profile(text: bytes, change: Change) -> bytes:
    found = _RAW.match(text)
    if found is None:
        return text
    name, _, digits = found.groups()
    try:
        profile = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return text
    changed = change(profile)
    if changed == profile:
        return text
    lines = re.findall(".{1,72}", changed.hex())
    return b"\n%s\n%8d\n%s\n" % (name, len(changed), "\n".join(lines).encode("ascii"))
