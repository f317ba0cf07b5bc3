"""The file of a benchmark of augmentations: finished cells are kept, so that a run that was cut off goes on."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .photos import BenchError
from .results import versions, write_json

FORMAT = 1
PACKAGES = ("maerestore", "numpy", "torch", "torchvision", "albumentations", "kornia", "opencv-python-headless")

Key = tuple[str, float, int, str]
"""Data set, fraction, seed and method of a cell."""


def key_of(cell: dict[str, Any]) -> Key:
    """What a cell is known by."""
    return cell["data"], cell["fraction"], cell["seed"], cell["method"]


class Results:
    """Cells, and the file that they live in.

    Args:
        path: of the file, or None to keep nothing.
        settings: what all cells must share; a file with others is refused.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.cells: dict[Key, dict[str, Any]] = {}
        self.speed: dict[str, Any] | None = None
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            earlier = json.loads(path.read_text())
            if earlier["format"] != FORMAT:
                raise KeyError("format")
            settings = earlier["settings"]
            self.cells = {key_of(cell): cell for cell in earlier["cells"]}
            self.speed = earlier["speed"]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise BenchError(f"{path}: not a result of this script ({type(err).__name__}: {err})") from err
        for name in dict.fromkeys([*settings, *self.settings]):
            if settings.get(name) != self.settings.get(name):
                raise BenchError(f"{path} was made with {name} {settings.get(name)!r}, not "
                                 f"{self.settings.get(name)!r}: give the same settings, or another --json")  # fmt: skip

    def keep_valid(self, digests: dict[str, str], model: str | None) -> dict[Key, str]:
        """Drop cells that were trained on other pictures, or with another model; says which, and why.

        Args:
            digests: of the data sets of this run.
            model: digest of MAEAugment's model, or None where no method of this run uses it.
        """
        dropped = {}
        for key, cell in self.cells.items():
            if cell["data"] in digests and cell["data_sha256"] != digests[cell["data"]]:
                dropped[key] = "other pictures"
            elif model is not None and cell["model_sha256"] not in (None, model):
                dropped[key] = "another model"
        for key in dropped:
            del self.cells[key]
        return dropped

    def add(self, cell: dict[str, Any]) -> None:
        """Keep a finished cell, and write the file."""
        self.cells[key_of(cell)] = cell
        self.save()

    def save(self, rows: Sequence[dict[str, Any]] = (), pooled: Sequence[dict[str, Any]] = ()) -> None:
        """Write the whole file or nothing of it."""
        if self.path is None:
            return
        result = {
            "format": FORMAT, "settings": self.settings, "versions": versions(PACKAGES), "machine": platform.platform(),
            "rows": list(rows), "pooled": list(pooled), "speed": self.speed, "cells": list(self.cells.values()),
        }  # fmt: skip
        write_json(self.path, result)
