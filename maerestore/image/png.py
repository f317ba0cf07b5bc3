"""PNG: chunks carried from file to file, and the depths Pillow cannot write.

Pillow reads 16-bit colour at 8 bits, and writes neither that nor 2- and 4-bit gray. The former is decoded
and encoded with OpenCV, the latter is encoded here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .color import CHANNELS
from .exif import upright_xmp
from .photo import Photo
from .png_text import BEFORE_PALETTE, OF_PIXELS, change_text

__all__ = ["carried_chunks", "decode_deep", "iter_chunks", "write_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPE = {"1": 0, "L": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}
_CARRIED = (*OF_PIXELS, b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_XMP_KEYWORD = b"XML:com.adobe.xmp\x00"
_RAW_BAND = 1 << 24  # bytes of samples that are filtered and deflated at a time
_TRIED_BANDS, _TRIED_ROWS = 8, 16  # of a large photo, to choose how it is deflated
_LITTLE_MORE = 1.1  # times the bytes, for a third of the time

Chunk = tuple[bytes, bytes]


def iter_chunks(file: IO[bytes], check: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG as (type, data); the data of `IDAT` only with `check`.

    Args:
        file: open at its beginning.
        check: verify every checksum, and that the file ends with `IEND`.

    Raises:
        ValueError: the file is truncated or, with `check`, damaged.
    """
    if file.read(8) != SIGNATURE:
        raise ValueError("no PNG signature")
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("the file ends before its IEND chunk")
        length, kind = struct.unpack(">L4s", head)
        if kind == b"IDAT" and not check:
            file.seek(length + 4, 1)
            yield kind, b""
            continue
        data, checksum = file.read(length), file.read(4)
        if len(data) < length or len(checksum) < 4:
            raise ValueError(f"the {kind!r} chunk is cut off")
        if check and zlib.crc32(data, zlib.crc32(kind)) != struct.unpack(">L", checksum)[0]:
            raise ValueError(f"the {kind!r} chunk is damaged")
        if kind == b"IEND":
            return
        yield kind, data


def carried_chunks(chunks: Iterable[Chunk], icc: bytes | None, exif: bytes | None, turned: bool) -> tuple[Chunk, ...]:
    """Select the chunks that stay true of the photo once it is upright and partly repainted.

    Args:
        chunks: all chunks of the source.
        icc: the colour profile; None where there is none that can be read.
        exif: the upright EXIF block, which replaces any other form of it.
        turned: whether rows and columns were exchanged.
    """
    kept: list[Chunk] = []
    for kind, data in chunks:
        safe_to_copy = bool(kind[0] & 0x20 and kind[3] & 0x20)
        if kind == b"eXIf" or data.startswith((b"Raw profile type exif\x00", b"Raw profile type APP1\x00")):
            continue
        if kind == b"iCCP" and icc is None:
            continue
        if kind in (b"acTL", b"fcTL", b"fdAT") or not (safe_to_copy or kind in _CARRIED):
            continue
        if kind == b"pHYs" and turned and len(data) == 9:
            data = data[4:8] + data[:4] + data[8:]
        if data.startswith(_XMP_KEYWORD):
            data = change_text(kind, data, upright_xmp)
        kept.append((kind, data))
    if exif:
        kept.append((b"eXIf", exif))
    return tuple(kept)


