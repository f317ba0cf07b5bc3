"""Send a model to a repository on the Hugging Face Hub, in one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maerestore.hub.card import model_card, pictures_of
from maerestore.hub.client import TRIES, ask_hub, clean_token
from maerestore.hub.config import read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import REPOSITORY, may_be_repository
from maerestore.hub.files import (
    CARD_NAME,
    CONFIG_NAME,
    HEAD_NAME,
    PREPROCESSOR_NAME,
    REFINER_NAME,
    WEIGHTS_NAME,
    WHITENING_NAME,
)
from maerestore.hub.load import load_autoencoder
from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_networks
from maerestore.model import MaskedAutoencoder
from maerestore.model.refiner import Refiner
from maerestore.model.restorer import Restorer


def push_model(
    model: MaskedAutoencoder,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    **save: Any,
) -> str:
    """Save a model and send it to the Hub with a model card.

    Args:
        model: what to send.
        repo_id, private, create_pr, revision, token, commit_message, license: as for `push_folder`.
        **save: passed to `maerestore.hub.refiner.save_networks` (refiner, fill, training, refiner_training, dtype); the
            card tells the facts about the training.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        ModelError: as for `push_folder`.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_networks(model, Path(folder), **save)
        return push_folder(
            Path(folder),
            repo_id,
            private=private,
            create_pr=create_pr,
            revision=revision,
            token=token,
            commit_message=commit_message,
            license=license,
        )


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    license: str | None = None,
) -> str:
    """Check a folder of a model or of a classifier, and send it to the Hub in one commit.

    Only the model's own files are sent: configuration, weights, those of the refiner that the configuration tells of,
    card, and the pictures that the card shows. A folder without a card gets one (on the Hub, not on the disk).

    Args:
        folder: holds config.json and model.safetensors, or head.safetensors of a classifier.
        repo_id: "org/name"; the repository is made if it is not there.
        private: make it private; refused if it is there and public.
        create_pr: open a pull request on an existing repository, and leave its main branch as it is.
        revision: branch to commit to (default: main); made if it is not there.
        token: of the Hub; None for that of `hf auth login` or HF_TOKEN.
        commit_message: default "Upload model with maerestore".
        license: for a card that is made, see `model_card`.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        ModelError: a model that does not load (nothing was sent then), no permission, or a Hub that fails.
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise ModelError(f"{repo_id!r}: give org/name, and a branch, if any, with --revision")
    if create_pr and revision:
        raise ModelError(f"{repo_id}: a pull request goes to the main branch: leave out the revision")
    files = _files_to_send(Path(folder), repo_id, license)

    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import RevisionNotFoundError

    token = clean_token(token)
    if token is False or (token in (None, True) and get_token() is None):
        raise ModelError(f"{repo_id}: sending needs a token: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi(token=token, library_name="maerestore")

    def prepare() -> None:
        if not create_pr:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ModelError(f"{repo_id}: is there already, and public: make it private on the Hub first")
        if revision:
            try:
                api.model_info(repo_id, revision=revision)
            except RevisionNotFoundError:
                api.create_branch(repo_id, branch=revision, exist_ok=True)

    ask_hub(prepare, repo_id, revision, sending=True)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
    commit = ask_hub(
        lambda: api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or "Upload model with maerestore",
            revision=revision,
            create_pr=create_pr,
        ),
        repo_id,
        revision,
        sending=True,
        # The same files make one commit, however often they are sent, but may open several pull requests.
        tries=1 if create_pr else TRIES,
    )
    return str(commit.pr_url or commit.commit_url)


def _files_to_send(folder: Path, repo_id: str, license: str | None) -> dict[str, str | bytes]:
    """Name in the repository -> path, or content. The model is loaded: a broken one goes no further."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give one that holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    if (folder / HEAD_NAME).is_file():
        from maerestore.features.classify.card import (
            check_public,
            check_reproducible,
            classifier_card,
            without_local_names,
        )
        from maerestore.features.classify.head import load_head
        from maerestore.features.classify.head_config import config_with

        if not may_be_repository(repo_id):
            raise ModelError(f"{repo_id}: a classifier of this name is looked for on disk only: leave out the suffix")
        stored = load_head(folder)
        head_config = stored.config
        check_public(head_config, folder)
        check_reproducible(stored, folder)
        names = [CONFIG_NAME, HEAD_NAME]
        names += [WEIGHTS_NAME] if stored.encoder is not None else []
        names += [WHITENING_NAME] if stored.whitening is not None else []
        public = without_local_names(head_config)
        files = _with_card(folder, names, lambda: classifier_card(public, repo_id, license))
        if public != head_config:
            files[CONFIG_NAME] = config_with(folder, public)
        return files
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; a folder to push holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    model, refiner = load_autoencoder(folder), load_refiner(folder)
    if refiner is not None:
        _check_fit(folder, model, refiner)
    names = [n for n in (CONFIG_NAME, PREPROCESSOR_NAME, WEIGHTS_NAME) if (folder / n).is_file()]
    names += [REFINER_NAME] if refiner is not None else []

    def card() -> str:
        training = read_notes(folder).get("training")
        sizes = None if refiner is None else refiner.config
        return model_card(model.config, training, repo_id, license, sizes, read_refiner_notes(folder))

    return _with_card(folder, names, card)


def _with_card(folder: Path, names: list[str], make: Callable[[], str]) -> dict[str, str | bytes]:
    """The files of these names with the folder's card and its pictures, or with one that is made."""
    files: dict[str, str | bytes] = {name: str(folder / name) for name in names}
    card = folder / CARD_NAME
    if card.is_file():
        return files | {name: str(folder / name) for name in [CARD_NAME, *pictures_of(card)]}
    return files | {CARD_NAME: make().encode()}


def _check_fit(folder: Path, model: MaskedAutoencoder, refiner: Refiner) -> None:
    try:
        Restorer(model, refiner)
    except ValueError as err:
        raise ModelError(f"{folder}: {err}") from err
