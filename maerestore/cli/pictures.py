"""What the verbs share that draw one picture about a photo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def target(photo: Path, out: Path | None, ending: str) -> Path | None:
    """The picture to write; None where `resolve_output` has to say what is wrong with the photo.

    Args:
        photo: what it is about.
        out: a file or folder; None for beside the photo.
        ending: of its name, where `out` does not give one: "show" makes "photo_show.png".
    """
    if not photo.name:
        return out
    name = f"{photo.stem}_{ending}.png"
    if out is None:
        return photo.with_name(name)
    return out / name if out.is_dir() else out


def check_format(out: Path) -> None:
    """Find out before the work whether `write` can write a picture there, which has all colours.

    Raises:
        InputError: the suffix names no format that can be written, or one of too few colours (GIF).
    """
    from maerestore.image import InputError, format_of
    from maerestore.image.convert import FORMATS
    from maerestore.image.errors import quoted

    file_format = format_of(out)
    if "RGB" not in FORMATS[file_format]:
        raise InputError(
            f"output {quoted(out)} cannot be written: {file_format} cannot hold the colours of a drawn picture: "
            "use .png, .jpg, .webp or .tif."
        )


def write(picture: Image.Image, out: Path, overwrite: bool, quiet: bool, start: float) -> str:
    """Write a picture, and say so; `start` is when the work began, by `time.perf_counter`.

    Returns:
        what there is to say.
    """
    import numpy as np

    from maerestore.image import Photo, write_photo

    write_photo(Photo(np.array(picture)), out, overwrite)
    told = f"{out}: {picture.width} x {picture.height} pixels in {time.perf_counter() - start:.1f} s"
    if not quiet:
        print(told)
    return told
