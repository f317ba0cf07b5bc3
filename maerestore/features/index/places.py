"""Where the images of an index are: which names lead to one file, and whether it is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maerestore.features.filesystems import is_uri
from maerestore.features.index.entries import Entries, load_pyarrow
from maerestore.features.items import as_utf8, tar_items
from maerestore.image import InputError


def working_folder() -> str:
    """The working directory, as entries hold it: names are taken from there."""
    return as_utf8(os.getcwd())


def place_of(folder: str, name: str) -> str:
    """Where an image is, however its name is spelled; links are not followed.

    Args:
        folder: the working directory from which the name leads to the image.
        name: a path, of a member of a tar too, or a URI.

    Example:
        >>> place_of("/data", "photos/../a.jpg"), place_of("/data", "/more/a.jpg"), place_of("/data", "s3://b/a.jpg")
        ('/data/a.jpg', '/more/a.jpg', 's3://b/a.jpg')
    """
    return name if is_uri(name) else os.path.normpath(os.path.join(folder, name))


def match_images(entries: Entries, names: Sequence[str], folder: str) -> tuple[np.ndarray, list[int]]:
    """Find images among entries: by their places, and by their names where nothing is at the old place any more.

    Args:
        entries: of the index.
        names: of N images, all different, and at different places.
        folder: from which the names lead to the images.

    Returns:
        (N,) int64, the living row of each image, -1 where there is none; and the numbers of the images whose names are
        those of other images in the index.
    """
    known = entries.rows_of(names)
    rows = np.full(len(names), -1, np.int64)
    if not len(entries):
        return rows, []
    others: dict[int, str] = {}  # places of other images, by the numbers of those whose names they have
    there = np.flatnonzero(known >= 0).tolist()
    for i, start in zip(there, entries.folders(known[there]), strict=True):
        if start == folder or place_of(start, names[i]) == place_of(folder, names[i]):
            rows[i] = known[i]
        else:
            others[i] = place_of(start, names[i])
    here = {i: place_of(folder, names[i]) for i in np.flatnonzero(rows < 0).tolist()}
    spelled = _rows_at(entries, set(here.values()))
    for i, place in here.items():
        rows[i] = spelled.get(place, -1)
    taken, members, clashing = set(rows.tolist()), Members(), []
    for i, place in others.items():
        if rows[i] >= 0:
            continue
        if int(known[i]) in taken or is_there(place, members):
            clashing.append(i)
        else:
            rows[i] = known[i]
    return rows, clashing


def _rows_at(entries: Entries, places: set[str]) -> dict[str, int]:
    """The living rows of images that are at some places."""
    if not places:
        return {}
    pa = load_pyarrow()
    ends = pa.compute.replace_substring_regex(entries.table["name"], "(?s)^.*/", "")
    alike = pa.compute.is_in(ends, value_set=pa.array({place.rpartition("/")[2] for place in places}, pa.string()))
    rows = np.flatnonzero(entries.alive & alike.to_numpy())  # few have to be looked at
    found = zip(rows.tolist(), entries.folders(rows), entries.names(rows), strict=True)
    at = {place_of(folder, name): row for row, folder, name in found}
    return {place: at[place] for place in places & set(at)}


class Members(dict[Path, set[str] | None]):
    """Places of the images of each tar, read when first asked for; None where it cannot be read."""

    def __missing__(self, tar: Path) -> set[str] | None:
        try:
            with tar.open("rb") as file:
                found = tar_items(file, tar, as_utf8(tar.as_posix()), 0)
            self[tar] = {os.path.normpath(item.name) for item in found}
        except (OSError, InputError):
            self[tar] = None
        return self[tar]


def is_there(place: str, members: Members) -> bool:
    """Whether there is a file at a place, or a member of a tar; in doubt there is.

    Args:
        place: of `place_of`.
        members: of the tars that were looked into before.
    """
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
