"""A rectangle of a picture."""

from __future__ import annotations

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, the last two exclusive."""
