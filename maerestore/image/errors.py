"""The one exception that bad input raises."""

from __future__ import annotations

from pathlib import Path

from maerestore.errors import MaerestoreError

__all__ = ["InputError", "quoted", "reason_of"]


class InputError(MaerestoreError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong with which file, and what to do about it. A command line
    prints it as it is, without a traceback.
    """


def quoted(path: str | Path) -> str:
    """Return `path` as it appears in messages: in single quotes, and always on one line."""
    return "'" + str(path).replace("\n", "\\n").replace("\r", "\\r") + "'"


def reason_of(error: BaseException) -> str:
    """What an error says, as one line without a full stop; the system's own words where it is the system's error."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip() or type(error).__name__).splitlines()[0].rstrip(".")
