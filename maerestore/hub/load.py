"""Read a model's configuration and weights, strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from maerestore.hub.errors import ModelError
from maerestore.hub.save import AUTOENCODER_PREFIX, CONFIG_NAME, MODEL_TYPE, WEIGHTS_NAME
from maerestore.model import MAEConfig, MaskedAutoencoder


def read_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a model.

    Raises:
        ModelError: not there, no JSON object, or not a model of this package.
    """
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); a model folder holds {CONFIG_NAME}") from err
    except ValueError as err:
        raise ModelError(f"{path}: not valid JSON ({err})") from err
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE or "autoencoder" not in config:
        raise ModelError(f'{path}: not a maerestore model (model_type should be "{MODEL_TYPE}")')
    return config


def load_autoencoder(folder: Path) -> MaskedAutoencoder:
    """Read a model strictly: every weight there, none too many, each of its shape and finite.

    Returns:
        the model in float32, in eval mode, on the CPU.

    Raises:
        ModelError: files that do not fit, said in one line.
    """
    config = read_folder(folder)
    if not isinstance(config["autoencoder"], dict):
        raise ModelError(f"{folder / CONFIG_NAME}: autoencoder must be a mapping")
    try:
        model = MaskedAutoencoder(MAEConfig.from_dict(config["autoencoder"]))
    except ValueError as err:
        raise ModelError(f"{folder / CONFIG_NAME}: {err}") from err
    path = folder / WEIGHTS_NAME
    try:
        stored = load_file(path)
    except FileNotFoundError as err:
        raise ModelError(f"{path}: no such file; a model folder holds {WEIGHTS_NAME}") from err
    except (SafetensorError, OSError) as err:
        raise ModelError(f"{path}: not a readable safetensors file ({err})") from err
    expected = model.state_dict()
    weights = {k.removeprefix(AUTOENCODER_PREFIX): v for k, v in stored.items() if k.startswith(AUTOENCODER_PREFIX)}
    surplus = sorted(set(stored) - {AUTOENCODER_PREFIX + k for k in expected})
    # Position tables follow from the config, so a file may leave them out.
    missing = sorted(set(expected) - set(weights) - {"pos_embed", "decoder_pos_embed"})
    if surplus or missing:
        kind, names = ("surplus", surplus) if surplus else ("missing", missing)
        raise ModelError(f"{path}: {len(names)} {kind} weight(s), the first is {names[0]}")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ModelError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        if not value.isfinite().all():
            raise ModelError(f"{path}: {name} holds values that are not finite")
    model.load_state_dict(weights, strict=False)
    return model.float().eval()


def pick_device(name: str = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda" or "mps" into a device that is there.

    Raises:
        ModelError: an unknown name, or a device that this machine lacks.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise ModelError(f"unknown device {name!r}: choose auto, cpu, cuda or mps")
    if not there[name]:
        raise ModelError(f"device {name} is not available here: use --device auto or cpu")
    return torch.device(name)
