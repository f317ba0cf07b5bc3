"""Filesystems that pyarrow opens, found by URI or path, and files on them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from maerestore.image.errors import InputError, quoted, reason_of

__all__ = [
    "File",
    "RemotePath",
    "authority",
    "check_regular",
    "escaped",
    "filesystem",
    "is_local",
    "is_uri",
    "no_image",
    "public_name",
    "unreadable",
]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a drive


@dataclass(frozen=True)
class RemotePath:
    """A file on any filesystem that pyarrow opens, with the methods of a path that `Item` needs.

    Args:
        root: a URI or an absolute local path, which determines the filesystem.
        path: of the file, on that filesystem.
    """

    root: str
    path: str

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading; it is seekable."""
        system = filesystem(self.root)[0]
        if is_local(system):  # pyarrow does not accept names that are not UTF-8
            check_regular(self.path)
            return open(self.path, "rb")
        return cast(IO[bytes], system.open_input_file(self.path))

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class File:
    """A file of a listing: an image, a tar or a Parquet table.

    Args:
        name: with which the names of its images begin: its path as found, or its URI without a password.
        path: of the file.
        size: in bytes; -1 for a path in a list that does not exist.
        mtime_ns: modification time in nanoseconds; 0 where the filesystem does not provide it.
        label: the first folder below the source; None where there is none.
        named: True for sources and for files in lists; False for files that were found in a folder.
    """

    name: str
    path: RemotePath
    size: int
    mtime_ns: int
    label: str | None = None
    named: bool = True

    @property
    def suffix(self) -> str:
        """The suffix of the path, in small letters."""
        return Path(self.path.path).suffix.lower()


def is_uri(source: str | Path) -> bool:
    """Whether a source is a URI.

    Example:
        >>> is_uri("s3://bucket/photos"), is_uri("photos/a.jpg"), is_uri("C:/photos")
        (True, False, False)
    """
    return _URI.match(str(source)) is not None


def filesystem(root: str) -> tuple[Any, str]:
    """Open the filesystem of a URI or of an absolute local path. Each one is opened once per process.

    Returns:
        the filesystem of pyarrow, and the path on it.

    Raises:
        InputError: pyarrow does not support the filesystem, cannot reach it, or is missing.
    """
    if not is_uri(root):
        return _opened("")[0], root
    system, base = _opened(authority(root))
    path = base.rstrip("/") + unquote(urlsplit(root).path, errors="surrogateescape").rstrip("/")
    return system, path or "/" if base else path.lstrip("/")


def is_local(system: Any) -> bool:
    """Whether a filesystem of pyarrow is the local one, whose files Python can open."""
    from pyarrow import fs

    return isinstance(system, fs.LocalFileSystem)


def authority(uri: str) -> str:
    """A URI without its path, which determines the filesystem.

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
    """A URI without its password and options, as messages and tables show it; a path is returned as it is.

    Example:
        >>> public_name("s3://key:secret@bucket/a.jpg?region=x"), public_name("what?.jpg")
        ('s3://bucket/a.jpg', 'what?.jpg')
    """
    return re.sub(r"^([^/]*//)[^/@]*@", r"\1", uri).partition("?")[0] if is_uri(uri) else uri


def escaped(path: str) -> str:
    """A path as it stands in a URI, so that `filesystem` gives it back: only what would be lost there is escaped.

    Example:
        >>> escaped("my cats/100%?.jpg")
        'my cats/100%25%3F.jpg'
    """
    return re.sub(r"[%?#\x00-\x1f\x7f\udc80-\udcff]", lambda found: quote(found[0], errors="surrogateescape"), path)


def check_regular(path: str | Path) -> None:
    """Raise OSError unless a path is that of a file: who opens a pipe waits for another process to write to it."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def unreadable(name: str, error: Exception) -> InputError:
    """An error saying that a path or URI cannot be read; the message contains no password."""
    return InputError(f"{quoted(public_name(name))} cannot be read ({reason_of(error)}).")


def no_image(sources: Sequence[str | Path]) -> InputError:
    """An error saying that sources hold no image; the message contains no password."""
    names = ", ".join(quoted(public_name(str(source))) for source in sources)
    return InputError(f"no image in {names or 'no source'}.")
