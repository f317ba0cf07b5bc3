"""Images that cannot be read: reported as they are found, and an error if there are no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from maerestore.image.errors import InputError, quoted

__all__ = ["Failures", "none_read"]

Failure = tuple[str, str]
"""Name and reason."""


class Failures:
    """Reports failures, but not before an image could be read: if all images fail, that is a single error.

    Args:
        failed: called with name and reason of each failure; None to report nothing.
        read: whether an image was read already, or none needs to be.

    Example:
        >>> told = Failures(lambda name, reason: print(name, reason))
        >>> told.note([("a.jpg", "is damaged")], read=False)
        >>> told.note([("b.jpg", "is damaged")], read=True)
        a.jpg is damaged
        b.jpg is damaged
    """

    def __init__(self, failed: Callable[[str, str], None] | None, read: bool = False) -> None:
        self.failed, self.read = failed, read
        self.waiting: list[Failure] = []

    def note(self, failures: Iterable[Failure], read: bool) -> None:
        """Add the failures of a batch; `read` is whether any image of the batch could be read."""
        self.read = self.read or read
        self.waiting += failures
        if self.read:
            if self.failed is not None:
                for name, reason in self.waiting:
                    self.failed(name, reason)
            self.waiting = []


def none_read(failures: Sequence[Failure], out: str) -> InputError:
    """The error of a run in which all images (at least one) failed, and whose output was not written."""
    name, reason = failures[0]
    what = "no feature for" if len(failures) == 1 else f"none of {len(failures)} images could be read, the first is"
    return InputError(f"{what} {name}: {reason}; {quoted(out)} is not written.")