def decode_deep(data: bytes, mode: str) -> npt.NDArray[np.uint16]:
    """Decode a 16-bit PNG in mode "LA", "RGB" or "RGBA" to (H, W, C) uint16.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    import cv2

    # OpenCV returns what it could decode of a damaged file, so the file is checked before. It gets to see nothing but
    # the pixels: of a profile that it does not like it would tell on stderr.
    pixels = BytesIO()
    write = _ChunkWriter(pixels)
    for kind, content in iter_chunks(BytesIO(data), check=True):
        if kind in (b"IHDR", b"IDAT"):
            write(kind, content)
    write(b"IEND", b"")
    bgr = cv2.imdecode(np.frombuffer(pixels.getbuffer(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if bgr is None or bgr.dtype != np.uint16 or bgr.ndim != 3:
        raise ValueError("the image data cannot be decoded")
    order = {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[mode]
    return np.ascontiguousarray(bgr[..., order]).astype(np.uint16, copy=False)


def write_png(photo: Photo, file: IO[bytes]) -> None:
    """Write a photo of any mode but CMYK, with its metadata, to an open file."""
    metadata = photo.metadata
    chunks = metadata.png_chunks if photo.format == "PNG" else tuple(_described(photo))
    write = _ChunkWriter(file)
    depth, color_type = photo.bits, _COLOR_TYPE[photo.mode]
    write(b"IHDR", struct.pack(">LLBBBBB", *photo.size, depth, color_type, 0, 0, 0))
    for kind, data in chunks:
        if kind in BEFORE_PALETTE:
            write(kind, data)
    if photo.palette is not None:
        write(b"PLTE", photo.palette[:, :3].tobytes())
        opaque = photo.palette[:, 3] == 255
        if not opaque.all():
            write(b"tRNS", photo.palette[: len(opaque) - opaque[::-1].argmin(), 3].tobytes())
    elif photo.color_key is not None:
        write(b"tRNS", struct.pack(f">{len(photo.color_key)}H", *photo.color_key))
    for kind, data in chunks:
        if kind not in BEFORE_PALETTE:
            write(kind, data)
    for data in _image_data(photo):
        write(b"IDAT", data)
    write(b"IEND", b"")


class _ChunkWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        file.write(SIGNATURE)

    def __call__(self, kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
        self.file.write(struct.pack(">L4s", len(data), kind) + data + struct.pack(">L", checksum))


def _described(photo: Photo) -> Iterator[Chunk]:
    """The metadata of a photo from another format, as chunks."""
    metadata = photo.metadata
    if metadata.icc:
        yield b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(metadata.icc)
    if metadata.dpi:
        x, y = (round(value / 0.0254) for value in metadata.dpi)
        yield b"pHYs", struct.pack(">LLB", x, y, 1)
    if metadata.exif:
        yield b"eXIf", metadata.exif
    if metadata.xmp:
        yield b"iTXt", _XMP_KEYWORD + b"\x00\x00\x00\x00" + metadata.xmp


def _image_data(photo: Photo) -> Iterator[bytes]:
    if photo.bits >= 8 and photo.mode in ("L", "LA", "RGB", "RGBA") and (photo.mode, photo.bits) != ("LA", 16):
        # Filtered and deflated in C; only the pixel data is taken.
        encoded = BytesIO(_encoded(photo.samples, photo.mode, _is_photograph(photo)))
        yield from (data for kind, data in iter_chunks(encoded, check=True) if kind == b"IDAT")
        return
    compressor = zlib.compressobj(3)
    step = CHANNELS[photo.mode] * max(1, photo.bits // 8)
    width, height = photo.size
    rows = max(1, _RAW_BAND // (width * step))
    for top in range(0, height, rows):
        band = photo.samples[top : top + rows]
        if photo.bits == 16:
            lines = band.astype(">u2").reshape(len(band), -1).view(np.uint8)
            filtered = np.pad(lines, ((0, 0), (1, 0)), constant_values=1)  # differences from the left
            filtered[:, 1 + step :] -= lines[:, :-step]
        else:
            # Filters do not help indices and packed samples.
            filtered = np.pad(pack_bits(band, photo.bits), ((0, 0), (1, 0)))
        if data := compressor.compress(filtered.tobytes()):
            yield data
    yield compressor.flush()


def _encoded(samples: npt.NDArray[Any], mode: str, photograph: bool) -> bytes:
    """A PNG of the samples alone; in a photograph only runs are looked for, for what else repeats there is chance."""
    if samples.dtype == np.uint8:
        options = {"compress_level": 1, "compress_type": zlib.Z_RLE} if photograph else {"compress_level": 6}
        height, width = samples.shape[:2]
        pixels = np.ascontiguousarray(samples)
        file = BytesIO()
        Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1).save(file, "PNG", **options)
        return file.getvalue()
    import cv2

    bgr = samples if mode == "L" else samples[..., [2, 1, 0, 3][: CHANNELS[mode]]]
    runs_alone = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    choice = [cv2.IMWRITE_PNG_COMPRESSION, 1, *runs_alone] if photograph else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    return cv2.imencode(".png", np.ascontiguousarray(bgr), choice)[1].tobytes()


def _is_photograph(photo: Photo) -> bool:
    """Whether a large photo is hardly larger with runs alone, as drawings and text would be: tried with a few rows."""
    height = photo.size[1]
    if height < 4 * _TRIED_BANDS * _TRIED_ROWS:
        return False
    tops = np.linspace(0, height - _TRIED_ROWS, _TRIED_BANDS).astype(int)
    part = np.concatenate([photo.samples[top : top + _TRIED_ROWS] for top in tops])
    runs, all_repetitions = (len(_encoded(part, photo.mode, photograph)) for photograph in (True, False))
    return runs <= _LITTLE_MORE * all_repetitions


def pack_bits(samples: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pack samples (H, W) of 1, 2, 4 or 8 bits into bytes, high bits first, rows padded to whole bytes.

    Example:
        >>> pack_bits(np.array([[3, 0, 1]], dtype=np.uint8), 2).tolist()
        [[196]]
    """
    if bits == 8:
        return samples
    planes = np.stack([(samples >> bit) & 1 for bit in reversed(range(bits))], axis=-1)
    return np.packbits(planes.reshape(len(samples), -1), axis=1)
