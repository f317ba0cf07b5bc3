"""The roots of every error that a user can mend, and of every warning."""

from __future__ import annotations


class MaerestoreError(ValueError):
    """Bad input: the message is one line that says what is wrong and what to do. The command line exits with 2.

    Attributes:
        message: what is said on the command line, where options have their names there.
        in_python: what to write in Python for the option that the message names, or None; `str` has it at the end.

    Example:
        >>> str(MaerestoreError("'a.png' exists: add --overwrite", in_python="overwrite=True"))
        "'a.png' exists: add --overwrite (in Python: overwrite=True)"
    """

    def __init__(self, message: object = "", in_python: str | None = None) -> None:
        super().__init__(message)
        self.in_python = in_python

    @property
    def message(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return self.message if self.in_python is None else f"{self.message} (in Python: {self.in_python})"


class MaerestoreWarning(UserWarning):
    """Something is done otherwise than was asked for. The command line says it in one line, and not with --quiet."""


_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "status_alloc_failed", "memoryallocation")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's does, and torch says so in several ways.

    Example:
        >>> lacks_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        True
        >>> lacks_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
        False
    """
    if isinstance(error, RuntimeError):
        return any(words in str(error).lower() for words in _OF_MEMORY)
    return isinstance(error, MemoryError)
