"""Send a model to a repository on the Hugging Face Hub, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.hub.client import TRIES, ask_hub, clean_token
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import HEAD_SUFFIX, REPOSITORY, may_be_repository
from maerestore.hub.refiner import save_networks
from maerestore.hub.send import files_to_send
from maerestore.model import MaskedAutoencoder

if TYPE_CHECKING:
    from huggingface_hub import HfApi


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

    Example:
        >>> push_model(mae, "org/name", training={"photographs": 120_000}, license="cc-by-4.0")     # doctest: +SKIP
        'https://huggingface.co/org/name/commit/...'
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
        license: identifier of the Hub (apache-2.0, cc-by-4.0, ...) for a card that is made; a folder's own card is sent
            as it is, with a `MaerestoreWarning`.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        ModelError: a name that no model can be loaded by, a model that does not load, or a classifier that others could
            not use (nothing was sent then); no permission; or a Hub that fails.

    Example:
        >>> push_folder(Path("runs/small/model"), "org/name", create_pr=True)               # doctest: +SKIP
        'https://huggingface.co/org/name/discussions/1'
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise ModelError(f"{repo_id!r}: give org/name, and a branch, if any, with --revision", "revision=")
    if not may_be_repository(repo_id):
        raise ModelError(f"{repo_id}: what ends in {HEAD_SUFFIX} is looked for on disk only: leave out the suffix")
    if create_pr and revision:
        raise ModelError(f"{repo_id}: a pull request goes to the main branch: leave out the revision")
    files = files_to_send(Path(folder), repo_id, license)

    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = clean_token(token)
    if token is False or (token in (None, True) and get_token() is None):
        raise ModelError(f"{repo_id}: sending needs a token: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi(token=token, library_name="maerestore")
    ask_hub(lambda: _prepare(api, repo_id, private, create_pr, revision), repo_id, revision, sending=True)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
    message = commit_message or "Upload model with maerestore"
    commit = ask_hub(
        lambda: api.create_commit(repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr),
        repo_id,
        revision,
        sending=True,
        # The same files make one commit, however often they are sent, but may open several pull requests.
        tries=1 if create_pr else TRIES,
    )
    return str(commit.pr_url or commit.commit_url)


def _prepare(api: HfApi, repo_id: str, private: bool, create_pr: bool, revision: str | None) -> None:
    """Make the repository and the branch where they are missing."""
    from huggingface_hub.errors import RevisionNotFoundError

    if not create_pr:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise ModelError(f"{repo_id}: is there already, and public: make it private on the Hub first")
    if revision:
        try:
            api.model_info(repo_id, revision=revision)
        except RevisionNotFoundError:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
