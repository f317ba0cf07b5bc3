"""Find a model by name and read it: bundled, a folder, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from maerestore.hub.errors import ModelError
from maerestore.hub.save import AUTOENCODER_PREFIX, CONFIG_NAME, MODEL_TYPE, WEIGHTS_NAME
from maerestore.model import MAEConfig, MaskedAutoencoder

DEFAULT_NAME = "default"
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


def bundled_folder() -> Path:
    """Where the default model lies: inside an installed wheel, or `weights/` of a checkout."""
    packaged = Path(str(resources.files("maerestore"))) / "weights"
    return packaged if (packaged / CONFIG_NAME).is_file() else Path(__file__).resolve().parents[2] / "weights"


def resolve_model(name: str | None = None, *, revision: str | None = None, **hub: Any) -> Path:
    """The folder that holds a model's files, downloaded first where need be.

    Args:
        name: None or "default" for the bundled model; an existing folder; or "org/name[@revision]" on the Hub.
        revision: branch, tag or commit of the Hub repository.
        **hub: passed to `huggingface_hub.snapshot_download` (token, cache_dir, local_files_only, ...).

    Raises:
        ModelError: nothing of that name.
    """
    if name is None or name == DEFAULT_NAME:
        folder = bundled_folder()
        if not (folder / CONFIG_NAME).is_file():
            raise ModelError(
                f"the bundled model is missing from {folder}: reinstall maerestore, or name one with --model"
            )
        return folder
    if name and Path(name).is_dir():
        return Path(name)
    repository, _, pinned = name.partition("@")
    if not _REPOSITORY.match(repository) or Path(name).is_file():
        raise ModelError(f"no model {name!r}: give '{DEFAULT_NAME}', a folder, or org/name[@revision] of the Hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository, revision=pinned or revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, "README.md"], **hub
            )
        )
    except Exception as err:  # refusals, bad names, time-outs: each client release raises its own classes
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise ModelError(f"{name}: cannot be fetched from the Hub ({reason})") from err


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
