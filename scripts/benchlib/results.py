"""The JSON files of benchmarks: written whole or not at all, with the versions that figures depend on."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchlib.photos import BenchError


def versions(packages: Sequence[str], **others: str) -> dict[str, str | None]:
    """Those of Python, of `others` and of packages, by name; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), **others}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")  # what matplotlib writes everywhere


def check_targets(*paths: Path | None, picture: Path | None = None) -> None:
    """Check before hours of work that its results can be written.

    Args:
        paths: files.
        picture: a file for a plot.

    Raises:
        BenchError: a path is a folder, or in none, or no picture's name.
    """
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise BenchError(f"{picture}: a plot is written as {', '.join(PICTURES)}")
    for path in (*paths, picture):
        if path is not None and path.is_dir():
            raise BenchError(f"{path} is a folder: give a file in it")
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchError(f"no folder {path.absolute().parent} to write {path.name} in")


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Replace a file by a result; what JSON has no form for is told by its attributes."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=1, default=vars) + "\n")
    part.replace(path)
