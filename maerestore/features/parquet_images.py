"""The images of a Parquet table, which has a column of paths, or of the contents of image files."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from maerestore.features.filesystems import File, RemotePath, authority, filesystem, is_local, is_uri, public_name
from maerestore.features.items import Item, time_of
from maerestore.image.errors import InputError, quoted

__all__ = ["rows_of"]

BYTES_COLUMNS = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "data", "content", "img")
PATH_COLUMNS = ("path", "photo", "image", "image_path", "file", "file_name", "filename", "uri", "url")
LABEL_COLUMNS = ("label", "class", "cls")
_ROWS = 1024  # that are listed at once


@dataclass(frozen=True)
class _Cell:
    """The content of an image in a row of a Parquet table."""

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


def rows_of(file: File) -> Iterator[Item]:
    """Yield the images of a Parquet table, with their labels where it has a column of labels.

    Raises:
        InputError: it has no column of images.
        Exception: any error of pyarrow, where the table is damaged.
    """
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
    """The column of images, with the name of a field if it is a struct; and whether it holds contents, or paths.

    Columns of bytes with a usual name come first, then columns of paths, then any other column of bytes.
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


def _leaf(rows: Any, column: tuple[str, ...]) -> Any:
    """The images of a batch, or of a table: there in chunks, as an array holds no more than 2 GB."""
    import pyarrow.compute as pc

    outer, *inner = column
    values = rows.column(outer)
    return pc.struct_field(values, inner[0]) if inner else values


@lru_cache(maxsize=2)
def _group(table: RemotePath, column: tuple[str, ...], group: int, mtime_ns: int) -> Any:
    """The images of a row group, cached; with the modification time, so that a new version of the file is read anew."""
    import pyarrow.parquet as pq

    with table.open() as opened, pq.ParquetFile(opened) as file:
        return _leaf(file.read_row_group(group, [".".join(column)]), column)


def _of_paths(paths: list[str]) -> list[Item]:
    """The items of paths in a table; those of missing files have size -1."""
    items: dict[str, Item] = {}
    groups: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if is_uri(path):
            groups.setdefault(authority(path), []).append(path)
            continue
        items[path] = Item(path, Path(path), None, *_size_and_time(path))
    for uris in groups.values():  # one request for all: remote stores answer many together
        system = filesystem(uris[0])[0]
        inner = [filesystem(uri)[1] for uri in uris]
        if is_local(system):  # pyarrow does not accept names that are not UTF-8
            known = [_size_and_time(path) for path in inner]
        else:
            found = system.get_file_info(inner)
            known = [(-1 if info.size is None else info.size, info.mtime_ns or 0) for info in found]
        for uri, path, numbers in zip(uris, inner, known, strict=True):
            items[uri] = Item(public_name(uri), cast(Path, RemotePath(uri, path)), "", *numbers)
    return [items[path] for path in paths]


def _size_and_time(path: str) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds of a local file; -1 and 0 where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, 0
    return (status.st_size, time_of(status)) if stat.S_ISREG(status.st_mode) else (-1, 0)
