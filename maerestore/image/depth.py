"""How deep the samples of a file are whose decoder gives 8 bits of whatever there is."""

from __future__ import annotations

from pathlib import Path

__all__ = ["stored_bits"]

_HEADER = 1 << 16  # bytes in which both formats say it
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"  # with the marker of the sizes, which comes first


def stored_bits(path: Path, file_format: str) -> int | None:
    """The most bits per sample that a file's header tells of; None where it tells none.

    Args:
        path: the file.
        file_format: as Pillow names it; "JPEG2000", "AVIF" and "HEIF" tell.
    """
    if file_format not in ("JPEG2000", "AVIF", "HEIF"):
        return None
    with path.open("rb") as file:
        head = file.read(_HEADER)
    if file_format == "JPEG2000":
        start = head.find(_START_OF_CODESTREAM)
        count = int.from_bytes(head[start + 40 : start + 42], "big")
        depths = [(depth & 0x7F) + 1 for depth in head[start + 42 : start + 42 + 3 * count : 3]]
    else:
        start = head.find(b"pixi")  # the box of an image's channels
        count = int.from_bytes(head[start + 8 : start + 9], "big")
        depths = list(head[start + 9 : start + 9 + count])
    return max(depths, default=0) or None if start >= 0 else None
