"""The filesystems that pyarrow opens, by URI or path, and the files on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from maerestore.image.errors import InputError, quoted, reason_of

__all__ = [
    "File",
    "RemotePath",
    "authority",
    "filesystem",
    "is_local",
    "is_uri",
    "public_name",
    "unreadable",
]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a drive


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
    system, base = _opened(authority(root))
    path = base.rstrip("/") + unquote(urlsplit(root).path).rstrip("/")
    return system, path or "/" if base else path.lstrip("/")


def is_local(system: Any) -> bool:
    """Whether a filesystem of pyarrow is that of this machine, whose files Python opens too."""
    from pyarrow import fs

    return isinstance(system, fs.LocalFileSystem)


def authority(uri: str) -> str:
    """A URI without its path: what tells the filesystem.

    Example:
        >>> authority("s3://bucket/photos/a.jpg?region=x")
        's3://bucket/?region=x'
    """
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
        raise unreadable(root, error) from None


def public_name(uri: str) -> str:
    """A URI as messages and tables show it, without its password and options; a path as it is.

    Example:
        >>> public_name("s3://key:secret@bucket/a.jpg?region=x"), public_name("what?.jpg")
        ('s3://bucket/a.jpg', 'what?.jpg')
    """
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0] if is_uri(uri) else uri


def unreadable(name: str, error: Exception) -> InputError:
    """The error of a path or URI that cannot be read, without a password that it may have."""
    return InputError(f"{quoted(public_name(name))} cannot be read ({reason_of(error)}).")
