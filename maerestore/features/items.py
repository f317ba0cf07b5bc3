"""The images in folders, tars and lists, each with the name, size and time that tables of features store.

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

from maerestore.features.filesystems import check_regular
from maerestore.image.errors import InputError, quoted, reason_of
from maerestore.image.opening import IMAGE_SUFFIXES

__all__ = ["Item", "as_utf8", "files_below", "find_items", "read_bytes", "source_of", "tar_items", "time_of"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Item:
    """An image that was found, but not read.

    Args:
        name: unique and stable: the path as found ("photos/cats/a.jpg"), or for members of tars the path of the tar and
            the name inside it ("shard.tar/a.webp"). It has forward slashes and is valid UTF-8.
        path: of the file, or of the tar.
        member: name inside the tar; None for a file.
        size: in bytes; -1 for a path in a list that does not exist, and for a hard link in a tar without its target.
        mtime_ns: modification time of the file or the tar, in nanoseconds.
        offset: where the data of the member begins in the tar, in bytes.
        label: name of the class: for files the first folder below the source ("cats"), for NAME.webp in a tar the
            content of NAME.cls; None where there is none.
    """

    name: str
    path: Path
    member: str | None
    size: int
    mtime_ns: int
    offset: int = 0
    label: str | None = None


def find_items(sources: Sequence[str | Path] | str | Path) -> list[Item]:
    """Find the images of sources, without reading the images.

    Convention:
        Items are in the order of the sources, and those of a folder in the order of their names. Hidden files and
        folders are left out, and links to folders are not followed. An image that is found twice under one name is
        listed once, with the label of the first source. Paths in lists are relative to the working directory; a path
        in a list that does not exist is an item of size -1, and reading it raises an InputError. Hard links in tars
        have the data of the member that they link to.

    Args:
        sources: paths of images, folders, uncompressed tars (.tar) and lists (.txt: the path of an image or a tar on
            each line); or one of these.

    Returns:
        at least one item; all names are different.

    Raises:
        InputError: a source that does not exist or cannot be read, or no image in any.

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
    sources = [sources] if isinstance(sources, str | Path) else sources
    for source in map(Path, sources):
        for item in _of_source(source):
            found.setdefault(item.name, item)
    if not found:
        raise InputError(f"no image in {', '.join(quoted(source) for source in sources) or 'no source'}.")
    return list(found.values())


def read_bytes(item: Item) -> bytes:
    """Read the content of an image file, or of a member of a tar.

    Raises:
        InputError: it cannot be read, or the tar became shorter since the item was found.
    """
    if item.member and item.size < 0:
        raise InputError(f"{quoted(item.name)} is a hard link to a member that the tar does not contain.")
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
    """An item as `maerestore.features.decode.load_image` takes it: the path of a file, or the content of a member.

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
        yield Item(as_utf8(path.as_posix()), path, None, status.st_size, time_of(status), label=label)


def _of_folder(folder: Path) -> Iterator[Item]:
    for parts in files_below(folder, {*IMAGE_SUFFIXES, ".tar"}):
        yield from _of_file(folder.joinpath(*parts), as_utf8(parts[0]) if len(parts) > 1 else None)


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The files in a folder and its subfolders, in the order of their names.

    Hidden files and folders are left out, links to folders are not followed, and broken links are skipped.

    Args:
        folder: an existing folder.
        suffixes: of the files to list, in small letters.

    Yields:
        the parts of the path of each file, relative to `folder`.

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
        check_regular(source)
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
    """The images in an open tar; hard links have the data of the member that they link to.

    Args:
        file: the tar, seekable.
        path: of the tar, for the items.
        name: of the tar, with which the names of the items begin.
        mtime_ns: modification time of the tar, in nanoseconds.

    Raises:
        InputError: the file is not a tar, or is damaged.
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
            file.seek(tar.offset)
            # At a bad header after the first, tarfile ends as at the end: what follows would seem to be gone.
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a damaged header")
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
        check_regular(path)
        with path.open("rb") as file:
            return tar_items(file, path, path.as_posix(), time_of(os.fstat(file.fileno())))
    except OSError as error:
        raise _unreadable(path, error) from None


def time_of(status: os.stat_result) -> int:
    """The modification time of a file in nanoseconds, at most what 64 bits hold, as tables store it: the year 2262."""
    return max(-(1 << 63), min(status.st_mtime_ns, (1 << 63) - 1))


def as_utf8(name: str) -> str:
    """A name that every format can hold: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{quoted(path)} cannot be read ({reason_of(error)}).")
