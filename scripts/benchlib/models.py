"""The models and networks of a run, by the names that the command line gives them."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from maerestore.hub.digest import model_digest
from maerestore.hub.fetch import resolve_model
from maerestore.inpaint.pipeline import Inpainter

from .onnx_peer import OnnxPeer, parse
from .peers import PEERS, Method
from .photos import BenchError, file_digest
from .xphoto import ALGORITHMS

CLASSICAL = (*PEERS, *ALGORITHMS)


def load_models(
    names: list[str], device: str, smooth: bool = False
) -> tuple[dict[str, Method], dict[str, dict[str, str]], dict[str, Inpainter]]:
    """Load models by "[LABEL=]NAME"; with `smooth` each once more as LABEL-smooth, without its texture stage.

    Returns:
        their fills by label, what identifies each (its name, device and digest), and the models.

    Raises:
        BenchError: two models, or a model and a peer, of one label.
        maerestore.hub.ModelError: a model that cannot be loaded.
    """
    methods: dict[str, Method] = {}
    facts: dict[str, dict[str, str]] = {}
    models: dict[str, Inpainter] = {}
    for text in names:
        label, equals, name = text.partition("=")
        if not equals or Path(text).is_dir():
            label, name = Path(text).name or text, text
        if label in methods or label in CLASSICAL:
            raise BenchError(f"two methods are called {label!r}: give --model LABEL=NAME")
        folder = resolve_model(name)
        models[label] = Inpainter.from_pretrained(folder, device=device)
        fact = {
            "name": name,
            "device": str(models[label].device),
            "model_sha256": model_digest(folder),
        }
        methods[label], facts[label] = models[label].inpaint, fact
        if smooth:
            methods[f"{label}-smooth"] = functools.partial(models[label].inpaint, sharp=False)
            facts[f"{label}-smooth"] = fact
    return methods, facts, models


def load_onnx(texts: list[str], taken: Collection[str]) -> tuple[dict[str, Method], dict[str, dict[str, str]]]:
    """Load the networks of --onnx: their fills by name, and what identifies each.

    Raises:
        BenchError: a name that is taken, or a file that is no such network.
    """
    methods: dict[str, Method] = {}
    facts: dict[str, dict[str, str]] = {}
    for text in texts:
        name, path, options = parse(text)
        if name in methods or name in taken or name in CLASSICAL:
            raise BenchError(f"two methods are called {name!r}: give --onnx another name")
        methods[name] = OnnxPeer(path, options)
        facts[name] = {"name": path.name, "device": "cpu", "weights_sha256": file_digest(path), **options}
    return methods, facts
