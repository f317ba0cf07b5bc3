"""The images of a folder, and the names of the views that they are to get."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from maerestore.image import SUFFIXES, InputError
from maerestore.image.errors import quoted
from maerestore.image.opening import IMAGE_SUFFIXES
from maerestore.image.output import format_of

FORMATS = ("source", "png")
MANIFEST = "maerestore-augment.json"  # marks a folder of views


@dataclass(frozen=True)
class Source:
    """An image of the folder, and the views it is to get.

    Attributes:
        path: where it lies.
        name: its path inside the folder, with forward slashes; it seeds the views.
        views: where they go, number 1 first.
    """

    path: Path
    name: str
    views: tuple[Path, ...]


def plan_views(folder: Path, out: Path, n: int, file_format: str = "source") -> list[Source]:
    """Find the images of a folder, recursively, and decide about the names of their views.

    An image's name alone decides: a view keeps the suffix where it keeps the format; where it does not, the whole name
    stays in front, so that `a.jpg` and `a.png` do not meet (`a.jpg_1.png`). Hidden files are left out, and so are `out`
    and other folders of views that lie inside `folder`.

    Args:
        folder: of the images.
        out: of the views; not `folder` itself, nor around it.
        n: views of each image, at least 1.
        file_format: "source", each image's own (PNG for formats that cannot be written), or "png".

    Returns:
        images in the order of their names.

    Raises:
        InputError: folders that do not fit, no image, two images whose views would have the same name, or an `n` or
            `file_format` that does not fit.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    if file_format not in FORMATS:
        raise InputError(f"file_format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    if not folder.is_dir():
        raise InputError(f"{quoted(folder)} {'is a file' if folder.exists() else 'does not exist'}: give a folder.")
    if out.exists() and not out.is_dir():
        raise InputError(f"output {quoted(out)} is a file: give a folder.")
    inside, outside = folder.resolve(), out.resolve()
    if inside.is_relative_to(outside):
        what = "is the folder of the images itself" if inside == outside else "lies around the folder of the images"
        raise InputError(f"output {quoted(out)} {what}: the views would be taken for images. Choose another folder.")
    sources: list[Source] = []
    taken: dict[Path, str] = {}
    for path in _images(inside, outside):
        relative = path.relative_to(inside)
        views = tuple(out / _view_name(relative, k, file_format) for k in range(1, n + 1))
        name = relative.as_posix()
        if views[0] in taken:
            raise InputError(
                f"the views of {quoted(taken[views[0]])} and {quoted(name)} would have the same names: rename one."
            )
        taken[views[0]] = name
        sources.append(Source(path, name, views))
    if not sources:
        raise InputError(f"{quoted(folder)} holds no image.")
    return sources


def _images(folder: Path, out: Path) -> list[Path]:
    """The images in a folder, sorted, without those in `out` and in other folders of views."""
    found = []

    def fail(error: OSError) -> None:
        raise InputError(f"{quoted(str(error.filename))} cannot be read ({error.strerror}): allow reading it.")

    for root, folders, files in os.walk(folder, onerror=fail):
        here = Path(root)
        if here == out or (here != folder and MANIFEST in files):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            here / name for name in files if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _view_name(relative: Path, k: int, file_format: str) -> Path:
    kept = relative.suffix.lower() in SUFFIXES and (file_format == "source" or format_of(relative) == "PNG")
    return relative.with_name(f"{relative.stem}_{k}{relative.suffix}" if kept else f"{relative.name}_{k}.png")
