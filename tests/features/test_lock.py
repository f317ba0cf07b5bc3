"""A lock that one process holds; that others are kept out is in test_store."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maerestore.features import lock
from maerestore.features.lock import FolderLock
from maerestore.image import InputError


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EAGAIN, "^another process works in "),
        (errno.ENOLCK, r"cannot be locked \(.+\): choose an output on another disk\.$"),
        (errno.ENOSYS, "cannot be locked"),
    ],
)
def test_a_disk_without_locks_is_not_another_process(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_take", fail)
    with pytest.raises(InputError, match=message):
        FolderLock(tmp_path / "work")
