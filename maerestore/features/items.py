"""The images of folders, tars and lists, each with the name, size and time by which a table of features knows it.

photos                a folder, searched recursively, tars in it too     photos/cats/a.jpg, label "cats"
shard-000.tar         a tar, not compressed                              shard-000.tar/a.webp, label from a.cls
list.txt              a list of paths, one a line                        as it stands in the list
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from maerestore.image.errors import InputError, quoted, reason_of
from maerestore.image.opening import IMAGE_SUFFIXES

__all__ = ["Item", "as_utf8", "files_below", "find_items", "read_bytes", "source_of", "tar_items"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Item:
    """An image, not read yet.

    Attributes:
        name: unique and stable: for files the path as found ("photos/cats/a.jpg"), for members of tars the tar's path
            and the name inside ("shard.tar/a.webp"); always with forward slashes, and always valid UTF-8.
        path: the file, or the tar.
        member: name inside the tar.
        size: bytes; -1 for a file of a list that is not there, and for a hard link of a tar that leads nowhere.
        mtime_ns: when the file, or the tar, was changed, in nanoseconds.
        offset: where the member's data begins in the tar.
        label: name of the class: for files the first folder below the source given ("cats"), for members of tars what
            stands in NAME.cls beside NAME.webp; None where there is none.
    """

    name: str
    path: Path
    member: str | None
    size: int
    mtime_ns: int
    offset: int = 0
    label: str | None = None


def find_items(sources: Sequence[str | Path]) -> list[Item]:
    """Find the images of all sources, without reading them.

    Convention:
        Sources stay in the order given; a folder's images are in the order of their names. Hidden files and folders
        are left out, links to folders are not followed. An image that is found twice under one name counts once, with
        the label of the first source. Paths in lists are taken from the working directory, as those of the command
        line; a file of a list that is not there is an item whose reading fails.

    Args:
        sources: images, folders, tars (.tar) and lists (.txt, one path of an image or a tar a line).

    Returns:
        at least one item; all names differ.

    Raises:
        InputError: a source that is not there or cannot be read, or no image in any.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp(), "photos")
        >>> (folder / "cats").mkdir(parents=True)
        >>> Image.new("RGB", (8, 6)).save(folder / "cats/a.png")
        >>> [item] = find_items([folder])
        >>> Path(item.name).name, item.label
        ('a.png', 'cats')
    """
    found: dict[str, Item] = {}
    for source in map(Path, sources):
        for item in _of_source(source):
            found.setdefault(item.name, item)
    if not found:
        raise InputError(f"no image in {', '.join(quoted(source) for source in sources) or 'no source'}.")
    return list(found.values())


def read_bytes(item: Item) -> bytes:
    """Read an image's file, or its part of the tar.

    Raises:
        InputError: it cannot be read, or is shorter than it was when it was found.
    """
    if item.member and item.size < 0:
        raise InputError(f"{quoted(item.name)} is a link to a file that the tar does not hold.")
    try:
        if item.member is None:
            return item.path.read_bytes()
        with item.path.open("rb") as file:
            file.seek(item.offset)
            data = file.read(item.size)
    except (OSError, ValueError) as error:
        raise _unreadable(item.path, error) from None
    if len(data) < item.size:
        raise InputError(f"{quoted(item.name)} is cut off: the tar became shorter.")
    return data


def source_of(item: Item) -> Path | bytes:
    """What `maerestore.features.decode.load_image` takes of an item: its file, or its part of the tar.

    Raises:
        InputError: as `read_bytes`.
    """
    return item.path if item.member is None else read_bytes(item)


def _of_source(source: Path) -> Iterator[Item]:
    if source.is_dir():
        yield from _of_folder(source)
    elif not source.exists():
        raise InputError(f"{quoted(source)} does not exist: give images, folders, tars or a list of paths.")
    elif source.suffix.lower() == ".txt":
        yield from _of_list(source)
    else:
        yield from _of_file(source)


def _of_file(path: Path, label: str | None = None) -> Iterator[Item]:
    if path.suffix.lower() == ".tar":
        yield from _of_tar(path)
    elif path.name.lower().endswith(_COMPRESSED):
        raise InputError(f"{quoted(path)} is compressed, and images in it cannot be read by themselves: unpack it.")
    else:
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from None
        yield Item(as_utf8(path.as_posix()), path, None, status.st_size, status.st_mtime_ns, label=label)


def _of_folder(folder: Path) -> Iterator[Item]:
    for parts in files_below(folder, {*IMAGE_SUFFIXES, ".tar"}):
        yield from _of_file(folder.joinpath(*parts), as_utf8(parts[0]) if len(parts) > 1 else None)


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The files of a folder and of all folders in it, in the order of their names.

    Hidden files and folders are left out, links to folders are not followed, and links to nowhere do not count.

    Args:
        folder: which is there.
        suffixes: in small letters, of the files that are wanted.

    Yields:
        the parts of each path below `folder`.

    Raises:
        InputError: a folder that cannot be read.
    """
    found: list[tuple[str, ...]] = []

    def fail(error: OSError) -> None:
        raise InputError(f"{quoted(str(error.filename))} cannot be read ({error.strerror}): allow reading it.")

    for root, folders, files in os.walk(folder, onerror=fail):
        here = Path(root).relative_to(folder).parts
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                found.append((*here, name))
    for parts in sorted(found):
        if os.path.isfile(folder.joinpath(*parts)):  # neither a broken link nor a pipe
            yield parts


