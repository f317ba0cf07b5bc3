"""TIFF: 16-bit colour, premultiplied alpha and tags, which Pillow alone would not keep."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from .color import ALPHA_MODES, CHANNELS
from .errors import InputError, quoted
from .exif import ORIENTATION
from .metadata import TiffSettings
from .photo import Photo
from .png import pack_bits

__all__ = ["count_pages", "decode_deep", "descriptive_exif", "layout_of", "write_tiff"]

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_PREDICTOR, _COLOR_MAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 317, 320, 338, 339
_SUBFILE, _XMP, _ICC, _EXIF_IFD, _GPS_IFD = 254, 700, 34675, 34665, 34853
_SHORT, _LONG, _UNDEFINED, _BYTE = 3, 4, 7, 1
_IPTC, _INTEROPERABILITY = 33723, 40965

_LAYOUT = (*range(254, 267), 273, ORIENTATION, *range(277, 282), 284, *range(288, 294), *range(317, 348))
_ELSEWHERE = (_XMP, _ICC, _EXIF_IFD, _GPS_IFD, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT)
_STRUCTURAL = frozenset([*_LAYOUT, *range(512, 533), *_ELSEWHERE])
"""Tags that describe how samples lie in the file, or that another field of the metadata holds."""

_PHOTOMETRIC_OF = {"1": 1, "L": 1, "LA": 1, "RGB": 2, "RGBA": 2, "P": 3, "CMYK": 5}
_STRIP_BYTES_WANTED = 1 << 19


def count_pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Count the full images of a TIFF, without thumbnails, and leave it at its first."""
    pages = 1
    for index in range(1, image.n_frames):
        image.seek(index)
        pages += not int(image.tag_v2.get(_SUBFILE, 0)) & 1
    image.seek(0)
    return pages


def layout_of(image: TiffImagePlugin.TiffImageFile) -> tuple[str | None, int, TiffSettings]:
    """Say how the samples of a TIFF lie.

    Returns:
        The mode if `decode_deep` is to read it, or None if Pillow reads it exactly; the bits per sample;
        and the settings to write its successor with.

    Raises:
        ValueError: samples that no mode of `Photo` holds.
    """
    tags = image.tag_v2
    bits = set(tags.get(_BITS, (1,)))
    photometric = tags.get(_PHOTOMETRIC, 0)
    samples = tags.get(_SAMPLES, 1)
    extra = tuple(tags.get(_EXTRA_SAMPLES, ()))
    if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16} or set(tags.get(_SAMPLE_FORMAT, (1,))) - {1, 4}:
        depth = "/".join(str(value) for value in sorted(bits))
        raise ValueError(f"{depth}-bit signed, floating-point or unusual samples are not supported")
    settings = TiffSettings(
        compressed=tags.get(_COMPRESSION, 1) != 1,
        extra_sample=extra[0] if extra else 2,
        min_is_white=photometric == 0,
        tags={tag: _as_stored(tags, tag) for tag in tags if tag not in _STRUCTURAL},
    )
    depth = bits.pop()
    straight = extra == (2,) and photometric in (1, 2) and tags.get(_PLANAR, 1) == 1
    if depth < 16 and (not extra or (straight and depth == 8)):
        return None, depth, settings
    channels = {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}.get(photometric)
    if channels == "RGB" and samples == 4 and not extra:
        extra = (2,)
    if channels in ("L", "RGB") and len(extra) == 1:
        channels += "A"
    if channels is None or CHANNELS.get(channels) != samples:
        raise ValueError(f"{samples} samples of {depth} bits (photometric {photometric}) are not supported")
    return channels, depth, settings


def _as_stored(tags: ImageFileDirectory_v2, tag: int) -> tuple[int, Any]:
    """The type and the value of a tag. IPTC is bytes, whatever programs call it: mostly numbers of 32 bits, of which
    Pillow expects one and gives no more."""
    if tag == _IPTC:
        return _UNDEFINED, tags._tagdata[tag]
    return tags.tagtype[tag], tags[tag]


