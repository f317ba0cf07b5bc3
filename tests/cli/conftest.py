"""The command in process, with a tiny random model in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SETTINGS: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mask_embed": True,
}  # fmt: skip
HEIGHT, WIDTH = 48, 60


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights, none of them zero."""
    import torch

    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedAutoencoder(MAEConfig(**SETTINGS))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("model")
    save_autoencoder(model, folder)
    return folder


@pytest.fixture
def fill(model_folder: Path) -> Callable[..., int]:
    """fill(photo, mask, *options): the exit code of `maerestore inpaint` with the tiny model, on the CPU."""
    from maerestore.cli.main import main

    def run(photo: Any, mask: Any, *options: Any) -> int:
        arguments = ["inpaint", str(photo), str(mask), *map(str, options)]
        for option, value in (("--model", str(model_folder)), ("--device", "cpu")):
            arguments += [] if option in arguments else [option, value]
        return main(arguments)

    return run


@pytest.fixture
def command(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """command(verb, photo, *options): exit code, stdout and stderr, with the tiny model on the CPU."""

    def run(verb: str, photo: Any, *options: Any) -> tuple[int, str, str]:
        arguments = [verb, str(photo), *map(str, options)]
        for option, value in (("--model", str(model_folder)), ("--device", "cpu")):
            arguments += [] if option in arguments else [option, value]
        return captured(arguments, capsys)

    return run


def captured(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process: exit code, stdout and stderr."""
    from maerestore.cli.main import main

    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int | None = 3, seed: int = 0, top: int = 256) -> Any:
    """(H, W, C) uint8 of random values."""
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)


def hole(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W) bool: a box inside and one at the border."""
    mask = np.zeros((height, width), bool)
    mask[14:30, 20:41] = mask[40:, 2:9] = True
    return mask


def save_mask(path: Path, mask: np.ndarray) -> Path:
    """Write a mask as black and white PNG."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with photo.png (RGB) and mask.png."""
    Image.fromarray(noise()).save(tmp_path / "photo.png")
    save_mask(tmp_path / "mask.png", hole())
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too: relative path -> bytes, None for a folder."""
    found: dict[str, bytes | None] = {}
    for root, folders, files in os.walk(folder):
        for name in folders:
            found[str((Path(root) / name).relative_to(folder))] = None
        for name in files:
            path = Path(root) / name
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found
