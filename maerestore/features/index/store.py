"""A folder whose content changes atomically: generations, and a file that names the current one.

    INDEX/current         the name of the current generation
    INDEX/00000012/       its files, which are never changed
    INDEX/lock            held by the process that writes
    INDEX/parts/          features that a run has extracted so far; parts.lock is held by it

A writer makes a new generation beside the old one, then replaces `current`, then removes the old one. Whatever ends it,
at any moment, leaves the old content or the new one. Readers need no lock.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from maerestore.image.errors import InputError, quoted, reason_of

CURRENT, LOCK = "current", "lock"
PARTS, PARTS_LOCK = "parts", "parts.lock"

_NAME = re.compile(r"\d{8}")
_TRIES = 100

T = TypeVar("T")


class Generations:
    """The generations of one folder.

    Args:
        folder: which need not exist yet.
        files: the names of the files that a generation may hold. A folder of eight digits with anything else in it,
            such as photographs of a day, is none, and is left alone.

    Example:
        >>> import tempfile
        >>> store = Generations(Path(tempfile.mkdtemp(), "index"), {"a.txt"})
        >>> with store.writing():
        ...     for text in ("old", "new"):
        ...         store.publish(lambda folder: folder.joinpath("a.txt").write_text(text))
        >>> store.read(lambda folder: folder.joinpath("a.txt").read_text())
        'new'
    """

    def __init__(self, folder: Path, files: Collection[str]) -> None:
        self.folder, self.files = folder, files

    def current(self) -> str | None:
        """The name of the current generation; None where there is none yet.

        Raises:
            InputError: the folder is damaged, or cannot be read.
        """
        try:
            name = (self.folder / CURRENT).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as err:
            raise InputError(f"index {quoted(self.folder)} cannot be read ({reason_of(err)}).") from None
        if not _NAME.fullmatch(name):
            raise InputError(f"index {quoted(self.folder)} is damaged: build it again.")
        return name

    def read(self, load: Callable[[Path], T]) -> T:
        """Call `load` with the folder of the current generation; again, where a writer replaces it meanwhile.

        Raises:
            InputError: no generation, or it cannot be read.
        """
        for _ in range(_TRIES):
            name = self.current()
            if name is None:
                raise InputError(f"{quoted(self.folder)} is no index: make one with 'maerestore index build'.")
            try:
                return load(self.folder / name)
            except (OSError, InputError) as err:
                if self.current() == name:
                    if isinstance(err, InputError):
                        raise
                    raise InputError(f"index {quoted(self.folder)} cannot be read ({reason_of(err)}).") from None
        raise InputError(f"index {quoted(self.folder)} changes too fast to be read: try again.")

    def writing(self, timeout: float = 60.0) -> AbstractContextManager[None]:
        """Hold the write lock, which the system releases when the process ends, however it ends.

        Args:
            timeout: how long to wait for another writer, in seconds.

        Raises:
            InputError: the folder holds something else, cannot be written, or is written by another process for longer.
        """
        return self._locked(LOCK, timeout)

    def extracting(self) -> AbstractContextManager[None]:
        """Hold the lock of `PARTS`, without waiting; errors as for `writing`."""
        return self._locked(PARTS_LOCK, 0)

    @contextmanager
    def _locked(self, name: str, timeout: float) -> Iterator[None]:
        import filelock

        self.check_target()
        lock = filelock.FileLock(self.folder / name, timeout=timeout)
        new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise InputError(f"another process works on index {quoted(self.folder)}: wait for it, or end it.") from None
        except (OSError, NotImplementedError) as err:
            raise InputError(f"index {quoted(self.folder)} cannot be written ({reason_of(err)}).") from None
        try:
            yield
        finally:
            with suppress(OSError):
                if new and os.listdir(self.folder) == [name]:  # nothing has come of it
                    os.unlink(self.folder / name)
            lock.release()
            if new:
                with suppress(OSError):  # it is not empty
                    self.folder.rmdir()

    def check_target(self) -> None:
        """Raise InputError unless the folder is an index, or may become one: missing, or empty but for leftovers."""
        try:
            strange = [entry.name for entry in os.scandir(self.folder) if not self._ours(entry)]
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise InputError(f"{quoted(self.folder)} is a file: name a folder for the index.") from None
        except OSError as err:
            raise InputError(f"index {quoted(self.folder)} cannot be read ({reason_of(err)}).") from None
        if strange and not (self.folder / CURRENT).exists():
            raise InputError(f"folder {quoted(self.folder)} holds other files: name a new folder for the index.")

    def publish(self, write: Callable[[Path], object]) -> None:
        """Make a new generation the current one; call it only within `writing`.

        Args:
            write: called with an empty folder, which it fills. If it fails, the old generation stays.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        old = self.current()
        self._sweep(old)
        number = 0 if old is None else int(old) + 1
        while (self.folder / f"{number:08d}").exists():  # somebody else's
            number += 1
        new = f"{number:08d}"
        target, part = self.folder / new, self.folder / (CURRENT + ".part")
        try:
            target.mkdir()
            write(target)
            for path in (*target.iterdir(), target):
                _to_disk(path)
            part.write_text(new + "\n")
            _to_disk(part)
            os.replace(part, self.folder / CURRENT)
        except BaseException as err:
            if self.current() != new:  # an interrupt may come when it counts already
                shutil.rmtree(target, ignore_errors=True)
            if isinstance(err, OSError):
                raise InputError(
                    f"index {quoted(self.folder)} cannot be written ({reason_of(err)}): it is as it was."
                ) from None
            raise
        _to_disk(self.folder)
        self._sweep(new)

    def _sweep(self, keep: str | None) -> None:
        """Remove all generations but one, including those of writers that were killed."""
        for entry in list(os.scandir(self.folder)):
            if entry.name != keep and self._is_generation(entry):
                shutil.rmtree(entry.path, ignore_errors=True)  # a reader may still have it open, on some systems

    def _ours(self, entry: os.DirEntry[str]) -> bool:
        return entry.name in (CURRENT, CURRENT + ".part", LOCK, PARTS, PARTS_LOCK) or self._is_generation(entry)

    def _is_generation(self, entry: os.DirEntry[str]) -> bool:
        """Whether a folder was made by `publish`: by its name, and as nothing else is in it."""
        if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            return False
        return all(inner.name in self.files and inner.is_file() for inner in os.scandir(entry.path))


def _to_disk(path: Path) -> None:
    """Have a file or folder survive a power cut too."""
    if path.is_dir():
        with suppress(OSError):  # some systems cannot do it for folders
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    else:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
