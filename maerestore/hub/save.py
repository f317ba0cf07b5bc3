"""Write a model in the layout of a Hub repository: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from maerestore.hub.config import MODEL_TYPE, preprocessing
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, WEIGHTS_NAME
from maerestore.hub.layouts import AUTOENCODER_PREFIX
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.positions import sincos_positions


def save_autoencoder(
    model: MaskedAutoencoder,
    folder: Path,
    training: dict[str, Any] | None = None,
    fill: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the model's configuration and weights; each file appears whole or not at all.

    Args:
        model: what to save.
        folder: made if it is not there.
        training: facts about the training, kept in the config.
        fill: settings of the inpainting pipeline that were fitted for this model, kept in the config.
        dtype: of the weights in the file.

    Raises:
        ModelError: weights that are not finite in `dtype`, or a folder that cannot be written.

    Example:
        >>> save_autoencoder(mae, Path("models/name"), training={"photographs": 120_000})   # doctest: +SKIP
    """
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "autoencoder": model.config.to_dict(),
        "preprocessing": preprocessing(model.config),
    }
    if fill:
        config["fill"] = fill
    if training:
        config["training"] = training
    state = model.state_dict()
    weights = in_dtype({name: value for name, value in state.items() if not name.endswith("pos_embed")}, dtype)
    # Sin-cos tables follow from the config. Trained ones are kept, and not rounded to half precision.
    weights |= in_dtype(_trained_tables(model.config, state), torch.float32)
    write_files(folder, {AUTOENCODER_PREFIX + name: value for name, value in weights.items()}, {CONFIG_NAME: config})


def in_dtype(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Contiguous copies in a data type.

    Raises:
        ModelError: one that holds values that are not finite in it.
    """
    converted = {name: value.detach().cpu().to(dtype, copy=True).contiguous() for name, value in weights.items()}
    for name, value in converted.items():
        if not value.isfinite().all():
            raise ModelError(f"{name} does not fit {str(dtype).removeprefix('torch.')}: save in float32")
    return converted


def write_files(folder: Path, weights: dict[str, Tensor], texts: dict[str, dict[str, Any]]) -> None:
    """Write `model.safetensors`, then JSON files in their order; each appears whole or not at all.

    Raises:
        ModelError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder}: is a file; a model is written to a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    save_tensors(folder / WEIGHTS_NAME, weights)
    for name, content in texts.items():
        write_json(folder / name, content)


def save_tensors(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a .safetensors file, whole or not at all.

    Raises:
        ModelError: it cannot be written.
    """

    def save(partial: Path) -> None:
        save_file(weights, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors makes files that only their owner can read

    _replace(path, save)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        ModelError: it cannot be written.
    """
    _replace(path, lambda partial: partial.write_text(json_text(content), encoding="utf-8"))


def json_text(content: dict[str, Any]) -> str:
    """The content of a JSON file as this package writes it."""
    return json.dumps(content, indent=2) + "\n"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")  # of this call: threads may write one file
    try:
        write(partial)
        partial.replace(path)
    except (OSError, SafetensorError) as err:
        reason = (err.strerror if isinstance(err, OSError) else None) or str(err).split("\n")[0]
        raise ModelError(f"{path.parent}: cannot be written ({reason})") from err
    finally:
        partial.unlink(missing_ok=True)


def _trained_tables(config: MAEConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The position tables that are not the sin-cos ones."""
    widths = {"pos_embed": config.embed_dim, "decoder_pos_embed": config.decoder_embed_dim}
    grid = (config.grid_size, config.grid_size)
    return {
        name: state[name]
        for name, width in widths.items()
        if name in state and not torch.equal(state[name].cpu().float(), sincos_positions(width, grid, "cpu"))
    }
