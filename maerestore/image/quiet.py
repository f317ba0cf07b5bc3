"""Silence for decoders, which tell on stderr what they stumble over: only what we say is to stand there."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["quiet_opencv", "quiet_pillow"]

# What these log is for those who handle logs; what nobody handles, Python writes to stderr.
for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _Shared:
    """A context of the whole process, in which several threads may be: the first enters it, and the last leaves it."""

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered = self._context()
                self._entered.__enter__()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._entered.__exit__(None, None, None)


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


@contextmanager
def _without_log() -> Iterator[None]:
    from cv2.utils import logging as log  # costs a fifth of a second

    level = log.setLogLevel(log.LOG_LEVEL_SILENT)
    yield
    log.setLogLevel(level)


quiet_pillow = _Shared(_without_warnings)
"""While a file is read or written: no warnings of Pillow, such as those about damaged EXIF."""

quiet_opencv = _Shared(_without_log)
"""While a file is decoded: no log of OpenCV, such as of unknown tags."""
