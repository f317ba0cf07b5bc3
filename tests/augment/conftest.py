"""A model of the bundled one's sizes with random weights, in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask PyPI for its latest version when imported

SIZES = {
    "image_size": 128, "patch_size": 16, "embed_dim": 192, "depth": 8, "num_heads": 3,
    "decoder_embed_dim": 128, "decoder_depth": 2, "decoder_num_heads": 4,
}  # fmt: skip


def save_random(folder: Path, seed: int = 0, **sizes) -> str:
    import torch

    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedAutoencoder(MAEConfig(**{**SIZES, **sizes}))
    save_autoencoder(model, folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return save_random(tmp_path_factory.mktemp("augment") / "model")


@pytest.fixture
def no_model(monkeypatch) -> None:
    """Whoever asks for a model, or its config, fails the test."""

    def fail(name):
        raise AssertionError(f"the model {name} was asked for")

    monkeypatch.setattr("maerestore.augment.models.resolve_model", fail)
    monkeypatch.setattr("maerestore.augment.models._models", {})
    monkeypatch.setattr("maerestore.augment.models._configs", {})
