"""A classifier's files: `config.json` and `head.safetensors`, and those of a tuned encoder where there is one.

The head's facts stand under "classifier" in the config. A tuned encoder lies beside as a model of this package, in the
same config, so that such a folder is a model for every other verb too.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.features.classify.folders import recover, replace_folder
from maerestore.features.classify.head_config import SETTINGS, HeadConfig, read_head_config
from maerestore.features.classify.knn import KNNHead
from maerestore.features.classify.linear import LinearHead
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, HEAD_NAME
from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import save_autoencoder, save_tensors, write_json
from maerestore.hub.weights import read_weights
from maerestore.model import MaskedAutoencoder

MODEL_TYPE = "maerestore-classifier"  # of a folder that holds no encoder


def save_head(
    folder: Path,
    config: HeadConfig,
    head: KNNHead | LinearHead,
    encoder: MaskedAutoencoder | None = None,
    overwrite: bool = False,
) -> None:
    """Write the folder, whole or not at all.

    Args:
        folder: to write; the folder around it has to be there.
        config: of the head.
        head: what was fitted.
        encoder: the tuned one, for the method "finetune".
        overwrite: replace a folder that holds a classifier already.

    Raises:
        ModelError: it is there already, or cannot be written.
    """
    check_folder(folder, overwrite)
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        partial.mkdir()
        write_head(partial, config, head, encoder)
        replace_folder(partial, folder)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Find out before the work whether `save_head` may write there, after `recover`.

    Raises:
        ModelError: it may not.
    """
    if not folder.resolve().parent.is_dir():
        raise ModelError(f"{folder}: cannot be written, {folder.resolve().parent} does not exist: create it first")
    recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder}: is a file; a classifier is written to a folder")
    if any(folder.iterdir()) and not (folder / HEAD_NAME).is_file():
        raise ModelError(f"{folder}: holds something else than a classifier: give another folder")
    if any(folder.iterdir()) and not overwrite:
        raise ModelError(f"{folder}: is there already: give another folder, or add --overwrite")


def write_head(
    folder: Path, config: HeadConfig, head: KNNHead | LinearHead, encoder: MaskedAutoencoder | None = None
) -> None:
    """Write the files into an empty folder.

    Raises:
        ModelError: it cannot be written.
    """
    facts: dict[str, Any] = {"model_type": MODEL_TYPE}
    if encoder is not None:
        save_autoencoder(encoder, folder)
        facts = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    tensors: dict[str, Tensor]
    if isinstance(head, KNNHead):
        tensors = {"features": head.features.contiguous()}  # by class; how many each has, the config says
    else:
        tensors = {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}
    save_tensors(folder / HEAD_NAME, tensors)
    write_json(folder / CONFIG_NAME, facts | {SETTINGS: config.to_dict()})


def load_head(folder: Path) -> tuple[HeadConfig, KNNHead | LinearHead, MaskedAutoencoder | None]:
    """Read what `save_head` wrote, strictly.

    Raises:
        ModelError: files that are missing, damaged or do not fit one another.
    """
    config = read_head_config(folder)
    path = folder / HEAD_NAME
    tensors = read_weights(path, pickles=False).weights
    shapes: dict[str, tuple[int, ...]]
    if config.method == "knn":
        shapes = {"features": (sum(config.counts), config.dim)}
    else:
        shapes = {"weight": (len(config.classes), config.dim), "bias": (len(config.classes),)}
    if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
        wanted = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ModelError(f"{path}: does not fit {CONFIG_NAME}, which asks for {wanted}")
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ModelError(f"{path}: holds values that are not finite")
    head: KNNHead | LinearHead
    if config.method == "knn":
        labels = torch.repeat_interleave(torch.arange(len(config.classes)), torch.tensor(config.counts))
        k, temperature = int(config.chosen["k"]), float(config.chosen["temperature"])
        try:
            head = KNNHead(tensors["features"].half(), labels, len(config.classes), k, temperature)
        except ValueError as err:
            raise ModelError(f"{folder / CONFIG_NAME}: {err}") from err
    else:
        head = LinearHead(tensors["weight"].float().clone(), tensors["bias"].float().clone())
    encoder = load_autoencoder(folder) if config.method == "finetune" else None
    return config, head, encoder
