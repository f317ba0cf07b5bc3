"""Images on any filesystem that pyarrow opens, and in Parquet tables, as items for an extraction.

s3://bucket/photos     images, tars and Parquet tables in a folder; also gs://, hdfs://, file:// and others
photos.parquet         a table with a column of paths, or of the contents of image files
photos, a.tar, a.txt   local sources, as for `maerestore.features.items.find_items`
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from maerestore.features.filesystems import (
    File,
    RemotePath,
    escaped,
    filesystem,
    is_local,
    is_uri,
    no_image,
    public_name,
    unreadable,
)
from maerestore.features.items import Item, as_utf8, files_below, find_items, tar_items, time_of
from maerestore.features.parquet_images import rows_of
from maerestore.image.errors import InputError, quoted
from maerestore.image.opening import IMAGE_SUFFIXES
from maerestore.image.output import same_file

__all__ = ["ARCHIVES", "check_apart", "find_sources", "items_in", "list_files"]

ARCHIVES = (".tar", ".parquet")
"""Suffixes of files that hold many images."""


def find_sources(sources: Sequence[str | Path]) -> list[Item]:
    """As `maerestore.features.items.find_items`, but sources may also be URIs and Parquet tables.

    Raises:
        InputError: a source that does not exist or cannot be read, or no image in any.
    """
    found: dict[str, Item] = {}
    for source in sources:
        if is_uri(source) or Path(source).suffix.lower() == ".parquet":
            items: Sequence[Item] = [item for file in list_files(source) for item in items_in(file)]
        else:
            items = find_items([source])
        for item in items:
            found.setdefault(item.name, item)
    if not found:
        raise no_image(sources)
    return list(found.values())


def check_apart(sources: Sequence[str | Path], out: Path) -> None:
    """Refuse an output that is one of the sources, such as a table that lists the images.

    Raises:
        InputError: the output is one of the sources.
    """
    for source in sources:
        uri = urlsplit(str(source)) if is_uri(source) else None
        if uri is not None and uri.scheme != "file":
            continue
        if same_file(Path(source if uri is None else unquote(uri.path, errors="surrogateescape")), out):
            raise InputError(f"output {quoted(out)} would replace the input {quoted(source)}: choose another output.")


def list_files(source: str | Path, listed: bool = False) -> Iterator[File]:
    """List the images, tars and Parquet tables of a source in the order of their names, without opening them.

    In local folders, hidden files are left out and links to folders are not followed, as in `find_items`.

    Args:
        source: a URI, a file or a folder; or a list of those (.txt, one on each line).
        listed: whether the source is from a list: then it is yielded with size -1 if it does not exist, and is not read
            as a list itself.

    Raises:
        InputError: the source does not exist, or cannot be read.
    """
    root = str(source) if is_uri(source) else str(Path(source).absolute())
    name = as_utf8(public_name(root) if is_uri(source) else Path(source).as_posix())
    system, base = filesystem(root)
    try:
        kind, size, mtime_ns = _look(system, base)
        if kind == "none" and listed:
            yield File(name, RemotePath(root, base), -1, 0)
        elif kind == "none":
            raise InputError(f"{quoted(name)} does not exist: give images, folders, tars or Parquet tables.")
        elif kind == "folder":
            below = _local_files(root, base) if is_local(system) else _far_files(root, system, base)
            for inner, path, size, mtime_ns in below:
                first, deep, _ = inner.partition("/")
                label = as_utf8(first) if deep else None
                end = escaped(inner) if is_uri(root) else as_utf8(inner)
                yield File(f"{name.rstrip('/')}/{end}", path, size, mtime_ns, label, named=False)
        elif Path(base).suffix.lower() == ".txt" and not listed:
            with RemotePath(root, base).open() as file:
                lines = file.read().decode("utf-8-sig", "surrogateescape").split("\n")
            for line in filter(str.strip, lines):
                yield from list_files(line.rstrip("\r"), listed=True)
        else:
            yield File(name, RemotePath(root, base), size, mtime_ns)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise unreadable(root, error) from None


def _look(system: Any, path: str) -> tuple[str, int, int]:
    """What a path is ("file", "folder" or "none"), its size in bytes and its modification time in nanoseconds."""
    from pyarrow import fs

    if is_local(system):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return "none", 0, 0
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "none", 0, 0
            raise
        return "folder" if stat.S_ISDIR(status.st_mode) else "file", status.st_size, time_of(status)
    [info] = system.get_file_info([path])
    kinds = {fs.FileType.NotFound: "none", fs.FileType.Directory: "folder"}
    return kinds.get(info.type, "file"), info.size or 0, info.mtime_ns or 0


def _local_files(root: str, folder: str) -> Iterator[tuple[str, RemotePath, int, int]]:
    """The images, tars and tables below a local folder: relative path, file, size and modification time."""
    for parts in files_below(Path(folder), {*IMAGE_SUFFIXES, *ARCHIVES}):
        path = os.path.join(folder, *parts)
        status = os.stat(path)
        yield "/".join(parts), RemotePath(root, path), status.st_size, time_of(status)


def _far_files(root: str, system: Any, folder: str) -> Iterator[tuple[str, RemotePath, int, int]]:
    """As `_local_files`, for other filesystems."""
    from pyarrow import fs

    start = len(folder.rstrip("/"))
    found = system.get_file_info(fs.FileSelector(folder, recursive=True))
    for info in sorted(found, key=lambda info: info.path.split("/")):
        inner = info.path[start:].strip("/")
        wanted = Path(inner).suffix.lower() in IMAGE_SUFFIXES or inner.lower().endswith(ARCHIVES)
        if info.type == fs.FileType.File and wanted and not any(part.startswith(".") for part in inner.split("/")):
            yield inner, RemotePath(root, info.path), info.size or 0, info.mtime_ns or 0


def items_in(file: File) -> list[Item]:
    """The images of a file: the file itself, the members of a tar, or the rows of a Parquet table.

    Convention:
        Rows with the contents of images are named by their numbers ("photos.parquet/17"), and their column is read once
        to find the sizes. Rows with paths are named by these; relative paths start from the working directory, and a
        path that a table contains twice is listed once, with the first label. Tables of features that this package
        wrote have no images if they were found in a folder.

    Raises:
        InputError: a tar or table that cannot be read, or a table without a column of images.
    """
    try:
        if file.suffix == ".tar":
            with file.path.open() as opened:
                return tar_items(opened, cast(Path, file.path), file.name, file.mtime_ns)
        if file.suffix == ".parquet":
            rows: dict[str, Item] = {}
            for item in rows_of(file):
                rows.setdefault(item.name, item)
            return list(rows.values())
    except InputError:
        raise
    except Exception as error:  # tarfile and pyarrow raise many kinds for damaged files
        raise unreadable(file.name, error) from None
    # An item with a member, even an empty one, is read through the open() of its path.
    return [Item(file.name, cast(Path, file.path), "", file.size, file.mtime_ns, label=file.label)]
