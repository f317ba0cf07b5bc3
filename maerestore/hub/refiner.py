"""A refiner beside an autoencoder: `refiner.safetensors` and its settings in the folder's `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, REFINER_NAME
from maerestore.hub.load import read_folder
from maerestore.hub.save import in_dtype, save_tensors, write_json
from maerestore.hub.weights import read_weights
from maerestore.model.refiner import Refiner, RefinerConfig

SETTINGS = "refiner"  # the key in config.json


def save_refiner(
    refiner: Refiner, folder: Path, training: dict[str, Any] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a refiner into the folder of its autoencoder; each file appears whole or not at all.

    Args:
        refiner: what to save.
        folder: holds the autoencoder as `save_autoencoder` wrote it.
        training: facts about the training, kept in the config.
        dtype: of the weights in the file.

    Raises:
        ModelError: no autoencoder there, weights that are not finite in `dtype`, or a folder that cannot be written.
    """
    config = read_folder(folder)
    config[SETTINGS] = refiner.config.to_dict() | ({"training": training} if training else {})
    weights = in_dtype(refiner.state_dict(), dtype)
    save_tensors(folder / REFINER_NAME, weights)
    write_json(folder / CONFIG_NAME, config)


def load_refiner(folder: Path) -> Refiner | None:
    """Read the refiner of a model folder, strictly; None where its config tells of none.

    Args:
        folder: as `maerestore.hub.fetch.resolve_model` gives it; a single file has no refiner.

    Returns:
        the refiner in float32, in eval mode, on the CPU.

    Raises:
        ModelError: settings or weights that do not fit, or weights that are missing.
    """
    if not (folder / CONFIG_NAME).is_file():
        return None
    try:
        stated = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise ModelError(f"{folder / CONFIG_NAME}: cannot be read ({str(err).splitlines()[0]})") from err
    settings = stated.get(SETTINGS) if isinstance(stated, dict) else None
    if settings is None:
        return None
    path = folder / REFINER_NAME
    try:
        if not isinstance(settings, dict):
            raise ValueError(f"{SETTINGS} must be a mapping")
        config = RefinerConfig(**{name: value for name, value in settings.items() if name != "training"})
        too_large = max(config.widths) > 4096 or config.feature_dim > 16384 or len(config.dilations) > 256
        if too_large or max(config.dilations) > 1024:
            raise ValueError("sizes out of proportion")
    except (TypeError, ValueError) as err:
        raise ModelError(f"{folder / CONFIG_NAME}: its refiner does not fit ({str(err).splitlines()[0]})") from err
    if not path.is_file():
        raise ModelError(f"{path}: is missing, though {CONFIG_NAME} tells of a refiner")
    given = read_weights(path).weights
    with torch.device("meta"):
        refiner = Refiner(config)
    expected = refiner.state_dict()
    for kind, names in (("surplus", set(given) - set(expected)), ("missing", set(expected) - set(given))):
        if names:
            raise ModelError(f"{path}: {len(names)} {kind} weight(s), the first is {min(names)}")
    weights = {}
    for name, value in given.items():
        if value.shape != expected[name].shape:
            raise ModelError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        weights[name] = value.to(torch.float32, copy=True).contiguous()
        if not weights[name].isfinite().all():
            raise ModelError(f"{path}: {name} holds values that are not finite")
    refiner.load_state_dict(weights, assign=True)
    return refiner.eval()
