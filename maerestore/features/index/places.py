"""The files that the names of an index refer to: whether two names refer to one file, and whether it exists."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maerestore.features.filesystems import is_uri
from maerestore.features.index.entries import Entries, load_pyarrow
from maerestore.features.items import as_utf8, tar_items
from maerestore.image import InputError

_TAR_END = re.compile(r"\.tar(\.[^/]*)?(?=/|\Z)", re.IGNORECASE)


def working_folder() -> str:
    """The working directory as entries store it, to which names are relative.

    Raises:
        InputError: it was deleted.
    """
    try:
        return as_utf8(os.getcwd())
    except FileNotFoundError:
        raise InputError("the working directory does not exist any more: change to another one.") from None


class Places(dict[str, str]):
    """Where images are. The real path of each folder is looked up once, and kept as the value of its path.

    A tar counts as a folder, but is a file: a link to it is not followed, only links to the folders around it.
    """

    def __missing__(self, folder: str) -> str:
        for match in _TAR_END.finditer(folder):
            tar, inside = folder[: match.end()], folder[match.end() :]
            if os.path.isfile(tar):
                around, end = os.path.split(tar)
                self[folder] = os.path.normpath(os.path.join(self[around], end) + inside)
                return self[folder]
        try:
            self[folder] = os.path.realpath(folder)
        except ValueError:  # a name that no file can have
            self[folder] = os.path.normpath(folder)
        return self[folder]

    def of(self, folder: str, name: str) -> str:
        """The absolute path of an image, or its URI. Links to folders are followed: one file has one place.

        Args:
            folder: to which the name is relative.
            name: the path of a file or of a member of a tar, or a URI.

        Example:
            >>> places = Places()
            >>> places.of("/data", "photos/../a.jpg"), places.of("/data", "/more/a.jpg")
            ('/data/a.jpg', '/more/a.jpg')
            >>> places.of("/data", "s3://b/a.jpg")
            's3://b/a.jpg'
        """
        if is_uri(name):
            return name
        around, end = os.path.split(os.path.join(folder, name))
        return os.path.join(self[around], end)


class Matches(NamedTuple):
    """Images that were looked up among the entries of an index.

    Attributes:
        rows: (N,) int64, the row of each image that is alive, -1 where there is none.
        clashing: the positions of those names that another existing file has in the index.
        moved: the positions of those whose rows were found by their names, and are elsewhere in the index.
    """

    rows: np.ndarray
    clashing: list[int]
    moved: list[int]


def match_images(entries: Entries, names: Sequence[str], folder: str) -> Matches:
    """Find images among entries by their paths; by their names where the file of an entry no longer exists.

    Args:
        entries: of the index.
        names: of N images, which refer to N different files.
        folder: to which the names are relative.
    """
    known = entries.rows_of(names)
    rows = np.full(len(names), -1, np.int64)
    if not len(entries):
        return Matches(rows, [], [])
    places = Places()
    others: dict[int, str] = {}  # position in `names` -> path of another file of that name
    there = np.flatnonzero(known >= 0).tolist()
    for i, start in zip(there, entries.folders(known[there]), strict=True):
        if start == folder or places.of(start, names[i]) == places.of(folder, names[i]):
            rows[i] = known[i]
        else:
            others[i] = places.of(start, names[i])
    here = {i: places.of(folder, names[i]) for i in np.flatnonzero(rows < 0).tolist()}
    spelled = _rows_at(entries, set(here.values()), places)
    for i, place in here.items():
        rows[i] = spelled.get(place, -1)
    taken, members, clashing, moved = set(rows.tolist()), Members(), [], []
    for i, place in others.items():
        if rows[i] >= 0:
            continue
        if int(known[i]) in taken or is_there(place, members):
            clashing.append(i)
        else:
            rows[i] = known[i]
            moved.append(i)
    return Matches(rows, clashing, moved)


def _rows_at(entries: Entries, wanted: set[str], places: Places) -> dict[str, int]:
    """The rows, if alive, of the images at some places."""
    if not wanted:
        return {}
    pa = load_pyarrow()
    ends = pa.compute.replace_substring_regex(entries.table["name"], "(?s)^.*/", "")
    alike = pa.compute.is_in(ends, value_set=pa.array({place.rpartition("/")[2] for place in wanted}, pa.string()))
    rows = np.flatnonzero(entries.alive & alike.to_numpy())  # few have to be looked at
    found = zip(rows.tolist(), entries.folders(rows), entries.names(rows), strict=True)
    at = {places.of(folder, name): row for row, folder, name in found}
    return {place: at[place] for place in wanted & set(at)}


class Members(dict[Path, set[str] | None]):
    """The paths of the images in each tar, listed on first use; None where the tar cannot be read."""

    def __missing__(self, tar: Path) -> set[str] | None:
        try:
            with tar.open("rb") as file:
                found = tar_items(file, tar, as_utf8(tar.as_posix()), 0)
            self[tar] = {os.path.normpath(item.name) for item in found}
        except (OSError, InputError):
            self[tar] = None
        return self[tar]


def is_there(place: str, members: Members) -> bool:
    """Whether a file or a member of a tar exists; True where that cannot be determined.

    Args:
        place: a path that `Places.of` returned.
        members: the tars that were listed before.
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
