"""A classifier's files: `config.json` and `head.safetensors`, and those of a tuned encoder where there is one.

The head's facts stand under "classifier" in the config. A tuned encoder lies beside as a model of this package, in the
same config, so that such a folder is a model for every other verb too.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import sys
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.features.backbone import TIMM
from maerestore.features.classify.knn import KNNHead
from maerestore.features.classify.linear import LinearHead
from maerestore.features.options import FeatureOptions
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import BUNDLED, REPOSITORY
from maerestore.hub.files import CONFIG_NAME, HEAD_NAME
from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import json_text, save_autoencoder, save_tensors, write_json
from maerestore.hub.weights import read_weights
from maerestore.model import MaskedAutoencoder

METHODS = ("knn", "linear", "logistic", "finetune")
SETTINGS = "classifier"  # the key in config.json
MODEL_TYPE = "maerestore-classifier"  # of a folder that holds no encoder
_MOST_CLASSES = 1_000_000
_CHOSEN = {"knn": ("k", "temperature"), "linear": ("lr",), "logistic": ("C",), "finetune": ("epochs",)}
_MEASURED = ("accuracy", "low", "high", "images")


@dataclass(frozen=True)
class HeadConfig:
    """What a fitted head is.

    Attributes:
        method: one of `METHODS`.
        classes: names of the C classes, at least 2.
        counts: training images of each class.
        dim: D, the width of the features.
        model: name of the model that the features come from; None for the tuned encoder in the same folder.
        fingerprint: of the extractor, see `maerestore.features.FeatureExtractor`.
        options: of the extractor, as `FeatureOptions.to_dict` gives them.
        chosen: what was chosen while fitting (k, temperature; lr; C; epochs ...), and the accuracy of what was tried.
        validation: accuracy with its interval on images that were not trained on, and how those came about.
        training: seed and other facts.
    """

    method: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    dim: int
    model: str | None
    fingerprint: str
    options: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "counts", tuple(self.counts))

        def whole(value: Any, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        names = all(isinstance(name, str) and name.strip() and is_plain(name) for name in self.classes)
        mappings = (self.options, self.chosen, self.validation, self.training)
        checks = {
            "method": self.method in METHODS,
            "classes": names
            and len(set(self.classes)) == len(self.classes)
            and 2 <= len(self.classes) <= _MOST_CLASSES,
            "counts": len(self.counts) == len(self.classes) and all(whole(n, 0) for n in self.counts),
            "dim": whole(self.dim, 1),
            "model": self.model is None or (isinstance(self.model, str) and is_plain(self.model, surrogates=True)),
            "fingerprint": isinstance(self.fingerprint, str) and self.fingerprint.isalnum(),
            "options, chosen, validation or training": all(isinstance(m, dict) for m in mappings),
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise ModelError(f"{SETTINGS}: {wrong[0]} does not fit")
        numbers = [self.chosen.get(name) for name in _CHOSEN[self.method]]
        numbers += [self.validation.get(name) for name in _MEASURED] if self.validation else []
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
            raise ModelError(f"{SETTINGS}: chosen or validation does not fit the method {self.method}")
        FeatureOptions.from_dict(self.options)
        if (self.method == "finetune") != (self.model is None):
            raise ModelError(f"{SETTINGS}: model does not fit the method {self.method}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def is_plain(text: str, surrogates: bool = False) -> bool:
    """Whether a name holds neither control characters nor line breaks.

    Joiners, no-break spaces and soft hyphens pass: names have them in many languages.

    Args:
        text: the name.
        surrogates: whether what stands for bytes that are no UTF-8 passes too, as in paths.

    Example:
        >>> is_plain("Canis\\u00a0lupus"), is_plain("two\\nlines"), is_plain("tab\\t")
        (True, False, False)
    """
    wrong = {"Cc", "Zl", "Zp"} | (set() if surrogates else {"Cs"})
    return text.isprintable() or not any(unicodedata.category(character) in wrong for character in text)


def name_to_keep(model: str) -> str:
    """A model's name as a head keeps it: of a folder or file on this machine the absolute path.

    A relative path would lead somewhere else from another working directory, or be taken for a name on the Hub.
    """
    here = model not in BUNDLED and not model.startswith(TIMM) and os.path.exists(model)
    return os.path.abspath(model) if here else model


def is_public(model: str) -> bool:
    """Whether others can find a model by its name: a bundled one, one of timm, or one on the Hub.

    Example:
        >>> [is_public(name) for name in ("features", "timm:vit_tiny", "org/name@v1", "/home/me/model", "model")]
        [True, True, True, False, False]
    """
    if model in BUNDLED or model.startswith(TIMM):
        return True
    return REPOSITORY.fullmatch(model.partition("@")[0]) is not None and not os.path.exists(model)


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
    old = _old(folder)
    partial = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        partial.mkdir()
        write_head(partial, config, head, encoder)
        if not folder.exists():
            os.replace(partial, folder)
        elif not _exchange(partial, folder):  # a folder with files in it cannot be replaced in one step, only swapped
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)  # a kill from here on leaves no folder: `recover` puts the old one back
            try:
                os.replace(partial, folder)
            except OSError:
                os.replace(old, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the old classifier back where a kill hit `save_head` between moving it aside and putting the new one there.

    Raises:
        ModelError: it cannot be moved.
    """
    folder = folder.resolve()
    old = _old(folder)
    if old.is_dir() and not folder.exists():
        try:
            os.replace(old, folder)
        except OSError as err:
            raise ModelError(f"{folder}: cannot be restored from {old} ({err.strerror})") from err


def _old(folder: Path) -> Path:
    """Where a folder stands while it is replaced."""
    return folder.with_name(f".{folder.name[:40]}.{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system has no such step."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


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


def config_with(folder: Path, config: HeadConfig) -> bytes:
    """The content of a classifier's `config.json` with other facts about the head.

    Raises:
        ModelError: no such file, or none that can be read.
    """
    path = folder / CONFIG_NAME
    return json_text(_read_content(path) | {SETTINGS: config.to_dict()}).encode()


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


def read_head_config(folder: Path) -> HeadConfig:
    """The facts about a head, checked.

    Raises:
        ModelError: no classifier there, or facts that do not fit.
    """
    path = folder / CONFIG_NAME
    settings = _read_content(path).get(SETTINGS)
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: holds no classifier; one is made with `maerestore classify fit`")
    known = {f.name for f in fields(HeadConfig)}
    if surplus := sorted(set(settings) - known):
        raise ModelError(f"{path}: {SETTINGS} has an unknown setting, {ascii(surplus[0])[:60]}")
    try:
        return HeadConfig(**settings)
    except (TypeError, ValueError) as err:
        raise ModelError(f"{path}: {' '.join(str(err).split())[:300]}") from err


def _read_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); give the folder of a fitted classifier") from err
    except (ValueError, RecursionError) as err:
        raise ModelError(f"{path}: not valid JSON ({str(err) or type(err).__name__})") from err
    return content if isinstance(content, dict) else {}
