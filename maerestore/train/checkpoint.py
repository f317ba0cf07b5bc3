"""What a run resumes from, and what it may start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.hub.fetch import resolve_model
from maerestore.hub.load import load_autoencoder
from maerestore.image.errors import reason_of
from maerestore.model import MAEConfig
from maerestore.model.blocks import MASK_WEIGHT
from maerestore.model.positions import resample_positions
from maerestore.train.values import RecipeError

CHECKPOINT = "checkpoint.pt"
_WRITING = ("inline_container", "PytorchStreamWriter", "Parent directory")  # in what torch says of a file


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint by another one, whole or not at all.

    Raises:
        RecipeError: it cannot be written: a full disk, most likely. The one that was there stays.
    """
    partial = path.with_name(f".{path.name}.part")  # one name: what a killed process leaves, the next one replaces
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as err:
        if isinstance(err, RuntimeError) and not any(word in str(err) for word in _WRITING):
            raise
        reason = getattr(err, "strerror", None) or "is the disk full?"  # torch tells of neither disk nor file
        kept = f"; the {path.name} of before is kept" if path.is_file() else ""
        raise RecipeError(f"{path.parent}: the checkpoint cannot be written ({reason}){kept}") from err
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
        # What torch says of a file that it refuses suggests to trust it.
        reason = "" if "weights_only" in str(err) else f" ({reason_of(err)})"
        raise RecipeError(f"{path}: damaged, or not a checkpoint of this package{reason}") from err
    if missing:
        raise RecipeError(f"{path}: not a checkpoint of this package (no {sorted(missing)[0]} in it)")
    return state


def read_checkpoint(path: Path, config: MAEConfig) -> dict[str, Any]:
    """Read the checkpoint of an autoencoder with this configuration.

    Raises:
        RecipeError: not a checkpoint of this package, or of another model.
    """
    state, theirs = _read_autoencoder(path)
    _check_config(path, config, theirs)
    return state


def initial_weights(init: str | Path, config: MAEConfig) -> dict[str, Tensor]:
    """Weights to start from: those of a model, or the averaged ones of another run's checkpoint.

    Where the recipe's `image_size` is another than theirs, the tables of positions are stretched to it. Where it has
    `mask_embed` and they do not, that begins at zero.

    Raises:
        RecipeError: a model that differs in more than these.
        ModelError: files that hold no model.
    """
    path = Path(init)
    if path.name == CHECKPOINT and path.is_file():
        state, theirs = _read_autoencoder(path)
        weights: dict[str, Tensor] = state["average"]
    else:
        source = load_autoencoder(resolve_model(init))
        weights, theirs = source.state_dict(), source.config
    added = config.mask_embed and not theirs.mask_embed
    _check_config(init, config, theirs, but=("image_size", "mask_embed") if added else ("image_size",))
    if added:
        weights = {**weights, MASK_WEIGHT: torch.zeros(config.embed_dim, 1, config.patch_size, config.patch_size)}
    grids = (theirs.grid_size,) * 2, (config.grid_size,) * 2
    return {
        name: resample_positions(value, *grids) if name.endswith("pos_embed") else value
        for name, value in weights.items()
    }


def _read_autoencoder(path: Path) -> tuple[dict[str, Any], MAEConfig]:
    """The checkpoint of a pretraining run and its configuration."""
    state = read_state(path)
    if "refiner" in state:
        raise RecipeError(f"{path}: is a restorer's; its autoencoder is in the folder model/ beside it")
    try:
        return state, MAEConfig.from_dict(state["config"])
    except (ValueError, TypeError, AttributeError) as err:
        raise RecipeError(f"{path}: not a checkpoint of this package ({' '.join(str(err).split())})") from err


def _check_config(source: str | Path, config: MAEConfig, theirs: MAEConfig, but: tuple[str, ...] = ()) -> None:
    mine, other = config.to_dict(), theirs.to_dict()
    differ = [name for name in mine if mine[name] != other[name] and name not in but]
    if differ:
        raise RecipeError(f"{source}: was trained with another {', '.join(differ)} than the recipe's")
