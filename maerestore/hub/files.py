"""Names of the files that make a model, in our own layout and in those of other libraries."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import PurePosixPath

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
REFINER_NAME = "refiner.safetensors"
HEAD_NAME = "head.safetensors"  # of a classifier
WHITENING_NAME = "whitening.safetensors"  # of a classifier's features
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")  # of pictures that a card shows
# transformers keeps mean, std, size and interpolation in a file of their own.
PREPROCESSOR_NAME = "preprocessor_config.json"
# What an autoencoder is looked for in, in this order; more than one would be the same weights once more.
WEIGHTS_NAMES = (WEIGHTS_NAME, WEIGHTS_NAME + ".index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SHARDS = {WEIGHTS_NAMES[1]: "model-*.safetensors", WEIGHTS_NAMES[3]: "pytorch_model-*.bin"}
# What lies beside the weights.
BESIDE = (CONFIG_NAME, PREPROCESSOR_NAME, CARD_NAME, REFINER_NAME, HEAD_NAME, WHITENING_NAME)
NO_AUTOENCODER = (REFINER_NAME, HEAD_NAME, WHITENING_NAME)  # though they end in .safetensors


def weight_names(names: Collection[str]) -> list[str]:
    """Which files of a folder hold the weights of its autoencoder.

    A file of a standard name does, with the shards that belong to it. Without one, those called otherwise do (of which
    there should be one): .safetensors and .pth, and if there are neither, .pt and .bin, which often hold an optimiser.
    These two want no config.json beside them. A classifier's folder holds no autoencoder under another name.

    Args:
        names: of all files in the folder.

    Returns:
        names, sorted.

    Example:
        >>> weight_names(["mae.pth", "optimizer.pt", "README.md"]), weight_names(["mae.pth", "model.safetensors"])
        (['mae.pth'], ['model.safetensors'])
    """
    standard = next((name for name in WEIGHTS_NAMES if name in names), None)
    if standard is not None:
        shards = [name for name in names if fnmatch(name, _SHARDS.get(standard, standard)) and name != standard]
        return sorted([standard, *shards])
    if HEAD_NAME in names:
        return []
    for kinds in ((".safetensors", ".pth"), () if CONFIG_NAME in names else (".pt", ".bin")):
        if found := [name for name in names if PurePosixPath(name).suffix in kinds and name not in NO_AUTOENCODER]:
            return sorted(found)
    return []
