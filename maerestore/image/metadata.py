"""What travels with the samples of a photo: profile, EXIF, resolution and how its file was made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from .exif import without_thumbnail
from .png_text import OF_PIXELS, change_profiles
from .previews import app13_without_previews, photoshop_without_previews, xmp_without_previews

__all__ = ["JpegSettings", "Metadata", "TiffSettings", "is_profile"]

_PHOTOSHOP, _PHOTOSHOP_LAYERS = 34377, 37724


@dataclass(frozen=True)
class JpegSettings:
    """How a JPEG was compressed, so that its successor can be compressed the same way.

    Attributes:
        qtables: quantisation tables of 64 values each, of the first component, the second and so on; the last one is
            that of all further components. Empty where the file lacks one.
        subsampling: Pillow's number, 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0, -1 for one or four channels.
        progressive: whether the scans were progressive.
        keep_rgb: whether the channels were stored as RGB rather than YCbCr.
        segments: application segments (such as Photoshop's, with IPTC) to carry over, markers included.
        encoded: the whole file, from which pixels that were not changed are taken; None where it is not at hand.
        decoded: (H, W, 3) uint8, the file's pixels upright, which tell the changed ones.
        orientation: the EXIF orientation that its pixels are stored in.
    """

    qtables: tuple[tuple[int, ...], ...]
    subsampling: int
    progressive: bool
    keep_rgb: bool = False
    segments: bytes = b""
    encoded: bytes | None = field(default=None, repr=False, compare=False)
    decoded: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)
    orientation: int = 1


@dataclass(frozen=True)
class TiffSettings:
    """How a TIFF was laid out.

    Attributes:
        compressed: whether the strips were compressed, by any method.
        extra_sample: the ExtraSamples code of the last channel (0 not alpha, 1 premultiplied, 2 straight).
        min_is_white: whether 0 means white in a one-channel image.
        tags: tag -> (type, value) of descriptive tags that no other field of `Metadata` holds.
    """

    compressed: bool = True
    extra_sample: int = 2
    min_is_white: bool = False
    tags: dict[int, tuple[int, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """Everything a file holds beside its samples, already upright (orientation 1).

    Attributes:
        icc: ICC colour profile.
        exif: EXIF block, beginning with its TIFF header.
        xmp: XMP packet.
        dpi: horizontal and vertical resolution in dots per inch.
        comment: JPEG or GIF comment.
        png_chunks: ancillary chunks of a PNG as (type, data), for the next PNG.
        jpeg: compression settings of a JPEG, for the next JPEG.
        tiff: layout of a TIFF, for the next TIFF.
        stored_bits: bits per sample in the file, where its decoder gives fewer.
        damaged: what the file holds that cannot be read, and is left out: "colour profile", "EXIF".
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    jpeg: JpegSettings | None = None
    tiff: TiffSettings | None = None
    stored_bits: int | None = None
    damaged: tuple[str, ...] = ()

    def without_previews(self) -> Metadata:
        """Return the same without the pictures of the photo that it holds, which show it before a fill.

        These are the thumbnails of EXIF, XMP and Photoshop, and a TIFF's Photoshop layers. Everything else stays byte
        for byte, previews in a camera's maker notes included.
        """
        exif = without_thumbnail(self.exif) if self.exif else self.exif
        chunks = tuple(
            (kind, exif if kind == b"eXIf" and exif else change_profiles(kind, data, xmp_without_previews, _bare))
            for kind, data in self.png_chunks
        )
        jpeg, tiff = self.jpeg, self.tiff
        return replace(
            self,
            exif=exif,
            xmp=xmp_without_previews(self.xmp) if self.xmp else self.xmp,
            png_chunks=chunks,
            jpeg=jpeg and replace(jpeg, segments=app13_without_previews(jpeg.segments)),
            tiff=tiff and replace(tiff, tags=_tags_without_previews(tiff.tags)),
        )

    def without_descriptions(self) -> Metadata:
        """Return only what says how the pixels look and how their file was made: what no damage can make unwritable."""
        return Metadata(
            icc=self.icc,
            dpi=self.dpi,
            png_chunks=tuple((kind, data) for kind, data in self.png_chunks if kind in OF_PIXELS),
            jpeg=self.jpeg and replace(self.jpeg, segments=b""),
            tiff=self.tiff and replace(self.tiff, tags={}),
        )


def is_profile(icc: Any) -> bool:
    """Return whether a block begins as an ICC profile does; what its tags say is for those who use it.

    Example:
        >>> is_profile(b"garbage"), is_profile(bytes(36) + b"acsp" + bytes(88))
        (False, True)
    """
    return isinstance(icc, bytes) and len(icc) >= 128 and icc[36:40] == b"acsp"


def _bare(profile: bytes) -> bytes:
    """The resources of Photoshop without previews, as PNG text holds them: at times with the header of a segment."""
    header = b"Photoshop 3.0\0" if profile.startswith(b"Photoshop 3.0\0") else b""
    return header + photoshop_without_previews(profile[len(header) :])


def _tags_without_previews(tags: dict[int, tuple[int, Any]]) -> dict[int, tuple[int, Any]]:
    kept = {tag: value for tag, value in tags.items() if tag not in (_PHOTOSHOP, _PHOTOSHOP_LAYERS)}
    kind, resources = tags.get(_PHOTOSHOP, (0, None))
    if isinstance(resources, bytes) and (left := photoshop_without_previews(resources)):
        kept[_PHOTOSHOP] = kind, left
    return kept
