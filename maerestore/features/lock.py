"""A lock, so that only one process at a time writes an output."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from maerestore.image.errors import InputError, quoted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]

_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""Errors by which systems say that another process holds a lock; others are of disks that have no locks."""


class FolderLock:
    """A folder that only one process can hold. The system releases it when that process ends, however it ends.

    Args:
        folder: created where it is missing.

    Raises:
        InputError: another process holds it, or it cannot be created or locked.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "work")
        >>> lock = FolderLock(folder)
        >>> lock.release()
        >>> folder.exists()
        False
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lock"
        self.descriptor: int | None = None
        while self.descriptor is None:
            try:
                folder.mkdir(exist_ok=True)
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # its holder removed the folder just now, or the folder around it is not there
                if folder.parent.is_dir():
                    continue
                raise InputError(f"{quoted(folder)} cannot be made: there is no {quoted(folder.parent)}.") from None
            except OSError as error:
                raise InputError(
                    f"{quoted(folder)} cannot be used ({error.strerror}): choose another output."
                ) from None
            try:
                _take(descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _HELD:
                    raise InputError(f"another process works in {quoted(folder)}: wait for it, or end it.") from None
                raise InputError(
                    f"{quoted(folder)} cannot be locked ({error.strerror}): choose an output on another disk."
                ) from None
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    self.descriptor = descriptor
                    return
            os.close(descriptor)  # the file was removed in between: a lock on it holds nobody back

    def release(self) -> None:
        """Release the folder, and remove it if it is empty."""
        if self.descriptor is None:
            return
        with suppress(OSError):
            if set(os.listdir(self.folder)) <= {self.path.name}:
                os.unlink(self.path)
                self.folder.rmdir()
        os.close(self.descriptor)
        self.descriptor = None


def _take(descriptor: int) -> None:
    """Lock a file without waiting; raise OSError where another process holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
