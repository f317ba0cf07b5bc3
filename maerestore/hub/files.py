"""Names of the files that make a model, in our own layout and in those of other libraries."""

from __future__ import annotations

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
REFINER_NAME = "refiner.safetensors"
HEAD_NAME = "head.safetensors"  # of a classifier
WHITENING_NAME = "whitening.safetensors"  # of a classifier's features
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")  # of pictures that a card shows
# transformers keeps mean, std, size and interpolation in a file of their own.
PREPROCESSOR_NAME = "preprocessor_config.json"
