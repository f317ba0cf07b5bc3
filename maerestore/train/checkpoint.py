"""What a run resumes from, and what it may start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.hub.load import load_autoencoder
from maerestore.model import MAEConfig
from maerestore.train.values import RecipeError

CHECKPOINT = "checkpoint.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint by another one, whole or not at all."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        torch.save(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is run.

    Raises:
        RecipeError: not a checkpoint of this package.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"step", "samples", "config", "model", "average", "optimizers"} - set(state)
    except Exception as err:  # a damaged file can make the reader raise anything
        reason = str(err).strip().splitlines()
        raise RecipeError(f"{path}: not a checkpoint of this package ({(reason or [type(err).__name__])[0]})") from err
    if missing:
        raise RecipeError(f"{path}: not a checkpoint of this package (no {sorted(missing)[0]} in it)")
    return state


def read_checkpoint(path: Path, config: MAEConfig) -> dict[str, Any]:
    """Read the checkpoint of an autoencoder with this configuration.

    Raises:
        RecipeError: not a checkpoint of this package, or of another model.
    """
    state = read_state(path)
    if "refiner" in state:
        raise RecipeError(f"{path}: is a restorer's; its autoencoder is in the folder model/ beside it")
    try:
        theirs = MAEConfig.from_dict(state["config"])
    except (ValueError, TypeError, AttributeError) as err:
        raise RecipeError(f"{path}: not a checkpoint of this package ({' '.join(str(err).split())})") from err
    _check_config(path, config, theirs)
    return state


def initial_weights(init: Path, config: MAEConfig) -> dict[str, Tensor]:
    """Weights to start from: those of a model, or the averaged ones of another run's checkpoint.

    Raises:
        RecipeError: a model of another configuration.
        ModelError: files that hold no model.
    """
    if init.name == CHECKPOINT and init.is_file():
        weights: dict[str, Tensor] = read_checkpoint(init, config)["average"]
        return weights
    source = load_autoencoder(init)
    _check_config(init, config, source.config)
    return source.state_dict()


def _check_config(source: Path, config: MAEConfig, theirs: MAEConfig) -> None:
    mine, other = config.to_dict(), theirs.to_dict()
    differ = [name for name in mine if mine[name] != other[name]]
    if differ:
        raise RecipeError(f"{source}: was trained with another {', '.join(differ)} than the recipe's")
