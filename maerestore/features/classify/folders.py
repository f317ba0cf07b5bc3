"""Replace a folder by another one, whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
from pathlib import Path

from maerestore.hub.errors import ModelError


def replace_folder(new: Path, folder: Path) -> None:
    """Put a folder in the place of another one, which is removed.

    On Linux the two are swapped in one step. Elsewhere the old one is moved aside first; where a process is killed
    between the two moves, `recover` puts it back.

    Args:
        new: the folder to put there, on the same file system.
        folder: an absolute path; it may be missing.

    Raises:
        OSError: a folder that cannot be moved; the old one is where it was then.
    """
    if not folder.exists():
        os.replace(new, folder)
    elif exchange(new, folder):  # a folder with files in it cannot be replaced in one step, only swapped
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = aside(folder)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the old folder back if `replace_folder` was killed between its two moves.

    Raises:
        ModelError: it cannot be moved.
    """
    folder = folder.resolve()
    old = aside(folder)
    if old.is_dir() and not folder.exists():
        try:
            os.replace(old, folder)
        except OSError as err:
            raise ModelError(f"{folder}: cannot be restored from {old} ({err.strerror})") from err


def aside(folder: Path) -> Path:
    """The path that a folder is moved to while it is replaced."""
    return folder.with_name(f".{folder.name[:40]}.{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]}.old")


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system has no such step."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
