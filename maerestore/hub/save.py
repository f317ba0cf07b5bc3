"""Write a model in the layout of a Hub repository: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from maerestore.hub.files import CONFIG_NAME, WEIGHTS_NAME
from maerestore.model import MaskedAutoencoder

MODEL_TYPE = "maerestore"
AUTOENCODER_PREFIX = "autoencoder."


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
        ValueError: weights that are not finite in `dtype`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"model_type": MODEL_TYPE, "autoencoder": model.config.to_dict()}
    if fill:
        config["fill"] = fill
    if training:
        config["training"] = training
    # The position tables follow from the config; in half precision they would come back rounded.
    weights = {
        AUTOENCODER_PREFIX + name: value.detach().cpu().to(dtype).contiguous()
        for name, value in model.state_dict().items()
        if name not in ("pos_embed", "decoder_pos_embed")
    }
    overflown = [name for name, value in weights.items() if not value.isfinite().all()]
    if overflown:
        raise ValueError(f"{overflown[0]} does not fit {dtype}: save in torch.float32")
    partial = folder / f".{WEIGHTS_NAME}.{os.getpid()}"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes files that only their owner can read
    partial.replace(folder / WEIGHTS_NAME)
    partial = folder / f".{CONFIG_NAME}.{os.getpid()}"
    partial.write_text(json.dumps(config, indent=2) + "\n")
    partial.replace(folder / CONFIG_NAME)
