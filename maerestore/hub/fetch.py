"""Find a model by name: bundled, a folder, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from maerestore.hub.errors import ModelError
from maerestore.hub.files import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME

DEFAULT_NAME = "default"
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


def bundled_folder() -> Path:
    """Where the default model lies: inside an installed wheel, or `weights/` of a checkout."""
    packaged = Path(str(resources.files("maerestore"))) / "weights"
    return packaged if (packaged / CONFIG_NAME).is_file() else Path(__file__).resolve().parents[2] / "weights"


def resolve_model(name: str | None = None, *, revision: str | None = None, **hub: Any) -> Path:
    """The folder that holds a model's files, downloaded first where need be.

    Args:
        name: None or "default" for the bundled model; an existing folder; or "org/name[@revision]" on the Hub.
        revision: branch, tag or commit of the Hub repository.
        **hub: passed to `huggingface_hub.snapshot_download` (token, cache_dir, local_files_only, ...).

    Raises:
        ModelError: nothing of that name.
    """
    if name is None or name == DEFAULT_NAME:
        folder = bundled_folder()
        if not (folder / CONFIG_NAME).is_file():
            raise ModelError(
                f"the bundled model is missing from {folder}: reinstall maerestore, or name one with --model"
            )
        return folder
    if name and Path(name).is_dir():
        return Path(name)
    repository, _, pinned = name.partition("@")
    if not _REPOSITORY.match(repository) or Path(name).is_file():
        raise ModelError(f"no model {name!r}: give '{DEFAULT_NAME}', a folder, or org/name[@revision] of the Hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository, revision=pinned or revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, CARD_NAME], **hub
            )
        )
    except Exception as err:  # refusals, bad names, time-outs: each client release raises its own classes
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise ModelError(f"{name}: cannot be fetched from the Hub ({reason})") from err
