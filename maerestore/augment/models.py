"""The autoencoders that views are made with: each loaded once a process, when it is first needed.

A `MaskedViews` holds a name. The weights stay in this module, so that transforms pickle small and any number of them
share one model; workers that are forked after `preload` share its memory with their parent too.
"""

from __future__ import annotations

import os
import threading

import torch

from maerestore.hub.config import read_config
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import resolve_model
from maerestore.hub.load import load_autoencoder
from maerestore.model import MAEConfig, MaskedAutoencoder

_configs: dict[str, MAEConfig] = {}
_models: dict[tuple[str, torch.device], MaskedAutoencoder] = {}
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_lock)


def config_of(name: str) -> MAEConfig:
    """The sizes of a model. Its weights are read only where the files hold no config of this package.

    Raises:
        ModelError: no such model, or files that do not fit.
    """
    with _lock:
        if name not in _configs:
            path, stated = read_config(resolve_model(name))
            if not stated:
                return load(name).config
            try:
                _configs[name] = MAEConfig.from_dict(stated["autoencoder"])
            except (ValueError, TypeError) as err:
                raise ModelError(f"{path}: {' '.join(str(err).split())}") from err
        return _configs[name]


def load(name: str, device: torch.device | str = "cpu") -> MaskedAutoencoder:
    """A model, frozen, in float32 and eval mode, on a device: the same object for every caller.

    Raises:
        ModelError: no such model, files that do not fit, or an encoder without a decoder.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _lock:
        key = (name, device)
        if key not in _models:
            model = load_autoencoder(resolve_model(name), need_decoder=True)
            _models[key] = model.requires_grad_(False).to(device)
            _configs[name] = model.config
        return _models[key]


def preload(name: str | os.PathLike[str] = "augment") -> None:
    """Load a model into this process, before a DataLoader forks its workers: they then share one copy of the weights.

    Without it each worker reads the model when it makes its first view. With the bundled model a forked worker then
    takes 40 MB of memory for them, with it 18 MB, and 20 MB more in bfloat16; a spawned one takes 395 MB either way,
    370 of them the libraries.

    Args:
        name: as `model` of the transforms.

    Raises:
        ModelError: no such model, files that do not fit, or an encoder without a decoder.

    Example:
        >>> preload()                                                                # doctest: +SKIP
        >>> loader = torch.utils.data.DataLoader(dataset, 64, num_workers=8)         # doctest: +SKIP
    """
    load(os.fspath(name))


def is_loaded(name: str) -> bool:
    """Whether this process holds the weights of a model, on any device."""
    return any(key[0] == name for key in _models)
