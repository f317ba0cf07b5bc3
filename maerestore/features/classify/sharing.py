"""Which files of a classifier go to the Hub. Heads that others could not use are refused, local paths are removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from maerestore.features.classify.card import classifier_card
from maerestore.features.classify.head import StoredHead, load_head
from maerestore.features.classify.head_config import HeadConfig, config_with, is_public
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.options import FeatureOptions
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import BUNDLED, may_be_repository
from maerestore.hub.files import CONFIG_NAME, HEAD_NAME, WEIGHTS_NAME, WHITENING_NAME
from maerestore.hub.send import Files, with_card


def classifier_files(folder: Path, repo_id: str, license: str | None) -> Files:
    """The files of a classifier to send. The classifier is loaded first, so that a broken one is not sent.

    Args:
        folder: of the classifier.
        repo_id: "org/name".
        license: for a card that is made; see `classifier_card`.

    Returns:
        for each name in the repository the path of a file, or its content.

    Raises:
        ModelError: a classifier that does not load, or one that others could not use.
    """
    if not may_be_repository(repo_id):
        raise ModelError(f"{repo_id}: a classifier of this name is looked for on disk only: leave out the suffix")
    stored = load_head(folder)
    _check_public(stored.config, folder)
    _check_reproducible(stored, folder)
    names = [CONFIG_NAME, HEAD_NAME]
    names += [WEIGHTS_NAME] if stored.encoder is not None else []
    names += [WHITENING_NAME] if stored.whitening is not None else []
    public = _without_local_names(stored.config)
    files = with_card(folder, names, lambda: classifier_card(public, repo_id, license))
    if public != stored.config:
        files[CONFIG_NAME] = config_with(folder, public)
    return files


def _check_public(config: HeadConfig, folder: Path) -> None:
    """Refuse a head on features of a model that nobody else can name.

    Raises:
        ModelError: the model is a folder or a file.
    """
    if config.model is None or is_public(config.model):
        return
    raise ModelError(
        f"{folder}: was fitted on features of {config.model!r}, which only this machine has: push that model first, "
        f"then name its repository: Classifier.from_pretrained({str(folder)!r}, model='org/name').push_to_hub(...)"
    )


def _check_reproducible(stored: StoredHead, folder: Path) -> None:
    """Refuse a head whose bundled model does not produce its features (by the fingerprint): nobody could use it.

    Raises:
        ModelError: the features were whitened and the head does not hold the whitening, or the model is another now.
    """
    config = stored.config
    if config.model not in BUNDLED:
        return
    options = FeatureOptions.from_dict(config.options)
    extractor = FeatureExtractor.from_pretrained(
        config.model, options=options, device="cpu", whitening=stored.whitening
    )
    if extractor.fingerprint != config.fingerprint:
        raise ModelError(
            f"{folder}: was fitted on features that the bundled model {config.model!r} does not give. If they were "
            "whitened, fit again with --whiten FILE, which is then kept with the classifier; else the model was "
            "another one: fit again",
            in_python="whitening=",
        )


def _without_local_names(config: HeadConfig) -> HeadConfig:
    """The config without the local path of the model that an encoder was tuned from."""
    start = config.training.get("start")
    if not isinstance(start, str) or is_public(start):
        return config
    return replace(config, training={**config.training, "start": "a model that was not published"})
