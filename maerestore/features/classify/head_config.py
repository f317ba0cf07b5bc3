"""The facts about a fitted head, as they stand under "classifier" in `config.json`."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from maerestore.features.model_names import TIMM
from maerestore.features.options import FeatureOptions
from maerestore.hub.config import read_json
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import BUNDLED, REPOSITORY
from maerestore.hub.files import CONFIG_NAME
from maerestore.hub.save import json_text

METHODS = ("knn", "linear", "logistic", "finetune")
SETTINGS = "classifier"  # the key in config.json
_MOST_CLASSES = 1_000_000
_LARGEST = 10**15  # of any number in a config
_CHOSEN = {"knn": ("k", "temperature"), "linear": ("lr",), "logistic": ("C",), "finetune": ("epochs", "kept")}
_MEASURED = ("accuracy", "low", "high", "images")


@dataclass(frozen=True)
class HeadConfig:
    """The facts about a fitted head.

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
        whitened: whether the features were whitened, by a whitening that lies beside the head.
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
    whitened: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "counts", tuple(self.counts))

        def whole(value: Any, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST

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
            "whitened": isinstance(self.whitened, bool) and not (self.whitened and self.method == "finetune"),
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise ModelError(f"{SETTINGS}: {wrong[0]} does not fit")
        numbers = [self.chosen.get(name) for name in _CHOSEN[self.method]]
        numbers += [self.validation.get(name) for name in _MEASURED] if self.validation else []
        finite = [isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in numbers]
        if not all(finite) or (self.method == "knn" and not whole(self.chosen["k"], 1)):
            raise ModelError(f"{SETTINGS}: chosen or validation does not fit the method {self.method}")
        FeatureOptions.from_dict(self.options)
        if (self.method == "finetune") != (self.model is None):
            raise ModelError(f"{SETTINGS}: model does not fit the method {self.method}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; without `whitened` where that is false, so that older releases can read it."""
        return {name: value for name, value in asdict(self).items() if name != "whitened" or value}


def read_head_config(folder: Path) -> HeadConfig:
    """The facts about a head, checked.

    Raises:
        ModelError: no classifier there, or facts that do not fit.
    """
    path = folder / CONFIG_NAME
    settings = read_json(path, "give the folder of a fitted classifier").get(SETTINGS)
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: holds no classifier; one is made with `maerestore classify fit`")
    known = {f.name for f in fields(HeadConfig)}
    if surplus := sorted(set(settings) - known):
        raise ModelError(f"{path}: {SETTINGS} has an unknown setting, {ascii(surplus[0])[:60]}")
    try:
        return HeadConfig(**settings)
    except (TypeError, ValueError, OverflowError) as err:
        raise ModelError(f"{path}: {' '.join(str(err).split())[:300]}") from err


def config_with(folder: Path, config: HeadConfig) -> bytes:
    """The content of a classifier's `config.json` with other facts about the head.

    Raises:
        ModelError: no such file, or none that can be read.
    """
    path = folder / CONFIG_NAME
    return json_text(read_json(path, "give the folder of a fitted classifier") | {SETTINGS: config.to_dict()}).encode()


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


def is_public(model: str) -> bool:
    """Whether others can load a model by its name: a bundled one, one of timm, or one on the Hub.

    Example:
        >>> [is_public(name) for name in ("features", "timm:vit_tiny", "org/name@v1", "/home/me/model", "model")]
        [True, True, True, False, False]
    """
    if model in BUNDLED or model.startswith(TIMM):
        return True
    return REPOSITORY.fullmatch(model.partition("@")[0]) is not None and not os.path.exists(model)
