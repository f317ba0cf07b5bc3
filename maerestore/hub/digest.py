"""One checksum of all the files that a model is loaded from."""

from __future__ import annotations

import hashlib
import os

from maerestore.hub.config import locate
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import model_files, resolve_model
from maerestore.hub.weights import shards_of

_CHUNK = 1 << 24


def model_digest(name: str | os.PathLike[str] | None = None) -> str:
    """SHA-256 of a model's config and weights, including those of a refiner or a classifier.

    Args:
        name: as for `resolve_model`; of a run folder, its model counts.

    Returns:
        64 hex digits.

    Raises:
        ModelError: no such model, or files that cannot be read.

    Example:
        >>> model_digest("features") == model_digest("features"), len(model_digest("features"))
        (True, 64)
    """
    config, weights = locate(resolve_model(name))
    # A file without a config beside it is a model of its own, whatever else lies there.
    files = [weights] if config is None else [*model_files(weights.parent), weights]
    if weights.suffix == ".json":
        files += [weights.with_name(shard) for shard in sorted(set(shards_of(weights).values()))]
    files = list(dict.fromkeys(files))
    digest = hashlib.sha256()
    for path in files:
        if path.suffix == ".md":  # the model card changes nothing
            continue
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as err:
            raise ModelError(f"{path}: cannot be read ({err.strerror})") from err
    return digest.hexdigest()
