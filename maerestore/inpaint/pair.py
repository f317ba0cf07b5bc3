"""A photo and its mask as files: read, and checked for what would stop a fill or its writing; without torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maerestore.errors import MaerestoreWarning
from maerestore.image import (
    InputError,
    Photo,
    check_writable,
    erased_hole,
    format_of,
    mask_is_empty,
    mask_is_full,
    read_mask,
    read_photo,
)
from maerestore.image.encode import lost_metadata, written_bits
from maerestore.image.errors import quoted
from maerestore.image.looks import looks_like_a_mask
from maerestore.image.output import same_file

if TYPE_CHECKING:
    import numpy as np

HARDLY_MEANT = 0.9  # share of the photo: a mask of more is more likely an inverted one


def read_pair(
    photo: Path,
    mask: Path,
    white: Literal["hole", "keep"] = "hole",
    resize: bool = False,
) -> tuple[Photo, np.ndarray]:
    """Read a photo and its mask, which marks a part of it.

    A photo may be its own mask: the hole is what was erased of it, with its soft edge, whatever else it shows.

    Args:
        photo, mask: the files.
        white: what white in the mask means, "hole" or "keep".
        resize: scale a mask of another size to the photo's.

    Raises:
        InputError: one cannot be read, sizes differ, or the mask marks nothing or all of the photo.

    Warns:
        MaerestoreWarning: they can be filled and are hardly meant: the photo looks like a mask, or the mask like a
            photograph, or nearly all is to be filled.
    """
    read = read_photo(photo)
    if same_file(photo, mask):
        marked = erased_hole(read)
        if mask_is_empty(marked) or mask_is_full(marked):
            how_much = "nothing" if mask_is_empty(marked) else "all"
            raise InputError(f"{quoted(mask)} is photo and mask in one, but {how_much} of it is erased (transparent)")
        marked = ~marked if white == "keep" else marked
    else:
        marked = read_mask(mask, read.size, white=white, resize=resize, photo=read)
    # Turned round, a mask of one colour is no better: --mask-white is no way out of either.
    light, dark = ("light (128 or more)", "white"), ("dark (below 128)", "black")
    fills, keeps = (light, dark) if white == "hole" else (dark, light)
    if mask_is_empty(marked):
        raise InputError(
            f"{quoted(mask)}: nothing to fill, no pixel of the mask is {fills[0]}: "
            f"draw in {fills[1]} what is to be filled"
        )
    if mask_is_full(marked):
        raise InputError(
            f"{quoted(mask)}: the mask covers the whole photo, no pixel of it is {keeps[0]}: "
            f"draw in {keeps[1]} what is to be kept"
        )
    if (share := marked.mean()) > HARDLY_MEANT:
        other = "keep" if white == "hole" else "hole"
        warnings.warn(
            f"{quoted(mask)} marks {share:.0%} of the photo: if that is what to keep, add --mask-white {other}",
            MaerestoreWarning,
            stacklevel=2,
        )
    if looks_like_a_mask(read):
        warnings.warn(
            f"{quoted(photo)} is black and white, like a mask: the photo comes first", MaerestoreWarning, stacklevel=2
        )
    return read, marked


def grown_mask(photo: Photo, mask: np.ndarray, out: Path, dilate: int = 0) -> np.ndarray:
    """The mask to fill by, after a check that the fill can be made and written.

    Args:
        photo, mask: what `read_pair` gave.
        out: the file to write.
        dilate: pixels to grow the mask by.

    Raises:
        InputError: the mask grows over the whole photo, or the format of `out` cannot hold the photo's size,
            transparency or colours. (An erased hole does not stay transparent: see `maerestore.inpaint.opacity`.)
    """
    from maerestore.inpaint.opacity import stays_transparent
    from maerestore.inpaint.regions import dilated

    grown = dilated(mask, dilate)
    if mask_is_full(grown):
        raise InputError(f"the mask grown by {dilate} pixels covers the whole photo: leave some of it known")
    check_writable(photo, out, stays_transparent(photo, grown))
    return grown


def warn_of_losses(photo: Photo, out: Path) -> None:
    """Say what of a photo is lost in a format that can hold its size and transparency.

    Args:
        photo: to be filled.
        out: the file to write.

    Warns:
        MaerestoreWarning: samples became or become 8 bits, inks become RGB, or metadata is damaged or does not fit.
    """
    for damaged in photo.metadata.damaged:
        warnings.warn(f"the photo's {damaged} is damaged and left out", MaerestoreWarning, stacklevel=2)
    if stored := photo.metadata.stored_bits:
        what = f"of the photo's {stored} bits {photo.bits} are read: a 16-bit PNG or TIFF of it would keep them all"
        warnings.warn(what, MaerestoreWarning, stacklevel=2)
    bits = written_bits(photo, out)
    if photo.bits > 8 and bits < photo.bits:
        keep = "TIFF keeps" if photo.mode == "CMYK" else "PNG and TIFF keep"
        what = f"{quoted(out)} keeps {bits} of the photo's {photo.bits} bits, {keep} all of them"
        warnings.warn(what, MaerestoreWarning, stacklevel=2)
    lost = lost_metadata(photo, out)
    if photo.mode == "CMYK" and photo.metadata.icc and format_of(out) not in ("JPEG", "TIFF"):
        what = f"{quoted(out)} is RGB without the photo's ink profile, JPEG and TIFF keep its inks"
        warnings.warn(what, MaerestoreWarning, stacklevel=2)
        lost = [name for name in lost if name != "colour profile"]
    if lost:
        listed = " and ".join([", ".join(lost[:-1]), lost[-1]]) if len(lost) > 1 else lost[0]
        keep = "keep it" if len(lost) == 1 else "keep them"
        what = f"{quoted(out)} is written without the photo's {listed}, PNG and TIFF {keep}"
        warnings.warn(what, MaerestoreWarning, stacklevel=2)
