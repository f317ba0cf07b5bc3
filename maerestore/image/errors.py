"""The one exception that bad input raises."""

from __future__ import annotations

import re
from pathlib import Path

from maerestore.errors import MaerestoreError

__all__ = ["InputError", "quoted", "reason_of", "refuse_url"]


class InputError(MaerestoreError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong with which file, and what to do about it. A command line
    prints it as it is, without a traceback.
    """


def quoted(path: str | Path) -> str:
    """Return `path` as it appears in messages: in single quotes, and always on one line."""
    return "'" + str(path).replace("\n", "\\n").replace("\r", "\\r") + "'"


def refuse_url(path: str | Path) -> None:
    """Raise InputError where a URL stands in place of a file; a `Path` has kept one of its two slashes."""
    url = re.match(r"(https?|ftp|file|s3|gs):/+", str(path), re.IGNORECASE)
    if url:
        whole = f"{url[1]}://{str(path)[url.end() :]}"
        raise InputError(f"{quoted(whole)} is a URL: download the image first, then give the file.")


def reason_of(error: BaseException) -> str:
    """What an error says, as one line without a full stop; the system's own words where it is the system's error."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip() or type(error).__name__).splitlines()[0].rstrip(".")
