"""BMP: the alpha channel and the palettes of 1 and 4 bits, which Pillow does not write."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

import numpy as np

from .photo import Photo
from .png import pack_bits

__all__ = ["palette_bits", "write_bmp_palette", "write_bmp_rgba"]

_INFO_HEADER, _V4_HEADER = 40, 108
_BITFIELDS = 3
_SRGB = b"BGRs"


def palette_bits(path: Path) -> int:
    """Return the bits per pixel that the header of a BMP states, at most 8."""
    with path.open("rb") as file:
        head = file.read(30)
    old_header = struct.unpack_from("<L", head, 14)[0] == 12
    bits = struct.unpack_from("<H", head, 24 if old_header else 28)[0]
    return int(bits) if bits in (1, 4) else 8


def _pixels_per_metre(photo: Photo) -> tuple[int, int]:
    x, y = photo.metadata.dpi or (96, 96)
    return round(x / 0.0254), round(y / 0.0254)


def write_bmp_palette(photo: Photo, file: IO[bytes]) -> None:
    """Write an opaque palette photo with 1, 4 or 8 bits per pixel (2 bits take 4)."""
    assert photo.palette is not None
    bits = 4 if photo.bits == 2 else photo.bits
    width, height = photo.size
    entries = np.zeros((len(photo.palette), 4), dtype=np.uint8)
    entries[:, :3] = photo.palette[:, 2::-1]
    row_bytes = (width * bits + 31) // 32 * 4
    offset = 14 + _INFO_HEADER + entries.nbytes
    size = row_bytes * height
    file.write(b"BM" + struct.pack("<LHHL", offset + size, 0, 0, offset))
    file.write(struct.pack("<LllHHLL", _INFO_HEADER, width, height, 1, bits, 0, size))
    file.write(struct.pack("<llLL", *_pixels_per_metre(photo), len(entries), 0) + entries.tobytes())
    for top in range(height, 0, -256):
        band = pack_bits(photo.samples[max(0, top - 256) : top][::-1], bits)
        file.write(np.pad(band, ((0, 0), (0, row_bytes - band.shape[1]))).tobytes())


def write_bmp_rgba(photo: Photo, file: IO[bytes]) -> None:
    """Write an 8-bit RGBA photo as a 32-bit BMP with a version 4 header, which declares the alpha mask."""
    width, height = photo.size
    offset = 14 + _V4_HEADER
    size = width * height * 4
    x, y = _pixels_per_metre(photo)
    file.write(b"BM" + struct.pack("<LHHL", offset + size, 0, 0, offset))
    file.write(struct.pack("<LllHHLLllLL", _V4_HEADER, width, height, 1, 32, _BITFIELDS, size, x, y, 0, 0))
    file.write(struct.pack("<4L", 0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000) + _SRGB + bytes(48))
    for top in range(height, 0, -256):
        band = photo.samples[max(0, top - 256) : top]
        file.write(np.ascontiguousarray(band[::-1][..., [2, 1, 0, 3]]).tobytes())
