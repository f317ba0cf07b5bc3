"""Images on every filesystem that pyarrow opens, and in Parquet tables, as the items that an extraction works on.

s3://bucket/photos     images, tars and Parquet tables below it; also gs://, hdfs://, file:// and others
photos.parquet         a table: a column of paths, or of the bytes of image files
photos, a.tar, a.txt   on this machine, as `maerestore.features.items.find_items` takes them
"""

from __future__ import annotations

import errno
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

from maerestore.features.items import Item, as_utf8, files_below, find_items, tar_items
from maerestore.image.errors import InputError, quoted, reason_of
from maerestore.image.opening import IMAGE_SUFFIXES
from maerestore.image.output import same_file

__all__ = [
    "ARCHIVES",
    "File",
    "RemotePath",
    "check_apart",
    "filesystem",
    "find_sources",
    "is_local",
    "is_uri",
    "items_in",
    "list_files",
]

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
        system = filesystem(self.root)[0]
        if is_local(system):  # pyarrow takes no names that are no UTF-8
            return open(self.path, "rb")
        return cast(IO[bytes], system.open_input_file(self.path))

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class _Cell:
    """The bytes of an image in a row of a Parquet table."""

    table: RemotePath
    column: tuple[str, ...]
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
        named: whether it is a source itself, or stands in a list; else it was found in a folder.
    """

    name: str
    path: RemotePath
    size: int
    mtime_ns: int
    label: str | None = None
    named: bool = True

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


def is_local(system: Any) -> bool:
    """Whether a filesystem of pyarrow is that of this machine, whose files Python opens too."""
    from pyarrow import fs

    return isinstance(system, fs.LocalFileSystem)


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


def check_apart(sources: Sequence[str | Path], out: Path) -> None:
    """Refuse an output that is one of the sources: a table that names images is no table of features.

    Raises:
        InputError: there is such a source.
    """
    for source in sources:
        uri = urlsplit(str(source)) if is_uri(source) else None
        if uri is not None and uri.scheme != "file":
            continue
        if same_file(Path(source if uri is None else unquote(uri.path)), out):
            raise InputError(f"output {quoted(out)} would replace the input {quoted(source)}: choose another output.")


def list_files(source: str | Path, listed: bool = False) -> Iterator[File]:
    """The images, tars and Parquet tables of a source, in the order of their names, none of them opened.

    In folders of this machine, hidden files are left out and links to folders are not followed, as in `find_items`.

    Args:
        source: a URI, a file or a folder; a list of such (.txt), one a line.
        listed: the source stands in a list: where it is not there, it is a file of size -1, whose reading fails; lists
            are no sources.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    root = str(source) if is_uri(source) else str(Path(source).absolute())
    name = _public(root) if is_uri(source) else as_utf8(Path(source).as_posix())
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
                label = first if deep else None
                yield File(f"{name.rstrip('/')}/{inner}", path, size, mtime_ns, label, named=False)
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
        raise _unreadable(root, error) from None


def _look(system: Any, path: str) -> tuple[str, int, int]:
    """Whether a path is a "file", a "folder" or "none"; its bytes, and when it was changed, in nanoseconds."""
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
        return "folder" if stat.S_ISDIR(status.st_mode) else "file", status.st_size, status.st_mtime_ns
    [info] = system.get_file_info([path])
    kinds = {fs.FileType.NotFound: "none", fs.FileType.Directory: "folder"}
    return kinds.get(info.type, "file"), info.size or 0, info.mtime_ns or 0


def _local_files(root: str, folder: str) -> Iterator[tuple[str, RemotePath, int, int]]:
    """The images, tars and tables below a folder of this machine: path below it, in UTF-8; file, bytes, time."""
    for parts in files_below(Path(folder), {*IMAGE_SUFFIXES, *ARCHIVES}):
        path = os.path.join(folder, *parts)
        status = os.stat(path)
        yield as_utf8("/".join(parts)), RemotePath(root, path), status.st_size, status.st_mtime_ns


