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
    """Write the model's weights and configuration: both, or neither.

    Args:
        model: what to save.
        folder: made if it is not there.
        training: facts about the training, kept in the config.
        fill: settings of the inpainting pipeline that were fitted for this model, kept in the config.
        dtype: of the weights in the file.

    Raises:
        ModelError: weights that are not finite in `dtype`, facts that are no mapping or that JSON cannot hold, or a
            folder that cannot be written. A model that was there is then still whole.

    Example:
        >>> save_autoencoder(mae, Path("models/name"), training={"photographs": 120_000})   # doctest: +SKIP
    """
    weights, config = autoencoder_files(model, training, fill, dtype)
    write_files(folder, {WEIGHTS_NAME: weights}, {CONFIG_NAME: config})


def autoencoder_files(
    model: MaskedAutoencoder, training: dict[str, Any] | None, fill: dict[str, Any] | None, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the config as `save_autoencoder` writes them.

    Raises:
        ModelError: weights that are not finite in `dtype`, or facts that are no mapping.
    """
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "autoencoder": model.config.to_dict(),
        "preprocessing": preprocessing(model.config),
    }
    for name, notes in (("fill", fill), ("training", training)):
        if notes:
            config[name] = checked_notes(name, notes)
    state = model.state_dict()
    weights = in_dtype({name: value for name, value in state.items() if not name.endswith("pos_embed")}, dtype)
    # Sin-cos tables follow from the config. Trained ones are kept, and not rounded to half precision.
    weights |= in_dtype(_trained_tables(model.config, state), torch.float32)
    return {AUTOENCODER_PREFIX + name: value for name, value in weights.items()}, config


def checked_notes(name: str, notes: Any) -> dict[str, Any]:
    """Facts for a config, which could not be read again if they were no mapping.

    Raises:
        ModelError: they are none.
    """
    if not isinstance(notes, dict):
        raise ModelError(f"{name} must be a mapping such as {{'photographs': 20000}}, got {type(notes).__name__}")
    return notes


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


def write_files(folder: Path, weights: dict[str, dict[str, Tensor]], texts: dict[str, dict[str, Any]]) -> None:
    """Write .safetensors files, then JSON files, in their order: all of them, or none.

    Args:
        folder: made if it is not there.
        weights: for each file its tensors by name.
        texts: for each file its content.

    Raises:
        ModelError: content that JSON cannot hold, or a folder that cannot be written. What was there stays.
    """
    encoded = {name: json_text(content) for name, content in texts.items()}
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder}: is a file; a model is written to a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    _replace(
        {folder / name: _tensor_writer(tensors) for name, tensors in weights.items()}
        | {folder / name: _text_writer(text) for name, text in encoded.items()}
    )


def save_tensors(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a .safetensors file, whole or not at all.

    Raises:
        ModelError: it cannot be written.
    """
    _replace({path: _tensor_writer(weights)})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        ModelError: content that JSON cannot hold, or a file that cannot be written.
    """
    _replace({path: _text_writer(json_text(content))})


def json_text(content: dict[str, Any]) -> str:
    """The content of a JSON file as this package writes it.

    Raises:
        ModelError: content that JSON cannot hold.
    """
    try:
        return json.dumps(content, indent=2) + "\n"
    except (TypeError, ValueError, RecursionError) as err:
        raise ModelError(f"a config holds numbers, texts, lists and mappings only ({err})") from err


def _tensor_writer(weights: dict[str, Tensor]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.touch()
        mode = path.stat().st_mode  # what the umask leaves; safetensors makes files that only their owner can read
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod(mode)

    return write


def _text_writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _replace(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Write files under other names; only when all are written they take their places, one after the other."""
    for path in writers:
        if path.is_dir():
            raise ModelError(f"{path}: is a folder; a file of the model goes there")
    # Names of this call: threads may write one file.
    partials = {path: path.with_name(f".{path.name}.{secrets.token_hex(6)}") for path in writers}
    try:
        for path, write in writers.items():
            write(partials[path])
        for path, partial in partials.items():
            partial.replace(path)
    except (OSError, SafetensorError) as err:
        reason = (err.strerror if isinstance(err, OSError) else None) or str(err).split("\n")[0]
        raise ModelError(f"{path.parent}: cannot be written ({reason})") from err
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _trained_tables(config: MAEConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The position tables that are not the sin-cos ones, nor these as the model's data type rounds them."""
    widths = {"pos_embed": config.embed_dim, "decoder_pos_embed": config.decoder_embed_dim}
    grid = (config.grid_size, config.grid_size)
    tables = {name: state[name] for name in widths if name in state}
    return {
        name: table
        for name, table in tables.items()
        if not torch.equal(table.cpu(), sincos_positions(widths[name], grid, "cpu").to(table.dtype))
    }
