"""Pruning: the images of an index whose files no longer exist."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from maerestore.features.index.entries import Entries
from maerestore.features.index.places import Members, Places, is_there, working_folder
from maerestore.features.items import Item, as_utf8
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import is_table
from maerestore.image import InputError
from maerestore.image.errors import quoted


def folders_of(source: FeatureTable | Sequence[str | Path]) -> list[Path]:
    """Select the folders of images among sources.

    Raises:
        InputError: there is none, although all sources exist.
    """
    given: Sequence[str | Path] = [] if isinstance(source, FeatureTable) else source
    paths = [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
    folders = [path for path in paths if path.is_dir() and not is_table(path)]
    if not folders and all(path.exists() for path in paths):
        raise InputError("no source is a folder of images: only what is below one can be pruned.")
    return folders


def check_full(folders: Sequence[Path], items: Sequence[Item]) -> None:
    """Refuse folders without images, since a disk that is not mounted looks like an empty folder.

    Args:
        folders: to prune.
        items: all items found in the sources.

    Raises:
        InputError: a folder holds none of the items.
    """
    for folder in folders:
        if not any(item.path.is_relative_to(folder) for item in items):
            raise InputError(
                f"no image in {quoted(folder)}: nothing is pruned, since a disk that is not mounted looks like that; "
                "remove its images by name, or build the index again."
            )


def gone_rows(
    entries: Entries, folders: Sequence[Path], items: Sequence[Item], left: Collection[str] = ()
) -> np.ndarray:
    """The rows of images below folders whose file, or member of a tar, no longer exists.

    Args:
        entries: of the index.
        folders: existing folders.
        items: found in them.
        left: folders of entries from which unchanged images have moved here: the others may have been here too.

    Returns:
        (n,) int64, ascending.
    """
    here, places, members = working_folder(), Places(), Members()
    found = {places.of(here, item.name) for item in items}
    roots = tuple(places[as_utf8(os.path.abspath(folder))].rstrip("/") + "/" for folder in folders)
    living, gone = np.flatnonzero(entries.alive), []
    for row, folder, name in zip(living.tolist(), entries.folders(living), entries.names(living), strict=True):
        at = [places.of(start, name) for start in ((folder, here) if folder in left else (folder,))]
        below = any(place.startswith(roots) for place in at)
        if below and not any(place in found or is_there(place, members) for place in at):
            gone.append(row)
    return np.array(gone, np.int64)
