"""Which files of a folder go to the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from maerestore.errors import MaerestoreWarning
from maerestore.hub.card import model_card, pictures_of
from maerestore.hub.config import kind_of, read_json, read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CARD_NAME, CONFIG_NAME, HEAD_NAME, PREPROCESSOR_NAME, REFINER_NAME, WEIGHTS_NAME
from maerestore.hub.refiner import load_networks, read_refiner_notes

Files = dict[str, str | bytes]
"""For each name in the repository the path of a file, or its content."""


def files_to_send(folder: Path, repo_id: str, license: str | None) -> Files:
    """The files of a model or a classifier to send. It is loaded first, so that a broken one is not sent.

    Args:
        folder: holds config.json and model.safetensors, or head.safetensors of a classifier.
        repo_id: "org/name".
        license: for a card that is made; see `maerestore.hub.card.model_card`.

    Raises:
        ModelError: no such folder, files that are missing, or a model that does not load.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give one that holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    if license is not None and (folder / CARD_NAME).is_file():
        warnings.warn(
            f"{folder / CARD_NAME} is sent as it is: a licence that is given goes into a card that is made",
            MaerestoreWarning,
            stacklevel=2,
        )
    if (folder / HEAD_NAME).is_file():
        from maerestore.features.classify.sharing import classifier_files

        return classifier_files(folder, repo_id, license)
    return _model_files(folder, repo_id, license)


def with_card(folder: Path, names: list[str], make: Callable[[], str]) -> Files:
    """Files of a folder together with its card and the pictures in that; a card is made where there is none.

    Args:
        folder: of the files.
        names: of files in it.
        make: makes the card's text; asked where the folder has none.
    """
    files: Files = {name: str(folder / name) for name in names}
    card = folder / CARD_NAME
    if card.is_file():
        return files | {name: str(folder / name) for name in [CARD_NAME, *pictures_of(card)]}
    return files | {CARD_NAME: make().encode()}


def _model_files(folder: Path, repo_id: str, license: str | None) -> Files:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; a folder to push holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    model, refiner, _ = load_networks(folder)
    names = [CONFIG_NAME, WEIGHTS_NAME]
    if kind_of(read_json(folder / CONFIG_NAME)) == "transformers" and (folder / PREPROCESSOR_NAME).is_file():
        names.append(PREPROCESSOR_NAME)  # beside a config of ours it is of a model that was there before
    names += [REFINER_NAME] if refiner is not None else []

    def card() -> str:
        training = read_notes(folder).get("training")
        sizes = None if refiner is None else refiner.config
        return model_card(model.config, training, repo_id, license, sizes, read_refiner_notes(folder))

    return with_card(folder, names, card)
