"""What a masked-reconstruction view is like: the settings that every host shares. Nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from maerestore.errors import MaerestoreError

# As `maerestore.masking.patches.POLICIES`, which would load torch.
STRATEGIES = ("random", "block", "grid", "attention", "attention-keep")


@dataclass(frozen=True)
class ViewSettings:
    """How an image is hidden and rebuilt.

    Args:
        mask_ratio: share of the patches that are hidden, in [0, 1]: a number, or a range (low, high). Of a range five
            values are used, evenly spread: the network sees few different numbers of tokens, and so few shapes. Kept
            as a tuple (low, high).
        strategy: which patches are hidden. "random"; "block", rectangles; "grid", evenly spread; "attention", those
            that the class token looks at most; "attention-keep", all but those, as in the paper. The names are those
            of `maerestore show --policy`.
        blend: share of the reconstruction in hidden patches, in [0, 1]; the rest is the image.
        model: the bundled "augment", or anything else that names a model: a folder, a file, "org/name[@revision]".
        size: the model sees an image at about this many pixels squared, with its aspect ratio; None for the model's
            own `image_size`. Smaller is faster: the cost goes with its square.

    Raises:
        MaerestoreError: a value that does not fit, named.

    Reference: "Masked Autoencoders are Robust Data Augmentors", https://arxiv.org/abs/2206.04846.

    Example:
        >>> ViewSettings(mask_ratio=0.5).mask_ratio
        (0.5, 0.5)
        >>> ViewSettings(strategy="spiral")
        Traceback (most recent call last):
        maerestore.errors.MaerestoreError: strategy must be one of random, block, grid, attention, attention-keep, got \
'spiral'
    """

    mask_ratio: float | tuple[float, float] = (0.4, 0.75)
    strategy: str = "random"
    blend: float = 1.0
    model: str = "augment"
    size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_ratio", _span(self.mask_ratio))
        object.__setattr__(self, "blend", check_share("blend", self.blend))
        if self.strategy not in STRATEGIES:
            raise MaerestoreError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        name: Any = self.model
        name = fspath(name) if isinstance(name, PathLike) else name
        if not isinstance(name, str) or not name:
            raise MaerestoreError(f"model must be the name of a model, got {name!r}")
        object.__setattr__(self, "model", name)
        if self.size is not None:
            if not isinstance(self.size, Integral) or isinstance(self.size, bool) or self.size < 1:
                raise MaerestoreError(f"size must be None or a whole number of pixels of at least 1, got {self.size!r}")
            object.__setattr__(self, "size", int(self.size))

    @property
    def ratio_range(self) -> tuple[float, float]:
        """`mask_ratio`, as (low, high)."""
        assert isinstance(self.mask_ratio, tuple)
        return self.mask_ratio

    @property
    def changes_nothing(self) -> bool:
        """Whether every view equals its image, so that no model is needed."""
        return self.blend == 0 or self.ratio_range[1] == 0

    def to_dict(self) -> dict[str, Any]:
        """The settings as keyword arguments."""
        return asdict(self)


def check_share(name: str, value: Any) -> float:
    """A number in [0, 1], as a float.

    Raises:
        MaerestoreError: anything else; the message names it.

    Example:
        >>> check_share("p", 1)
        1.0
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise MaerestoreError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def _span(value: Any) -> tuple[float, float]:
    ends = (value, value) if _is_number(value) else value
    if (
        not isinstance(ends, Sequence)
        or isinstance(ends, (str, bytes))
        or len(ends) != 2
        or not all(map(_is_number, ends))
    ):
        raise MaerestoreError(f"mask_ratio must be a number or a pair (low, high), got {value!r}")
    low, high = float(ends[0]), float(ends[1])
    if not 0 <= low <= high <= 1:
        raise MaerestoreError(f"mask_ratio must lie in [0, 1], low first, got {value!r}")
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
