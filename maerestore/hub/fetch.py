"""Find a model by name: bundled, a folder or file, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from maerestore.errors import MaerestoreWarning
from maerestore.hub.cache import kept_listing, remember_revision
from maerestore.hub.checksums import verify_cached
from maerestore.hub.client import ask_hub, clean_token, explain
from maerestore.hub.errors import ModelError, NotFoundError, UnreachableError
from maerestore.hub.files import BESIDE, CONFIG_NAME, HEAD_NAME, WEIGHTS_NAME, WEIGHTS_NAMES, weight_names

DEFAULT_NAME = "default"
AUGMENT_NAME = "augment"
FEATURES_NAME = "features"
# By name, the folder inside that of the default.
BUNDLED = {DEFAULT_NAME: "", AUGMENT_NAME: "augment", FEATURES_NAME: "features"}
# Neither part starts with a dot or a dash on the Hub: "./animals" is a folder, and one that is not there.
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile("[0-9a-f]{40}")
HEAD_SUFFIX = ".head"  # that folders of classifiers have, as in "heads/animals.head"


def bundled_folder() -> Path:
    """The folder of the default model: inside an installed wheel, or `weights/` of a checkout."""
    packaged = Path(str(resources.files("maerestore"))) / "weights"
    return packaged if (packaged / CONFIG_NAME).is_file() else Path(__file__).resolve().parents[2] / "weights"


def resolve_model(
    name: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder or file that holds a model; downloaded first if needed.

    Args:
        name: None or "default" for the bundled model, "augment" for the bundled small one of `maerestore.augment`,
            "features" for the encoder of `maerestore.features`; an existing folder or file; or "org/name[@revision]" on
            the Hub. A `Path` is a folder or a file, and nothing else.
        revision: branch, tag or commit of a repository on the Hub, when not in its name.
        token, cache_dir, local_files_only: as for `fetch_repository`.

    Returns:
        a folder that exists, or a file.

    Raises:
        ModelError: nothing of that name, a revision of what is not on the Hub, or it cannot be fetched.

    Example:
        >>> (resolve_model("features") / "config.json").is_file()
        True
        >>> resolve_model("org/name@v1.0")                                                  # doctest: +SKIP
        PosixPath('/home/me/.cache/huggingface/hub/models--org--name/snapshots/6f0e...')
    """
    if isinstance(name, os.PathLike):
        if not os.path.exists(name):
            raise ModelError(f"no folder or file {os.fspath(name)!r}; a model's name is given as a string")
        check_no_revision(os.fspath(name), revision)
        return Path(name)
    name = DEFAULT_NAME if name is None else name
    if name in BUNDLED:
        folder = bundled_folder() / BUNDLED[name]
        if not (folder / CONFIG_NAME).is_file():
            raise ModelError(f"the bundled model is missing from {folder}: reinstall maerestore, or name another model")
        check_no_revision(name, revision)
        return folder
    if os.path.exists(name):  # not of Path, which raises an error for a name that is too long
        check_no_revision(name, revision)
        return Path(name)
    if not may_be_repository(name):
        raise ModelError(
            f"no model {name!r}: give {', '.join(map(repr, BUNDLED))}, a folder, a file, "
            "or org/name[@revision] of the Hub"
        )
    repository, pinned = split_name(name)
    if pinned and revision and pinned != revision:
        raise ModelError(f"{name}: asks for two revisions, {pinned} and {revision}: give one")
    try:
        return fetch_repository(
            repository,
            pinned or revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    except NotFoundError as err:
        if pinned or revision:
            raise
        raise NotFoundError(f"{err}; nor is there a folder or file {name!r} here") from err


def check_no_revision(name: str, revision: str | None) -> None:
    """Refuse a revision for a local model, which has none.

    Raises:
        ModelError: a revision.
    """
    if revision is None:
        return
    if name in BUNDLED:
        raise ModelError(f"{name!r} is a bundled model, which has no revision {revision!r}: leave it out")
    wanted = f"give {name}@{revision} for the repository of that name" if REPOSITORY.fullmatch(name) else "leave it out"
    raise ModelError(f"{name!r} is on this machine, and has no revision {revision!r}: {wanted}")


def may_be_repository(name: str) -> bool:
    """Whether a name that does not exist locally may be a repository of the Hub, rather than a mistyped path.

    Example:
        >>> [may_be_repository(name) for name in ("org/animals@v1", "./animals", "heads/animals.head", "animals")]
        [True, False, False, False]
    """
    try:
        repository, _ = split_name(name)
    except ModelError:
        return False
    return not repository.endswith(HEAD_SUFFIX)


def split_name(name: str) -> tuple[str, str | None]:
    """Split "org/name[@revision]".

    Raises:
        ModelError: not of that form.

    Example:
        >>> split_name("org/name@v1.2"), split_name("org/name")
        (('org/name', 'v1.2'), ('org/name', None))
    """
    repository, at, revision = name.partition("@")
    if not REPOSITORY.fullmatch(repository) or (at and not revision):
        raise ModelError(f"{name!r}: not of the form org/name[@revision]")
    return repository, revision or None


def fetch_repository(
    repository: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    newest: bool = False,
) -> Path:
    """Download a model from the Hub into the cache that is shared with other libraries, or find it there.

    Only the files of a model are fetched, from the top folder of the repository. Which these are, the list of the
    commit's files says, whatever else of it lies in the cache. Releases of `huggingface_hub` below 2 keep no list:
    without the Hub the files that are in the cache are then taken for all of them.

    Each file is compared with the checksum that the Hub states, every time (1 s per GB); one that differs is deleted
    from the cache. As with any tool that is built on `huggingface_hub`, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT
    and HF_HUB_OFFLINE are respected. While the Hub cannot be reached the cached files serve, with a
    `MaerestoreWarning`, as they may be of an older commit; where it answers that it fails, or refuses, they do not.
    Those of a commit that is given by its 40 digits serve all the same, and without a warning.

    Args:
        repository: "org/name".
        revision: branch, tag or commit (default: main).
        token: of the Hub; None for that of `hf auth login` or HF_TOKEN, False for none.
        cache_dir: instead of the shared cache.
        local_files_only: stay off the network.
        newest: raise an error where the Hub cannot be reached, in place of the warning; not for a commit given by its
            40 digits, which never changes.

    Returns:
        the folder of the snapshot; its name is the commit.

    Raises:
        ModelError: no such repository or revision, no access, no network, a Hub that fails, a damaged download, no
            model in it, or several files of weights of which none has a standard name.

    Example:
        >>> fetch_repository("org/name", "v1.0").name                                       # doctest: +SKIP
        '6f0e8ab3c2d1...'
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    token = clean_token(token)
    is_commit = revision is not None and _COMMIT.fullmatch(revision) is not None

    def snapshot(commit: str | None, names: list[str], local: bool) -> Path:
        return Path(
            ask_hub(
                lambda: snapshot_download(
                    repository,
                    revision=commit,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local,
                    allow_patterns=[glob.escape(name) for name in names],
                    ignore_patterns=["*/*"],  # * matches slashes: files in folders would come too
                ),
                repository,
                revision,
            )
        )

    def cached() -> Path:
        folder = snapshot(revision, [], local=True)  # of no file: where it is
        names = _names_at(folder)
        if kept_listing(folder) is None and not (weight_names(names) or HEAD_NAME in names):
            # Of a model that was fetched in part, or by others; the commit may well hold weights.
            raise NotFoundError(explain(LocalEntryNotFoundError("no weights"), repository, revision))
        return snapshot(folder.name, _model_names(repository, names), local=True)

    if local_files_only or constants.HF_HUB_OFFLINE:
        folder = cached()
    else:
        try:
            commit, names = _look_up(repository, revision, token, Path(cache_dir or constants.HF_HUB_CACHE))
        except ModelError as err:
            if not is_commit and (newest or not isinstance(err, UnreachableError)):
                raise
            try:
                folder = cached()
            except NotFoundError:
                raise type(err)(f"{err}; it is not in the cache, or only a part of it") from err
            if not is_commit:
                warnings.warn(
                    f"{repository}: the Hub cannot be reached; commit {folder.name[:12]} from the cache is taken, "
                    "which may not be the newest",
                    MaerestoreWarning,
                    stacklevel=2,
                )
        else:
            wanted = _model_names(repository, names)
            folder = snapshot(commit, wanted, local=False)
            if absent := [name for name in wanted if not (folder / name).is_file()]:  # the client passes over errors
                raise ModelError(f"{repository}: the Hub gave no {absent[0]}: try again later")
            remember_revision(folder, revision or constants.DEFAULT_REVISION)
    for path in model_files(folder):
        verify_cached(path, repository)
    return folder


def _look_up(
    repository: str, revision: str | None, token: str | bool | None, cache: Path
) -> tuple[str, Collection[str]]:
    """The commit that a revision is, and the names of its files; one request, and none for a commit that is known."""
    from huggingface_hub import HfApi

    if revision and _COMMIT.fullmatch(revision):
        known = kept_listing(cache.expanduser() / f"models--{repository.replace('/', '--')}" / "snapshots" / revision)
        if known is not None:
            return revision, known
    api = HfApi(token=token, library_name="maerestore")
    info = ask_hub(lambda: api.model_info(repository, revision=revision), repository, revision)
    return str(info.sha), [file.rfilename for file in info.siblings or []]


def _model_names(repository: str, names: Collection[str]) -> list[str]:
    """Of the files of a commit those that make the model.

    Raises:
        ModelError: no weights among them, or several files of them, none of which has a standard name.
    """
    found = _of_model(names)
    weights = weight_names(found)
    if not weights and HEAD_NAME not in found:
        raise ModelError(
            f"{repository}: holds no model: neither {WEIGHTS_NAME} nor pytorch_model.bin, nor other weights (one .pth "
            "or .safetensors, or .pt or .bin where there is no config.json)"
        )
    if len(weights) > 1 and not set(weights) & set(WEIGHTS_NAMES):
        listed = ", ".join(weights[:5]) + (", ..." if len(weights) > 5 else "")
        raise ModelError(
            f"{repository}: holds {len(weights)} files of weights ({listed}), of which none is {WEIGHTS_NAME}: fetch "
            f"the one that you want with `hf download {repository} FILE`, then give that file"
        )
    return found


def model_files(folder: Path) -> list[Path]:
    """The files of the model in a folder, such as `fetch_repository` gave."""
    return [folder / name for name in _of_model(_names_at(folder)) if (folder / name).is_file()]


def _of_model(names: Collection[str]) -> list[str]:
    """The names of the files that make a model: those beside its weights, and these."""
    top = [name for name in names if "/" not in name]
    return [*sorted(set(top) & set(BESIDE)), *weight_names(top)]


def _names_at(folder: Path) -> Collection[str]:
    """The names of all files of the commit whose snapshot it is, in the cache or not; else of those in the folder."""
    listed = kept_listing(folder)
    return listed if listed is not None else [path.name for path in folder.iterdir() if path.is_file()]
