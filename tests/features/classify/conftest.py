"""Clouds of points in classes, and small pictures in classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear probe of a few hundred steps at most."""
    monkeypatch.setattr("maerestore.features.classify.linear.FEWEST_STEPS", 50)


@pytest.fixture
def clouds() -> Callable[..., Any]:
    """make(each, classes=3, dim=8, spread=1.0, seed=0): (N, D) float32 and (N,) int64, the same centres every time."""

    def make(each: int, classes: int = 3, dim: int = 8, spread: float = 1.0, seed: int = 0) -> Any:
        import torch

        centres = np.random.default_rng(99).normal(size=(classes, dim)) * 2
        labels = np.repeat(np.arange(classes), each)
        points = centres[labels] + spread * np.random.default_rng(seed).normal(size=(len(labels), dim))
        return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels)

    return make


@pytest.fixture
def table() -> Callable[..., Any]:
    """make(features, labels, prefix="train", fingerprint=...): a FeatureTable."""

    def make(features: Any, labels: Any, prefix: str = "train", fingerprint: str = "f" * 64) -> Any:
        from maerestore.features.options import FeatureOptions
        from maerestore.features.table import FeatureTable

        count = len(labels)
        facts = {"model": "default", "fingerprint": fingerprint, "options": FeatureOptions().to_dict(),
                 "dim": features.shape[1]}  # fmt: skip
        names = [f"{prefix}/{i}.png" for i in range(count)]
        stamp = np.ones(count, np.int64)
        return FeatureTable(names, np.asarray(features), [None] * count, list(labels), facts, stamp, stamp)

    return make


@pytest.fixture
def tiny_folder(tiny_model: Callable[..., Any], tmp_path: Path) -> str:
    """A folder with a tiny model of random weights."""
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(), tmp_path / "model")
    return str(tmp_path / "model")


def paint(folder: Path, each: int, seed: int = 0) -> Path:
    """Pictures of three classes that differ in colour: folder/CLASS/N.png."""
    rng = np.random.default_rng(seed)
    for name, colour in (("blue", (30, 40, 200)), ("green", (30, 200, 40)), ("red", (200, 40, 30))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            noise = rng.normal(0, 25, (40, 32 + 8 * (number % 3), 3))
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}_{number}.png")
    return folder
