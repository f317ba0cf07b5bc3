"""Images on every filesystem that pyarrow opens, and in Parquet tables, as the items that an extraction works on.

s3://bucket/photos     images, tars and Parquet tables below it; also gs://, hdfs://, file:// and others
photos.parquet         a table: a column of paths, or of the bytes of image files
photos, a.tar, a.txt   on this machine, as `maerestore.features.items.find_items` takes them
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from maerestore.features.items import Item, find_items, tar_items
from maerestore.image.errors import InputError, quoted, reason_of
from maerestore.image.opening import IMAGE_SUFFIXES

__all__ = ["ARCHIVES", "File", "RemotePath", "filesystem", "find_sources", "is_uri", "items_in", "list_files"]

ARCHIVES = (".tar", ".parquet")
"""Files that hold many images."""

BYTES_COLUMNS = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "data", "content", "img")
PATH_COLUMNS = ("path", "photo", "image", "image_path", "file", "file_name", "filename", "uri", "url")
LABEL_COLUMNS = ("label", "class", "cls")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a drive
_ROWS = 1024  # that are listed at once


@dataclass(frozen=True)
class RemotePath:
    """A file of a filesystem that pyarrow opens: all that `maerestore.features.items.read_bytes` asks of a path.

    Args:
        root: a URI, or an absolute path of this machine, that tells the filesystem.
        path: of the file on it.
    """

    root: str
    path: str

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open it for reading, at any place."""
        return cast(IO[bytes], filesystem(self.root)[0].open_input_file(self.path))

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class _Cell:
    """The bytes of an image in a row of a Parquet table."""

    table: RemotePath
    column: str
    group: int
    row: int
    mtime_ns: int

    def open(self, mode: str = "rb") -> IO[bytes]:
        with _ONE_READER:  # the decoding threads ask for rows of one group: it is read once
            values = _group(self.table, self.column, self.group, self.mtime_ns)
        return io.BytesIO(values[self.row].as_py() or b"")

    def __str__(self) -> str:
        return self.table.path


_ONE_READER = threading.Lock()


@dataclass(frozen=True)
class File:
    """A file as a filesystem lists it: an image, a tar or a Parquet table.

    Attributes:
        name: as its images' names begin, without a password that the URI had.
        path: where it is.
        size: bytes.
        mtime_ns: when it was changed, in nanoseconds; 0 where the filesystem does not tell.
        label: the first folder below the source.
    """

    name: str
    path: RemotePath
    size: int
    mtime_ns: int
    label: str | None = None

    @property
    def suffix(self) -> str:
        """ ".tar", ".parquet", or that of an image, in small letters."""
        return Path(self.path.path).suffix.lower()


def is_uri(source: str | Path) -> bool:
    """Whether a source is a URI.

    Example:
        >>> is_uri("s3://bucket/photos"), is_uri("photos/a.jpg"), is_uri("C:/photos")
        (True, False, False)
    """
    return _URI.match(str(source)) is not None


def filesystem(root: str) -> tuple[Any, str]:
    """The filesystem of a URI or an absolute path, and the path on it; each filesystem is opened once a process.

    Raises:
        InputError: pyarrow knows no such filesystem, cannot reach it, or is missing.
    """
    if not is_uri(root):
        return _opened("")[0], root
    system, base = _opened(_authority(root))
    path = base.rstrip("/") + unquote(urlsplit(root).path).rstrip("/")
    return system, path or "/" if base else path.lstrip("/")


def _authority(uri: str) -> str:
    """A URI without its path: what tells the filesystem."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc, "/", parts.query, ""))


@lru_cache(maxsize=64)
def _opened(root: str) -> tuple[Any, str]:
    try:
        from pyarrow import fs
    except ModuleNotFoundError:
        raise InputError("URIs and Parquet tables need pyarrow: pip install 'maerestore[features]'.") from None
    try:
        return fs.FileSystem.from_uri(root) if root else (fs.LocalFileSystem(), "")
    except (OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(root, error) from None


def find_sources(sources: Sequence[str | Path]) -> list[Item]:
    """As `maerestore.features.items.find_items`, for URIs and Parquet tables too.

    Raises:
        InputError: a source that is not there or cannot be read, or no image in any.
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
        raise InputError(f"no image in {', '.join(quoted(_public(str(s))) for s in sources) or 'no source'}.")
    return list(found.values())


