"""Find a model by name: bundled, a folder or file, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path

from maerestore.hub.checksums import verify_cached
from maerestore.hub.client import ask_hub, clean_token
from maerestore.hub.errors import ModelError, NotFoundError
from maerestore.hub.files import (
    CARD_NAME,
    CONFIG_NAME,
    HEAD_NAME,
    PREPROCESSOR_NAME,
    REFINER_NAME,
    WEIGHTS_NAME,
    WHITENING_NAME,
)

DEFAULT_NAME = "default"
AUGMENT_NAME = "augment"
FEATURES_NAME = "features"
# By name, the folder inside that of the default.
BUNDLED = {DEFAULT_NAME: "", AUGMENT_NAME: "augment", FEATURES_NAME: "features"}
# Neither part starts with a dot or a dash on the Hub: "./animals" is a folder, and one that is not there.
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
HEAD_SUFFIX = ".head"  # that folders of classifiers have, as in "heads/animals.head"
# What lies beside the weights.
_BESIDE = (CONFIG_NAME, PREPROCESSOR_NAME, CARD_NAME, REFINER_NAME, HEAD_NAME, WHITENING_NAME)
_NO_AUTOENCODER = (REFINER_NAME, WHITENING_NAME)  # though they end in .safetensors
# The first of these that a repository holds is fetched: more would be the same weights once more.
_WEIGHTS = (
    (WEIGHTS_NAME, "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ("*.safetensors", "*.pth"),
)


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
) -> Path:
    """Download a model from the Hub into the cache that is shared with other libraries, or find it there.

    Only the files of a model are fetched, from the top folder of the repository. Each is compared with the checksum
    that the Hub states, every time (1 s per GB); one that differs is deleted from the cache. As with any tool that is
    built on `huggingface_hub`, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE are respected, and
    the cached files serve while the Hub cannot be reached.

    Args:
        repository: "org/name".
        revision: branch, tag or commit (default: main).
        token: of the Hub; None for that of `hf auth login` or HF_TOKEN, False for none.
        cache_dir: instead of the shared cache.
        local_files_only: stay off the network.

    Returns:
        the folder of the snapshot; its name is the commit.

    Raises:
        ModelError: no such repository or revision, no access, no network, a damaged download, no model in it, or
            several files of weights of which none has a standard name.

    Example:
        >>> fetch_repository("org/name", "v1.0").name                                       # doctest: +SKIP
        '6f0e8ab3c2d1...'
    """
    from huggingface_hub import snapshot_download

    token = clean_token(token)

    def download(patterns: tuple[str, ...], commit: str | None) -> Path:
        return Path(
            ask_hub(
                lambda: snapshot_download(
                    repository,
                    revision=commit,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                    allow_patterns=list(patterns),
                    ignore_patterns=["*/*"],  # * matches slashes: checkpoints in folders would come too
                ),
                repository,
                revision,
            )
        )

    folder = download(_BESIDE + _WEIGHTS[0], revision)
    for patterns in _WEIGHTS[1:]:
        if not _weight_files(folder):
            if patterns == _WEIGHTS[-1] and not local_files_only:
                _check_one(repository, folder.name, token)
            folder = download(patterns, folder.name)
    if not _weight_files(folder):
        raise ModelError(f"{repository}: holds no model: {WEIGHTS_NAME}, *.safetensors, *.bin and *.pth are missing")
    for path in model_files(folder):
        verify_cached(path, repository)
    return folder


def _check_one(repository: str, commit: str, token: str | bool | None) -> None:
    """Refuse a repository with several files of weights, none of which has a standard name, before they are fetched."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="maerestore")
    paths = ask_hub(lambda: [e.path for e in api.list_repo_tree(repository, revision=commit)], repository, commit)
    top = sorted(path for path in paths if "/" not in path and path not in _NO_AUTOENCODER)
    names = [name for name in top if _any_match(name, _WEIGHTS[-1])]
    if len(names) > 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ModelError(
            f"{repository}: holds {len(names)} files of weights ({listed}), of which none is {WEIGHTS_NAME}: fetch the "
            f"one that you want with `hf download {repository} FILE`, then give that file"
        )


def model_files(folder: Path) -> list[Path]:
    """The files of the model in a folder that `fetch_repository` gave."""
    return list(dict.fromkeys(_matching(folder, _BESIDE) + _weight_files(folder)))  # a head alone is in both


def _weight_files(folder: Path) -> list[Path]:
    """The weights of the autoencoder, or of a head that stands alone."""
    tried = (
        [path for path in _matching(folder, patterns) if path.name not in _NO_AUTOENCODER] for patterns in _WEIGHTS
    )
    return next((found for found in tried if found), [])


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():  # nothing matched, and so the client made none
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _any_match(path.name, patterns))


def _any_match(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
