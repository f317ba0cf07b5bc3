"""The options that decide the value of a feature, besides the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from maerestore.errors import MaerestoreError

POOLINGS = ("cls", "mean", "max", "gem", "attention", "cls+mean", "patch")
PRECISIONS = ("auto", "fp32", "bf16")  # as in maerestore.precision, which loads torch


@dataclass(frozen=True)
class FeatureOptions:
    """How features are computed from images. Can be stored as JSON, and needs no torch.

    Args:
        pooling: how the tokens of a layer are combined into one vector.

            - "cls": the class token.
            - "mean", "max": over the patches.
            - "gem": the generalised mean of power 3 over the patches' positive parts (Radenovic et al. 2018,
              https://arxiv.org/abs/1711.02512).
            - "attention": the mean over the patches, weighted by what the class token attends to in the last block.
            - "cls+mean": the class token and the mean, concatenated.
            - "patch": no pooling; one vector for each patch, in a grid.
        layers: the blocks whose outputs are used, at least one, all different: 0 is the first, -1 the last. Outputs
            pass the final norm and are concatenated.
        scales: sizes at which an image is processed, as multiples of `size`: different numbers from 0.05 to 20, whose
            features are concatenated; (1.0,) for pooling "patch".
        size: 1 to 8192; images are scaled to the area of a square of this side in pixels, whatever their aspect ratio.
            None for the size that the model was trained at.
        normalize: scale features to length 1; the parts of each layer and scale then have equal weight.
        precision: "fp32", "bf16", or "auto": bf16 on CPUs with bf16 instructions, otherwise fp32.

    Raises:
        MaerestoreError: a value that an option cannot have; the message names the option.

    Example:
        >>> FeatureOptions(pooling="cls", layers=[-1, -2]).layers
        (-1, -2)
    """

    pooling: str = "mean"
    layers: tuple[int, ...] = (-1,)
    scales: tuple[float, ...] = (1.0,)
    size: int | None = None
    normalize: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _numbers("layers", self.layers, int))
        object.__setattr__(self, "scales", _numbers("scales", self.scales, float))
        if self.pooling not in POOLINGS:
            raise MaerestoreError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if self.precision not in PRECISIONS:
            raise MaerestoreError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if len(set(self.layers)) < len(self.layers):
            raise MaerestoreError(f"layers names one twice, got {list(self.layers)}")
        if not all(0.05 <= scale <= 20 for scale in self.scales) or len(set(self.scales)) < len(self.scales):
            raise MaerestoreError(f"scales must be different numbers from 0.05 to 20, got {list(self.scales)}")
        whole = isinstance(self.size, int) and not isinstance(self.size, bool)
        if self.size is not None and not (whole and 1 <= self.size <= 8192):
            raise MaerestoreError(f"size must be a whole number of pixels from 1 to 8192, got {self.size!r}")
        if not isinstance(self.normalize, bool):
            raise MaerestoreError(f"normalize must be true or false, got {self.normalize!r}")
        if self.pooling == "patch" and self.scales != (1.0,):
            raise MaerestoreError(f"pooling 'patch' takes one scale, 1, got {list(self.scales)}")

    def to_dict(self) -> dict[str, Any]:
        """The options as a dict that can be stored as JSON.

        Example:
            >>> FeatureOptions.from_dict(FeatureOptions(size=64).to_dict()) == FeatureOptions(size=64)
            True
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FeatureOptions:
        """Make options from what `to_dict` returned.

        Args:
            values: by the names of the options; those that are missing get their defaults.

        Raises:
            MaerestoreError: an unknown name, or a value that an option cannot have.
        """
        surplus = sorted(set(values) - {field.name for field in fields(cls)})
        if surplus:
            raise MaerestoreError(f"unknown feature option(s): {', '.join(surplus)}")
        return cls(**values)


def _numbers(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    """A tuple of finite numbers from a number or a sequence of them."""
    if isinstance(values, (int, float)):
        values = (values,)
    good = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    wanted = (int,) if kind is int else (int, float)
    if not good or not all(
        isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value) for value in values
    ):
        what = "whole numbers" if kind is int else "numbers"
        raise MaerestoreError(f"{name} must be {what}, at least one, got {values!r}")
    return tuple(kind(value) for value in values)
