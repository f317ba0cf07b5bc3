"""Images of an index whose files are gone from a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maerestore.features.index.entries import Entries
from maerestore.features.items import Item, as_utf8, tar_items
from maerestore.features.table import FeatureTable, is_table
from maerestore.image import InputError
from maerestore.image.errors import quoted


def folders_of(source: FeatureTable | Sequence[str | Path]) -> list[Path]:
    """The folders of images among sources.

    Raises:
        InputError: there is none, though all are there.
    """
    given: Sequence[str | Path] = [] if isinstance(source, FeatureTable) else source
    paths = [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
    folders = [path for path in paths if path.is_dir() and not is_table(path)]
    if not folders and all(path.exists() for path in paths):
        raise InputError("no source is a folder of images: only what is below one can be pruned.")
    return folders


def check_full(folders: Sequence[Path], items: Sequence[Item]) -> None:
    """Refuse a folder in which nothing is found: a disk that is not mounted looks like that.

    Args:
        folders: to prune.
        items: what was found in all sources.

    Raises:
        InputError: there is such a folder.
    """
    for folder in folders:
        if not any(item.path.is_relative_to(folder) for item in items):
            raise InputError(
                f"no image in {quoted(folder)}: nothing is pruned, since a disk that is not mounted looks like that; "
                "remove its images by name, or build the index again."
            )


def gone_rows(entries: Entries, folders: Sequence[Path], items: Sequence[Item]) -> np.ndarray:
    """Living rows of images below folders whose file, or member of a tar, is not there any more.

    Args:
        entries: of the index.
        folders: that are there.
        items: what was found in them.

    Returns:
        (n,) int64, ascending.
    """
    here = as_utf8(os.getcwd())
    found = {_place(here, item.name) for item in items}
    roots = tuple(as_utf8(os.path.abspath(folder)).rstrip("/") + "/" for folder in folders)
    living, members = np.flatnonzero(entries.alive), _Members()
    names = zip(living.tolist(), entries.folders(living), entries.names(living), strict=True)
    places = ((row, _place(folder, name)) for row, folder, name in names)
    gone = [
        row for row, place in places if place.startswith(roots) and place not in found and not _is_there(place, members)
    ]
    return np.array(gone, np.int64)


class _Members(dict[Path, set[str] | None]):
    """Places of the images of each tar, read when first asked for; None where it cannot be read."""

    def __missing__(self, tar: Path) -> set[str] | None:
        try:
            with tar.open("rb") as file:
                found = tar_items(file, tar, as_utf8(tar.as_posix()), 0)
            self[tar] = {os.path.normpath(item.name) for item in found}
        except (OSError, InputError):
            self[tar] = None
        return self[tar]


def _place(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _is_there(place: str, members: _Members) -> bool:
    """Whether a file is there that the folder's images do not show, such as a hidden one; in doubt it is."""
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        for tar in Path(place).parents:
            if tar.suffix.lower() == ".tar" and tar.is_file():
                inside = members[tar]
                return inside is None or place in inside
        return False
    except (OSError, ValueError):
        pass
    return True
