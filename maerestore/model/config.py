"""What defines a masked autoencoder: its sizes, and how photographs become its input."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HIDDEN = ("drop", "noise", "mean")
LARGEST_GRID = 1024  # patches along a side; a size of more comes from a damaged config


@dataclass(frozen=True)
class MAEConfig:
    """Architecture and preprocessing of a `MaskedAutoencoder`; the defaults are ViT-B/16 of the paper.

    Args:
        image_size: side of the square, in pixels, that the position table is made for. Other sizes
            (multiples of `patch_size`, rectangles too) interpolate the table in two dimensions.
        patch_size: side of a patch in pixels.
        in_chans: 1 (gray) or 3 (RGB).
        embed_dim, depth, num_heads: width, blocks and attention heads of the encoder.
        decoder_embed_dim, decoder_depth, decoder_num_heads: the same for the decoder; a depth of 0 means that there is
            no decoder at all, as in the files that hold an encoder only.
        mlp_ratio: hidden width of the MLP of a block, as a multiple of the block's width; at most 1024.
        layer_norm_eps: what every LayerNorm adds to the variance, at most 1; the authors' code uses 1e-6.
        norm_pix_loss: whether the decoder predicts pixels normalised by their patch's mean and variance; not for
            patches that hold one value.
        mask_embed: whether patches of which some pixels are unknown are embedded together with their pixel mask.
            Its weights start at zero: a run that starts from a model without it (`pretrain --init`) starts unchanged.
        hidden: what stands in a hidden patch. "drop": nothing, the encoder runs on the visible tokens only, as in the
            paper. "noise": standard normal noise; "mean": the mean colour of the image's visible pixels; the encoder
            then sees every patch. Not together with `mask_embed`.
        mean, std: statistics, per channel in [0, 1], that images are normalised with.

    Raises:
        ValueError: a size that does not fit another (named with its value).

    Example:
        >>> MAEConfig(image_size=128, patch_size=8).grid_size
        16
    """

    image_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    norm_pix_loss: bool = False
    mask_embed: bool = False
    hidden: str = "drop"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        # JSON gives lists: tuples keep the config hashable.
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        for name in (
            "image_size",
            "patch_size",
            "embed_dim",
            "depth",
            "num_heads",
            "decoder_embed_dim",
            "decoder_depth",
            "decoder_num_heads",
        ):
            value, least = getattr(self, name), 0 if name == "decoder_depth" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.in_chans not in (1, 3) or not isinstance(self.in_chans, int):
            raise ValueError(f"in_chans must be 1 or 3, got {self.in_chans!r}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        for side, heads in (("embed_dim", "num_heads"), ("decoder_embed_dim", "decoder_num_heads")):
            if getattr(self, side) % getattr(self, heads):
                raise ValueError(f"{side} {getattr(self, side)} is not a multiple of {heads} {getattr(self, heads)}")
            if getattr(self, side) % 4:
                raise ValueError(f"{side} must be a multiple of 4 for two-dimensional sin-cos positions")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise ValueError(f"{name} has {len(getattr(self, name))} values for in_chans {self.in_chans}")
        for name, most in (("mlp_ratio", 1024), ("layer_norm_eps", 1)):
            value = getattr(self, name)
            # Compared as it is: an integer of a damaged file may be too large for a float.
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
                raise ValueError(f"{name} must be a positive number of at most {most}, got {value!r}")
        if self.hidden not in HIDDEN:
            raise ValueError(f"hidden must be {', '.join(HIDDEN)}, got {self.hidden!r}")
        if self.hidden != "drop" and self.mask_embed:
            raise ValueError(f"hidden {self.hidden} hides whole patches: it does not go with mask_embed")
        for name in ("norm_pix_loss", "mask_embed"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.norm_pix_loss and self.patch_size**2 * self.in_chans == 1:
            raise ValueError("norm_pix_loss needs more than one value in a patch, got patch_size 1 and in_chans 1")
        if not all(0 < value < math.inf for value in self.std):  # also where one is NaN
            raise ValueError(f"std must be positive, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite, got {self.mean}")

    @property
    def grid_size(self) -> int:
        """Patches along a side of the square `image_size`."""
        return self.image_size // self.patch_size

    @property
    def has_decoder(self) -> bool:
        """Whether the model can reconstruct."""
        return self.decoder_depth > 0

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-able values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MAEConfig:
        """Read back what `to_dict` gave.

        Raises:
            ValueError: a key that is no field of the config, or a value that does not fit.
        """
        known = {f.name for f in fields(cls)}
        surplus = sorted(set(map(str, values)) - known)
        if surplus:
            raise ValueError(f"unknown autoencoder setting(s): {', '.join(surplus)}")
        try:
            return cls(**values)
        except TypeError as err:
            raise ValueError(f"autoencoder settings do not fit: {err}") from err
