"""Types of arguments that several verbs take."""

from __future__ import annotations

import argparse
from pathlib import Path


def folder_name(text: str) -> Path:
    """A folder by its name, which an unset variable of a script would leave empty: the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    return Path(text)


def ratio(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def seed(text: str) -> int:
    """A whole number from 0 that fits 63 bits."""
    return _at_most(text, 2**63 - 1)


def whole(text: str) -> int:
    """A whole number from 0, of which no more is counted than 31 bits hold."""
    return _at_most(text, 2**31 - 1)


def _at_most(text: str, largest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    if value > largest:
        raise argparse.ArgumentTypeError(f"{text!r} is too large: at most {largest}")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return value
