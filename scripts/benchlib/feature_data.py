"""Labelled sets of pictures to measure features on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.items import Item, find_items, read_bytes
from maerestore.features.preprocess import as_tensor

from .photos import BenchError


@dataclass(frozen=True, eq=False)
class Part:
    """Pictures (3, H, W) uint8 of any size, and their classes (N,) int64."""

    images: list[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A set with a part to learn from and a part to test on."""

    name: str
    classes: list[str]
    train: Part
    test: Part


def load_set(folder: Path) -> LabelledSet:
    """Read a folder of tars of pictures, each beside a NAME.cls; tars with val or test in their name are for testing.

    Raises:
        BenchError: no such tars, or pictures without a class.
    """
    tars = sorted(folder.glob("*.tar"))
    held = [path for path in tars if "val" in path.name or "test" in path.name]
    if not held or len(held) == len(tars):
        raise BenchError(f"{folder}: needs tars to train on and tars with val or test in their name")
    try:
        parts = [find_items([path for path in tars if (path in held) == testing]) for testing in (False, True)]
        classes = sorted({item.label for part in parts for item in part if item.label is not None})
        return LabelledSet(folder.name, classes, _read(parts[0], classes), _read(parts[1], classes))
    except MaerestoreError as err:
        raise BenchError(f"{folder}: {err}") from err


def _read(items: list[Item], classes: list[str]) -> Part:
    if unlabelled := [item.name for item in items if item.label is None]:
        raise BenchError(f"{unlabelled[0]}: no class beside it")
    labels = torch.tensor([classes.index(str(item.label)) for item in items])
    return Part([as_tensor(read_bytes(item)) for item in items], labels)
