"""A classifier's files: `config.json` and `head.safetensors`, those of a tuned encoder, and `whitening.safetensors`.

The head's facts stand under "classifier" in the config. A tuned encoder lies beside as a model of this package, in the
same config, so that such a folder is a model for every other verb too. A whitening lies beside where the head was
fitted to whitened features.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.features.classify.folders import recover, replace_folder
from maerestore.features.classify.head_config import SETTINGS, HeadConfig, read_head_config
from maerestore.features.classify.knn import KNNHead
from maerestore.features.classify.linear import LinearHead
from maerestore.features.classify.whitened import load_whitening
from maerestore.features.whiten import Whitening
from maerestore.hub.card import pictures_of
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CARD_NAME, CONFIG_NAME, HEAD_NAME, PICTURE_SUFFIXES, WEIGHTS_NAME, WHITENING_NAME
from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import save_autoencoder, save_tensors, write_json
from maerestore.hub.weights import read_weights
from maerestore.model import MaskedAutoencoder

MODEL_TYPE = "maerestore-classifier"  # of a folder that holds no encoder
_OWN_FILES = (CONFIG_NAME, HEAD_NAME, WEIGHTS_NAME, WHITENING_NAME)  # which a new classifier replaces


@dataclass(frozen=True)
class StoredHead:
    """What a classifier's folder holds.

    Attributes:
        config: the facts about the head.
        head: what was fitted.
        encoder: the tuned one, of the method "finetune".
        whitening: what was applied to the features, or None.
    """

    config: HeadConfig
    head: KNNHead | LinearHead
    encoder: MaskedAutoencoder | None = None
    whitening: Whitening | None = None


def save_head(folder: Path, stored: StoredHead, overwrite: bool = False) -> None:
    """Write the folder, whole or not at all.

    Args:
        folder: to write; the folder around it has to be there.
        stored: what to write.
        overwrite: replace the classifier in a folder; its card (README.md) and pictures stay.

    Raises:
        ModelError: it is there already, holds files that are no part of a classifier, or cannot be written.
    """
    check_folder(folder, overwrite)
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        partial.mkdir()
        write_head(partial, stored)
        for path in _kept(folder):
            (partial / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, partial / path.relative_to(folder), follow_symlinks=False)
        replace_folder(partial, folder)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Check before the work that `save_head` may write there. Calls `recover` first.

    Raises:
        ModelError: it may not.
    """
    if not folder.resolve().parent.is_dir():
        raise ModelError(f"{folder}: cannot be written, {folder.resolve().parent} does not exist: create it first")
    if not os.access(folder.resolve().parent, os.W_OK | os.X_OK):  # a new folder takes the place of an old one there
        raise ModelError(f"{folder}: cannot be written, {folder.resolve().parent} is not yours to write in")
    recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder}: is a file; a classifier is written to a folder")
    if any(folder.iterdir()) and not (folder / HEAD_NAME).is_file():
        raise ModelError(f"{folder}: holds something else than a classifier: give another folder")
    if any(folder.iterdir()) and not overwrite:
        raise ModelError(
            f"{folder}: is there already: give another folder, or add --overwrite", in_python="overwrite=True"
        )
    kept = set(_kept(folder))
    for path in sorted(folder.rglob("*")):
        own = path.parent == folder and path.name in _OWN_FILES
        if not own and path not in kept and (path.is_symlink() or not path.is_dir()):
            name = str(path.relative_to(folder))
            raise ModelError(f"{folder}: also holds {name!r}, which would be lost: move it, or give another folder")


def _kept(folder: Path) -> Iterator[Path]:
    """Card and pictures in a classifier's folder, which stay when the classifier is replaced."""
    card = folder / CARD_NAME
    if card.is_file():
        yield card
        for name in pictures_of(card):
            if (folder / name).parent != folder:
                yield folder / name
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())


def write_head(folder: Path, stored: StoredHead) -> None:
    """Write the files into an empty folder.

    Raises:
        ModelError: it cannot be written.
    """
    facts: dict[str, Any] = {"model_type": MODEL_TYPE}
    head = stored.head
    if stored.encoder is not None:
        save_autoencoder(stored.encoder, folder)
        facts = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    tensors: dict[str, Tensor]
    if isinstance(head, KNNHead):
        tensors = {"features": head.features.contiguous()}  # by class; how many each has, the config says
    else:
        tensors = {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}
    save_tensors(folder / HEAD_NAME, tensors)
    if stored.whitening is not None:
        stored.whitening.save(folder / WHITENING_NAME)
    write_json(folder / CONFIG_NAME, facts | {SETTINGS: stored.config.to_dict()})


def load_head(folder: Path) -> StoredHead:
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
        k, temperature = config.chosen["k"], float(config.chosen["temperature"])
        try:
            head = KNNHead(tensors["features"].half(), labels, len(config.classes), k, temperature)
        except ValueError as err:
            raise ModelError(f"{folder / CONFIG_NAME}: {err}") from err
    else:
        head = LinearHead(tensors["weight"].float().clone(), tensors["bias"].float().clone())
    encoder = load_autoencoder(folder) if config.method == "finetune" else None
    return StoredHead(config, head, encoder, _whitening(folder, config))


def _whitening(folder: Path, config: HeadConfig) -> Whitening | None:
    """The whitening of a head's features, where the config says that there is one."""
    return load_whitening(folder / WHITENING_NAME, config.fingerprint) if config.whitened else None
