"""The pictures that the names of an index refer to: files, and members of tars."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from maerestore.features.decode import load_image
from maerestore.features.filesystems import is_uri
from maerestore.features.items import Item, find_items, source_of
from maerestore.image import InputError

_MOST_TARS = 16  # whose lists of members are held at once


class Pictures:
    """Finds the pictures of an index; the members of a tar are listed once while a few tars take turns."""

    def __init__(self) -> None:
        self._tars: dict[Path, dict[Path, Item]] = {}

    def find(self, name: str, folder: str) -> Item | None:
        """Find a picture; None if there is no such file or member.

        Args:
            name: of a file, or of a member of a tar ("shard.tar/a.webp").
            folder: to which the name is relative.
        """
        if is_uri(name):
            return None
        # Bytes that are no UTF-8 are stored as \xNN (`as_utf8`): a name with such letters may stand for them.
        for place, relative in dict.fromkeys([(folder, name), (_as_bytes(folder), _as_bytes(name))]):
            try:
                if (found := self._at(Path(place) / relative, name)) is not None:
                    return found
            except (InputError, OSError, ValueError):  # names that no file can have, too
                pass
        return None

    def _at(self, path: Path, name: str) -> Item | None:
        if path.is_file():
            return Item(name, path, None, -1, 0)
        for tar in path.parents:
            if tar.suffix.lower() == ".tar" and tar.is_file():
                return self._members(tar).get(path.relative_to(tar))
        return None

    def _members(self, tar: Path) -> dict[Path, Item]:
        if tar not in self._tars:
            if len(self._tars) >= _MOST_TARS:
                del self._tars[next(iter(self._tars))]
            # As paths: members may be "./a.jpg", which a path does not keep.
            self._tars[tar] = {Path(item.member or ""): item for item in find_items([tar])}
        return self._tars[tar]


def _as_bytes(name: str) -> str:
    """A name in which `\\xNN` stands for a byte that is no UTF-8, as the file system has it."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)


def decode(item: Item | None, at_least: int) -> np.ndarray | None:
    """Decode a picture that was found: (H, W, 3) uint8; None if it was not, or cannot be read.

    Args:
        item: that `Pictures.find` returned.
        at_least: as for `load_image`.
    """
    if item is None:
        return None
    try:
        return load_image(source_of(item), at_least)
    except (InputError, OSError, ValueError):
        return None