def _far_files(root: str, system: Any, folder: str) -> Iterator[tuple[str, RemotePath, int, int]]:
    """As `_local_files`, for any filesystem."""
    from pyarrow import fs

    start = len(folder.rstrip("/"))
    found = system.get_file_info(fs.FileSelector(folder, recursive=True))
    for info in sorted(found, key=lambda info: info.path.split("/")):
        inner = info.path[start:].strip("/")
        wanted = Path(inner).suffix.lower() in IMAGE_SUFFIXES or inner.lower().endswith(ARCHIVES)
        if info.type == fs.FileType.File and wanted and not any(part.startswith(".") for part in inner.split("/")):
            yield inner, RemotePath(root, info.path), info.size or 0, info.mtime_ns or 0


def items_in(file: File) -> list[Item]:
    """The images of a file: itself, the members of a tar, or the rows of a Parquet table.

    Convention:
        Sizes and times are known from the listing; for rows of bytes, the column is read once for the sizes. Rows are
        named by their numbers ("photos.parquet/17"), paths in a table as they stand there, relative ones from the
        working directory; a path that a table names twice counts once, with its first label. Tables of features that
        this package wrote are no images where they are found in a folder.

    Raises:
        InputError: a tar or table that cannot be read, or a table without a column of images.
    """
    try:
        if file.suffix == ".tar":
            with file.path.open() as opened:
                return tar_items(opened, cast(Path, file.path), file.name, file.mtime_ns)
        if file.suffix == ".parquet":
            rows: dict[str, Item] = {}
            for item in _rows(file):
                rows.setdefault(item.name, item)
            return list(rows.values())
    except InputError:
        raise
    except Exception as error:  # tarfile and pyarrow have many for files that are damaged
        raise _unreadable(file.name, error) from None
    # An item with a member, though an empty one, is read through its path's open().
    return [Item(file.name, cast(Path, file.path), "", file.size, file.mtime_ns, label=file.label)]


def _rows(file: File) -> Iterator[Item]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with file.path.open() as opened, pq.ParquetFile(opened) as table:
        schema = table.schema_arrow
        if not file.named and b"maerestore" in (schema.metadata or {}):
            return
        image, holds_bytes = _image_column(schema, file.name)
        label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        wanted = [".".join(image)] if label is None else [".".join(image), label]
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


def _image_column(schema: Any, name: str) -> tuple[tuple[str, ...], bool]:
    """The column that images are in, and its field where it has some; and whether it holds their bytes or their paths.

    Names that are usual for bytes come first, then those for paths, then any column of bytes.
    """
    import pyarrow.types as kinds

    def is_bytes(kind: Any) -> bool:
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    def of_bytes(columns: Sequence[str]) -> tuple[str, ...] | None:
        for column in columns:
            kind = schema.field(column).type
            if is_bytes(kind):
                return (column,)
            if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type):
                return column, "bytes"  # as the library datasets writes images
        return None

    there = [name for name in schema.names if schema.names.count(name) == 1]  # pyarrow finds no other by its name
    if (usual := of_bytes([column for column in BYTES_COLUMNS if column in there])) is not None:
        return usual, True
    for column in PATH_COLUMNS:
        if column in there and (kinds.is_string(schema.field(column).type)
                                or kinds.is_large_string(schema.field(column).type)):  # fmt: skip
            return (column,), False
    if (other := of_bytes(there)) is not None:
        return other, True
    raise InputError(f"{quoted(name)} has no column of images: name one 'path', or 'image' with the files' bytes.")


def _leaf(batch: Any, column: tuple[str, ...]) -> Any:
    outer, *inner = column
    values = batch.column(outer)
    return values.field(inner[0]) if inner else values


@lru_cache(maxsize=2)
def _group(table: RemotePath, column: tuple[str, ...], group: int, mtime_ns: int) -> Any:
    """The images of a row group; the time tells one content of the table from the next."""
    import pyarrow.parquet as pq

    with table.open() as opened, pq.ParquetFile(opened) as file:
        read = file.read_row_group(group, [".".join(column)])
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
