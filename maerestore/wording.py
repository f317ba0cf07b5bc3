"""Words for numbers in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with what it counts.

    Args:
        number: how many.
        noun: what one is called.
        plural: what several are called; by default the noun with an s.

    Example:
        >>> counted(1, "image"), counted(0, "image"), counted(2, "class", "classes")
        ('1 image', '0 images', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