def decode_deep(path: Path, mode: str, settings: TiffSettings) -> npt.NDArray[Any]:
    """Decode the first page in `mode` to (H, W) or (H, W, C), 8 or 16 bits, as stored in the file.

    Raises:
        InputError: it is compressed in a way nothing installed can decode.
        ValueError: the file is damaged.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        try:
            samples = page.asarray()
            if page.planarconfig == 2 and samples.ndim == 3:
                samples = np.moveaxis(samples, 0, -1)
        except (ValueError, ImportError) as error:
            # Without the optional imagecodecs, tifffile lacks LZW and others that OpenCV has.
            decoded = _decode_opencv(path, mode, page)
            if decoded is None and "imagecodecs" in str(error):
                raise InputError(
                    f"{quoted(path)}: its compression cannot be read here: save it uncompressed or with ZIP compression"
                ) from error
            if decoded is None:
                raise ValueError(str(error)) from error
            samples = decoded
    if samples.ndim == 3 and CHANNELS[mode] == 1:
        samples = samples[..., 0]
    if settings.min_is_white:
        samples[..., : -1 if mode in ALPHA_MODES else None] ^= np.iinfo(samples.dtype).max
    return np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder("="), copy=False))


def _decode_opencv(path: Path, mode: str, page: Any) -> npt.NDArray[Any] | None:
    """The samples in `mode` of tifffile's first page, not turned; None where OpenCV does not have them either."""
    import cv2

    order = {"L": [0], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}.get(mode)
    # OpenCV takes planes that lie one behind the other for pixels, and calls that a success.
    if order is None or (page.planarconfig == 2 and mode != "L"):
        return None
    data = np.fromfile(path, dtype=np.uint8)
    turned = page.tags.get(ORIENTATION)
    if turned is not None:
        # OpenCV turns a TIFF whatever its flags say, so it is shown one that lies upright.
        upright = (1).to_bytes(turned.valuebytecount, "little" if page.parent.byteorder == "<" else "big")
        data[turned.valueoffset : turned.valueoffset + turned.valuebytecount] = np.frombuffer(upright, np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if bgr is None:
        return None
    bgr = np.atleast_3d(bgr)
    return bgr[..., order] if bgr.shape[-1] == CHANNELS[mode] else None


def descriptive_exif(image: TiffImagePlugin.TiffImageFile) -> bytes | None:
    """Return the tags of a TIFF that describe the photo, as an EXIF block for other formats."""
    exif = Image.Exif()
    with suppress(Exception):  # of damaged directories: better no EXIF than no photo
        exif.update(_descriptive(image.getexif()))
    return exif.tobytes()[6:] if len(exif) else None


class _Latin1(str):
    """Text that Pillow writes as it read it, byte for byte: it reads latin-1, whatever it was, but writes ASCII."""

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        return super().encode("latin-1", "replace")


def _descriptive(exif: Image.Exif) -> dict[int, Any]:
    """The tags of an EXIF block that describe the photo, its Exif and GPS directories among them as dictionaries."""
    inner = {ifd: _writable(exif.get_ifd(ifd), group=ifd) for ifd in (_EXIF_IFD, _GPS_IFD)}
    inner[_EXIF_IFD].pop(_INTEROPERABILITY, None)  # a place in the source, where something else is in other files
    tags = _writable({tag: exif[tag] for tag in _DESCRIPTIVE & set(exif)})
    return tags | {ifd: values for ifd, values in inner.items() if values}


def _writable(tags: dict[int, Any], kinds: dict[int, int] | None = None, group: int | None = None) -> dict[int, Any]:
    """The tags that can be written: values of damaged files break the types of theirs."""
    kept = {}
    for tag, value in tags.items():
        value = _Latin1(value) if isinstance(value, str) else value
        alone = ImageFileDirectory_v2(group=group)
        alone.tagtype.update({tag: kinds[tag]} if kinds else {})
        with suppress(Exception):  # whatever such a value makes Pillow stumble over
            alone[tag] = value
            alone.tobytes()
            kept[tag] = value
    return kept


_DESCRIPTIVE = frozenset([270, 271, 272, 305, 306, 315, 316, 33432])
"""Description, make, model, software, date, artist, host and copyright."""


def write_tiff(photo: Photo, file: IO[bytes]) -> None:
    """Write a photo of any mode, with its metadata, to an open file.

    Strips are deflated, whatever method the source used, unless the source was not compressed.
    """
    settings = photo.metadata.tiff or TiffSettings()
    width, height = photo.size
    channels, bits = CHANNELS[photo.mode], photo.bits
    row_bytes = (width * channels * bits + 7) // 8
    rows = min(height, max(1, _STRIP_BYTES_WANTED // row_bytes))
    predict = settings.compressed and bits >= 8 and photo.mode != "P"
    tags = _descriptive_tags(photo, settings)
    tags[_WIDTH], tags[_LENGTH] = width, height
    tags[_BITS] = (bits,) * channels
    tags[_COMPRESSION] = 8 if settings.compressed else 1
    tags[_PHOTOMETRIC] = 0 if _inverted(photo, settings) else _PHOTOMETRIC_OF[photo.mode]
    tags[_SAMPLES], tags[_ROWS_PER_STRIP], tags[_PLANAR] = channels, rows, 1
    if predict:
        tags[_PREDICTOR] = 2
    if photo.mode in ALPHA_MODES:
        tags[_EXTRA_SAMPLES] = settings.extra_sample if photo.format == "TIFF" else 2
    if photo.palette is not None:
        entries = np.zeros((2**bits, 3), dtype=np.uint16)
        entries[: len(photo.palette)] = photo.palette[:, :3].astype(np.uint16) * 257
        tags[_COLOR_MAP] = tuple(entries.T.ravel().tolist())
    if settings.compressed:
        strips = [zlib.compress(strip, 6) for strip in _strips(photo, settings, rows, predict)]
        sizes = [len(strip) for strip in strips]
    else:
        sizes = [row_bytes * min(rows, height - top) for top in range(0, height, rows)]
    # Pillow shifts these by the length of the directory, behind which the strips begin.
    tags[_STRIP_OFFSETS] = tuple(np.cumsum([0, *sizes[:-1]]).tolist())
    tags[_STRIP_BYTES] = tuple(sizes)
    tags.save(file)
    for strip in strips if settings.compressed else _strips(photo, settings, rows, predict):
        file.write(strip)


def _inverted(photo: Photo, settings: TiffSettings) -> bool:
    return settings.min_is_white and photo.mode in ("1", "L", "LA")


def _strips(photo: Photo, settings: TiffSettings, rows: int, predict: bool) -> Iterator[bytes]:
    for top in range(0, photo.size[1], rows):
        band = photo.samples[top : top + rows]
        if _inverted(photo, settings):
            band = band.copy()
            band[..., : -1 if photo.mode == "LA" else None] ^= 2**photo.bits - 1
        if predict:
            difference = band.copy()
            difference[:, 1:] -= band[:, :-1]
            band = difference
        band = pack_bits(band, photo.bits) if photo.bits < 8 else band
        yield band.astype(band.dtype.newbyteorder("<"), copy=False).tobytes()


def _descriptive_tags(photo: Photo, settings: TiffSettings) -> ImageFileDirectory_v2:
    metadata = photo.metadata
    tags = ImageFileDirectory_v2()
    if metadata.exif:
        exif = Image.Exif()
        with suppress(Exception):  # of a damaged block: better none than no photo
            exif.load(metadata.exif)
            tags.update(_descriptive(exif))
    kinds = {tag: kind for tag, (kind, _) in settings.tags.items()}
    own = _writable({tag: value for tag, (_, value) in settings.tags.items()}, kinds)
    tags.tagtype.update({tag: kinds[tag] for tag in own})
    tags.update(own)
    if metadata.dpi:
        tags[_X_RESOLUTION], tags[_Y_RESOLUTION] = (IFDRational(round(v * 10000), 10000) for v in metadata.dpi)
        tags[_RESOLUTION_UNIT] = 2
    for tag, kind, data in ((_ICC, _UNDEFINED, metadata.icc), (_XMP, _BYTE, metadata.xmp)):
        if data:
            tags.tagtype[tag] = kind
            tags[tag] = data
    return tags
