"""A refiner beside an autoencoder: `refiner.safetensors` and its settings in the folder's `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maerestore.hub.config import FillSettings, fill_settings, read_config, read_folder, read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, REFINER_NAME, WEIGHTS_NAME
from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import autoencoder_files, checked_notes, in_dtype, write_files
from maerestore.hub.weights import checked, read_weights
from maerestore.model import MaskedAutoencoder
from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer

SETTINGS = "refiner"  # the key in config.json


class Networks(NamedTuple):
    """A model as it is read.

    Attributes:
        autoencoder: it may be an encoder alone.
        refiner: where there is one.
        fill: settings of the inpainting pipeline.
    """

    autoencoder: MaskedAutoencoder
    refiner: Refiner | None
    fill: FillSettings


def save_networks(
    model: MaskedAutoencoder,
    folder: Path,
    *,
    refiner: Refiner | None = None,
    fill: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    refiner_training: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an autoencoder, and a refiner beside it where one is given.

    Args:
        model, folder, fill, training: as for `save_autoencoder`.
        refiner: made for the autoencoder.
        refiner_training: facts about the refiner's training, kept in the config.
        dtype: of the weights in the files; that of the networks' own where it is not given.

    Raises:
        ModelError: weights that are not finite in `dtype`, facts that are no mapping or that JSON cannot hold, or a
            folder that cannot be written. A model that was there is then still whole.
    """
    autoencoder, config = autoencoder_files(model, training, fill, dtype or model.cls_token.dtype)
    weights = {WEIGHTS_NAME: autoencoder}
    if refiner is not None:
        dtype = dtype or refiner.head.weight.dtype
        weights[REFINER_NAME], config[SETTINGS] = _refiner_files(refiner, refiner_training, dtype)
    write_files(folder, weights, {CONFIG_NAME: config})


def load_networks(source: str | Path, need_decoder: bool = False) -> Networks:
    """Read all of a model that a fill needs, and see that its notes can be read.

    Args:
        source: a folder or a file, as for `maerestore.hub.load.load_autoencoder`.
        need_decoder: refuse an encoder alone.

    Raises:
        ModelError: files that do not fit, networks that do not fit each other, or notes or settings of fills that
            cannot be read.
    """
    fill = read_notes(source).get("fill", {})
    read_refiner_notes(source)
    model, refiner = load_autoencoder(source, need_decoder=need_decoder), load_refiner(source)
    settings = fill_settings(fill, model.config.patch_size, f"{source}: the fill settings in its config")
    if refiner is not None:
        try:
            Restorer(model, refiner)
        except ValueError as err:
            raise ModelError(f"{source}: {err}") from err
    return Networks(model, refiner, settings)


def save_refiner(
    refiner: Refiner, folder: Path, training: dict[str, Any] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a refiner into the folder of its autoencoder: weights and config, or neither.

    Args:
        refiner: what to save.
        folder: holds the autoencoder as `save_autoencoder` wrote it.
        training: facts about the training, kept in the config.
        dtype: of the weights in the file.

    Raises:
        ModelError: no autoencoder there, weights that are not finite in `dtype`, facts that are no mapping or that
            JSON cannot hold, or a folder that cannot be written.
    """
    config = read_folder(folder)
    weights, config[SETTINGS] = _refiner_files(refiner, training, dtype)
    write_files(folder, {REFINER_NAME: weights}, {CONFIG_NAME: config})


def _refiner_files(
    refiner: Refiner, training: dict[str, Any] | None, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights, and what the config says of them."""
    settings = refiner.config.to_dict()
    if training:
        settings["training"] = checked_notes("refiner_training", training)
    return in_dtype(refiner.state_dict(), dtype), settings


def load_refiner(source: str | Path) -> Refiner | None:
    """Read the refiner of a model, strictly; None where its config tells of none, whatever files lie there.

    Args:
        source: a folder or a file, as for `maerestore.hub.load.load_autoencoder`; the config that goes with the
            autoencoder's weights says whether there is a refiner beside them.

    Returns:
        the refiner in float32, in eval mode, on the CPU.

    Raises:
        ModelError: settings or weights that do not fit, or weights that are missing.
    """
    config_path, stated = read_config(source)
    if config_path is None or stated.get(SETTINGS) is None:
        return None
    config, path = _config(config_path, stated[SETTINGS]), config_path.with_name(REFINER_NAME)
    if not path.is_file():
        raise ModelError(f"{path}: is missing, though {CONFIG_NAME} tells of a refiner")
    given = read_weights(path, pickles=False).weights
    with torch.device("meta"):
        refiner = Refiner(config)
    expected = refiner.state_dict()
    for kind, names in (("surplus", set(given) - set(expected)), ("missing", set(expected) - set(given))):
        if names:
            raise ModelError(f"{path}: {len(names)} {kind} weight(s), the first is {min(names)}")
    weights = {name: checked(f"{path}: {name}", value, expected[name].shape) for name, value in given.items()}
    refiner.load_state_dict(weights, assign=True)
    return refiner.eval()


def read_refiner_notes(source: str | Path) -> dict[str, Any]:
    """Facts about the training of a model's refiner; empty where nothing is kept.

    Raises:
        ModelError: a config that cannot be read, or notes that are no mapping.
    """
    config_path, stated = read_config(source)
    settings = stated.get(SETTINGS)
    notes = settings.get("training") if isinstance(settings, dict) else None
    if notes is not None and not isinstance(notes, dict):
        raise ModelError(f"{config_path}: {SETTINGS}.training must be a mapping")
    return notes or {}


def _config(path: Path, settings: Any) -> RefinerConfig:
    """The settings in a config, checked."""
    try:
        if not isinstance(settings, dict):
            raise ValueError(f"{SETTINGS} must be a mapping")
        config = RefinerConfig(**{name: value for name, value in settings.items() if name != "training"})
        too_large = max(config.widths) > 4096 or config.feature_dim > 16384 or len(config.dilations) > 256
        if too_large or max(config.dilations) > 1024:
            raise ValueError("sizes out of proportion")
    except (TypeError, ValueError) as err:  # may show a name of the file, with line breaks in it
        raise ModelError(f"{path}: its refiner does not fit ({' '.join(str(err).split())[:300]})") from err
    return config