def list_files(source: str | Path, listed: bool = False) -> Iterator[File]:
    """The images, tars and Parquet tables of a source, in the order of their names, none of them opened.

    Args:
        source: a URI, a file or a folder; a list of such (.txt), one a line.
        listed: the source stands in a list: where it is not there, it is a file of size -1, whose reading fails; lists
            are no sources.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    from pyarrow import fs

    root = str(source) if is_uri(source) else str(Path(source).absolute())
    name = _public(root) if is_uri(source) else Path(source).as_posix()
    system, base = filesystem(root)
    try:
        [here] = system.get_file_info([base])
        if here.type == fs.FileType.NotFound and listed:
            yield File(name, RemotePath(root, here.path), -1, 0)
            return
        if here.type == fs.FileType.NotFound:
            raise InputError(f"{quoted(name)} does not exist: give images, folders, tars or Parquet tables.")
        if here.type != fs.FileType.Directory:
            if Path(base).suffix.lower() == ".txt" and not listed:
                with RemotePath(root, base).open() as file:
                    lines = file.read().decode("utf-8-sig", "replace").split("\n")
                for line in filter(str.strip, lines):
                    yield from list_files(line.rstrip("\r"), listed=True)
            else:
                yield _file(name, root, here)
            return
        found = system.get_file_info(fs.FileSelector(base, recursive=True))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(root, error) from None
    folder = base.rstrip("/")
    for info in sorted(found, key=lambda info: info.path.split("/")):
        inner = info.path[len(folder) :].strip("/")
        parts = inner.split("/")
        wanted = Path(inner).suffix.lower() in IMAGE_SUFFIXES or inner.lower().endswith(ARCHIVES)
        if info.type == fs.FileType.File and wanted and not any(part.startswith(".") for part in parts):
            yield _file(f"{name.rstrip('/')}/{inner}", root, info, parts[0] if len(parts) > 1 else None)


def items_in(file: File) -> list[Item]:
    """The images of a file: itself, the members of a tar, or the rows of a Parquet table.

    Convention:
        Sizes and times are known from the listing; for rows of bytes, the column is read once for the sizes. Rows are
        named by their numbers ("photos.parquet/17"), paths in a table as they stand there, relative ones from the
        working directory.

    Raises:
        InputError: a tar or table that cannot be read, or a table without a column of images.
    """
    try:
        if file.suffix == ".tar":
            with file.path.open() as opened:
                return tar_items(opened, cast(Path, file.path), file.name, file.mtime_ns)
        if file.suffix == ".parquet":
            return list(_rows(file))
    except InputError:
        raise
    except Exception as error:  # tarfile and pyarrow have many for files that are damaged
        raise _unreadable(file.name, error) from None
    # An item with a member, though an empty one, is read through its path's open().
    return [Item(file.name, cast(Path, file.path), "", file.size, file.mtime_ns, label=file.label)]


def _file(name: str, root: str, info: Any, label: str | None = None) -> File:
    return File(name, RemotePath(root, info.path), info.size or 0, info.mtime_ns or 0, label)


def _rows(file: File) -> Iterator[Item]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with file.path.open() as opened, pq.ParquetFile(opened) as table:
        schema = table.schema_arrow
        image, holds_bytes = _image_column(schema, file.name)
        label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        wanted = [image] if label is None else [image, label]
        number = 0
        for group in range(table.num_row_groups):
            row = 0
            for batch in table.iter_batches(_ROWS, [group], wanted):
                values = _leaf(batch, image)
                labels = [None] * len(batch) if label is None else batch.column(label).to_pylist()
                if holds_bytes:
                    items = [
                        Item(f"{file.name}/{number + k}",
                             cast(Path, _Cell(file.path, image, group, row + k, file.mtime_ns)),
                             "", size or 0, file.mtime_ns)
                        for k, size in enumerate(pc.binary_length(values).to_pylist())
                    ]  # fmt: skip
                else:
                    items = _of_paths([str(value or "") for value in values.to_pylist()])
                for k, (item, of_class) in enumerate(zip(items, labels, strict=True)):
                    name = item.name or f"{file.name}/{number + k}"  # where no path is given
                    yield replace(item, name=name, label=None if of_class is None else str(of_class))
                number, row = number + len(batch), row + len(batch)


def _image_column(schema: Any, name: str) -> tuple[str, bool]:
    """The column that images are in, as Parquet spells it, and whether it holds their bytes or their paths."""
    import pyarrow.types as kinds

    def is_bytes(kind: Any) -> bool:
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    for column in (*BYTES_COLUMNS, *schema.names):
        if column in schema.names:
            kind = schema.field(column).type
            if is_bytes(kind):
                return column, True
            if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type):
                return f"{column}.bytes", True  # as the library datasets writes images
    for column in PATH_COLUMNS:
        if column in schema.names and (kinds.is_string(schema.field(column).type)
                                       or kinds.is_large_string(schema.field(column).type)):  # fmt: skip
            return column, False
    raise InputError(f"{quoted(name)} has no column of images: name one 'path', or 'image' with the files' bytes.")


def _leaf(batch: Any, column: str) -> Any:
    outer, _, inner = column.partition(".")
    values = batch.column(outer)
    return values.field(inner) if inner and outer in batch.schema.names else values


@lru_cache(maxsize=2)
def _group(table: RemotePath, column: str, group: int, mtime_ns: int) -> Any:
    """The images of a row group; the time tells one content of the table from the next."""
    import pyarrow.parquet as pq

    with table.open() as opened, pq.ParquetFile(opened) as file:
        read = file.read_row_group(group, [column])
    [batch] = read.combine_chunks().to_batches(max_chunksize=None) or [None]
    return _leaf(batch, column)


def _of_paths(paths: list[str]) -> list[Item]:
    """The items of paths in a table; where nothing is there, one whose reading fails."""
    items: dict[str, Item] = {}
    groups: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if is_uri(path):
            groups.setdefault(_authority(path), []).append(path)
            continue
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError
            items[path] = Item(path, Path(path), None, status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            items[path] = Item(path, Path(path), None, -1, 0)
    for root, uris in groups.items():  # asked for together: far stores answer many questions at once
        inner = [filesystem(uri)[1] for uri in uris]
        for uri, info in zip(uris, _opened(root)[0].get_file_info(inner), strict=True):
            size = -1 if info.size is None else info.size
            where = cast(Path, RemotePath(uri, info.path))
            items[uri] = Item(_public(uri), where, "", size, info.mtime_ns or 0)
    return [items[path] for path in paths]


def _public(uri: str) -> str:
    """A URI without its password and options."""
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0] if is_uri(uri) else uri


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(f"{quoted(_public(name))} cannot be read ({reason_of(error)}).")