def _of_list(source: Path) -> Iterator[Item]:
    try:
        lines = source.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise _unreadable(source, error) from None
    for line in lines:
        path = Path(line.rstrip("\r"))
        if not line.strip():
            continue
        # Not `path.is_dir()`, which raises for names that are too long.
        if os.path.isdir(path):
            raise InputError(f"{quoted(source)} names the folder {quoted(path)}: give folders as sources of their own.")
        if os.path.isfile(path):
            yield from _of_file(path)
        else:
            yield Item(as_utf8(path.as_posix()), path, None, -1, 0)


def tar_items(file: IO[bytes], path: Path, name: str, mtime_ns: int) -> list[Item]:
    """The images of an opened tar, hard links to others among them.

    Args:
        file: the tar, readable at any place.
        path: where items say it is.
        name: what their names begin with.
        mtime_ns: when it was changed.

    Raises:
        InputError: no tar, or a damaged one.
    """
    images: dict[str, tarfile.TarInfo | None] = {}
    classes: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    data: dict[str, tarfile.TarInfo] = {}  # of all members so far, by which hard links name them
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content: tarfile.TarInfo | None = member
                if member.islnk():
                    content = data.get(os.path.normpath(member.linkname))
                elif not member.isreg() or member.issparse():
                    continue
                if content is not None:
                    data[os.path.normpath(member.name)] = content
                stem, suffix = os.path.splitext(member.name)
                if os.path.basename(stem).startswith("."):
                    continue
                if suffix == ".cls" and content is not None:
                    classes[stem] = content
                elif suffix.lower() in IMAGE_SUFFIXES:
                    images[member.name] = content  # of two members with one name the later counts, as when unpacking
            for stem, member in classes.items():
                handle = tar.extractfile(member)
                assert handle is not None  # a regular file always has contents
                labels[stem] = handle.read(4096).decode("utf-8", "replace").strip()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _unreadable(path, error) from None
    return [
        Item(
            as_utf8(f"{name}/{inner}"),
            path,
            inner,
            -1 if content is None else content.size,
            mtime_ns,
            0 if content is None else content.offset_data,
            labels.get(os.path.splitext(inner)[0]) or None,
        )
        for inner, content in images.items()
    ]


def _of_tar(path: Path) -> list[Item]:
    try:
        with path.open("rb") as file:
            return tar_items(file, path, path.as_posix(), os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, error) from None


def as_utf8(name: str) -> str:
    """A name that every format can hold: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{quoted(path)} cannot be read ({reason_of(error)}).")
