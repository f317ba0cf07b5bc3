"""A photo and its mask as files: read, and checked for what would stop a fill or its writing; without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maerestore.image import (
    InputError,
    Photo,
    check_writable,
    erased_hole,
    mask_is_empty,
    mask_is_full,
    read_mask,
    read_photo,
)
from maerestore.image.errors import quoted
from maerestore.image.output import same_file

if TYPE_CHECKING:
    import numpy as np


def read_pair(
    photo: Path,
    mask: Path,
    white: Literal["hole", "keep"] = "hole",
    resize: bool = False,
    warn: Callable[[str], None] | None = None,
) -> tuple[Photo, np.ndarray]:
    """Read a photo and its mask, which marks a part of it.

    A photo may be its own mask: the hole is what was erased of it, with its soft edge, whatever else it shows.

    Args:
        photo, mask: the files.
        white: what white in the mask means, "hole" or "keep".
        resize: scale a mask of another size to the photo's.
        warn: told, in one line, what can be read and is hardly meant.

    Raises:
        InputError: one cannot be read, sizes differ, or the mask marks nothing or all of the photo.
    """
    read = read_photo(photo)
    if same_file(photo, mask):
        marked = erased_hole(read)
        if mask_is_empty(marked) or mask_is_full(marked):
            how_much = "nothing" if mask_is_empty(marked) else "all"
            raise InputError(f"{quoted(mask)} is photo and mask in one, but {how_much} of it is erased (transparent)")
        marked = ~marked if white == "keep" else marked
    else:
        marked = read_mask(mask, read.size, white=white, resize=resize, photo=read, warn=warn)
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
