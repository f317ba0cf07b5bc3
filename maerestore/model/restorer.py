"""The restorer: autoencoder and refiner as one network; photo, hole and smooth fill in, refined fills out.

`maerestore train-restorer` trains its refiner, and the autoencoder stays as it is unless the recipe says otherwise.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model.autoencoder import MaskedAutoencoder
from maerestore.model.refiner import Refiner


class Restored(NamedTuple):
    """Fills of a batch: (N, 3, H, W) float32, normalised.

    Attributes:
        coarse: the autoencoder's; the photo where it is known.
        mean: the refiner's with the least squared error.
        sharp: the refiner's with texture.
    """

    coarse: Tensor
    mean: Tensor
    sharp: Tensor


class Restorer(nn.Module):
    """Runs the autoencoder at a size of its own, and the refiner on what it gives.

    Args:
        autoencoder: RGB, predicts raw or normalised pixels. Where none of its parameters is trained, no gradient is
            computed for it.
        refiner: made for tokens of the autoencoder's width.

    Raises:
        ValueError: networks that do not fit each other.
    """

    def __init__(self, autoencoder: MaskedAutoencoder, refiner: Refiner) -> None:
        super().__init__()
        theirs, ours = autoencoder.config, refiner.config
        if theirs.in_chans != 3:
            raise ValueError(f"a refiner is for RGB, the autoencoder has {theirs.in_chans} channels")
        if not theirs.has_decoder:
            raise ValueError("a refiner needs an autoencoder with a decoder")
        if theirs.hidden == "noise":  # drawn anew in each pass: no fill would come out twice
            raise ValueError("the autoencoder puts noise in hidden patches: a refiner is for fills that repeat")
        if ours.feature_dim != theirs.decoder_embed_dim or ours.feature_layer > theirs.decoder_depth:
            raise ValueError(
                f"the refiner takes tokens {ours.feature_dim} wide from block {ours.feature_layer} (feature_dim, "
                f"feature_layer), the decoder is {theirs.decoder_embed_dim} wide and has {theirs.decoder_depth} blocks"
            )
        self.autoencoder, self.refiner = autoencoder, refiner

    def forward(self, *given: Any, **options: Any) -> Restored:
        """Fill holes; arguments as for `with_tokens`."""
        return self.with_tokens(*given, **options)[0]

    def with_tokens(
        self,
        photo: Tensor,
        mask: Tensor,
        smooth: Tensor,
        size: tuple[int, int],
        share: Tensor | None = None,
        unseen: Tensor | None = None,
    ) -> tuple[Restored, Tensor]:
        """Fill holes.

        Args:
            photo: (N, 3, H, W), normalised.
            mask: (N, 1, H, W), 1 = unknown.
            smooth: (N, 3, H, W), normalised: the photo with a smooth fill in the hole.
            size: (height, width) that the autoencoder sees the picture at, multiples of its patch size.
            share: (N, 1, H, W) in [0, 1]: how much of the fill to refine is the autoencoder's, the rest being the
                smooth one; all of it where not given.
            unseen: (N, 1, *size), 1 = a known pixel that the autoencoder is not shown.

        Returns:
            the fills, and the tokens that the refiner was told: (N, D, rows, columns) of the autoencoder's decoder.
        """
        full = photo.shape[2:]
        smooth = torch.where(mask > 0, smooth, photo)
        trained = any(p.requires_grad for p in self.autoencoder.parameters())
        with contextlib.nullcontext() if trained else torch.no_grad():
            model, p = self.autoencoder, self.autoencoder.config.patch_size
            seen, unknown = shrink(smooth, mask, size)
            hidden_pixels = unknown if unseen is None else torch.maximum(unknown, unseen)
            grid = (size[0] // p, size[1] // p)
            latent, hidden, ids_restore, key_mask = model.encode(
                seen, pixel_mask=hidden_pixels, padded=seen.device.type != "cpu"
            )
            keys = hidden if self.refiner.config.attention_copy else None
            states = model.decode_states(latent, ids_restore, grid, key_mask, self.refiner.config.feature_layer, keys)
            picture = model.unpatchify(model.predicted_pixels(seen, states.pred), size)
            coarse = torch.where(unknown > 0, picture, seen)
            if size != tuple(full):
                coarse = F.interpolate(coarse, size=(full[0], full[1]), mode="bicubic", align_corners=False)
            if share is not None:
                coarse = smooth + share * (coarse - smooth)
            coarse = torch.where(mask > 0, coarse, photo)
        refined = self.refiner(photo, mask, coarse, smooth, states.tokens, states.attention)
        return Restored(coarse, refined.mean, refined.sharp), states.tokens


def shrink(smooth: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A filled picture and its mask at another size: (N, C, *size) and (N, 1, *size); half unknown is unknown."""
    if size == tuple(smooth.shape[2:]):
        return smooth, mask
    smaller = size[0] * size[1] < smooth.shape[2] * smooth.shape[3]
    if smaller:
        return F.interpolate(smooth, size=size, mode="area"), (F.interpolate(mask, size=size, mode="area") >= 0.5) * 1.0
    picture = F.interpolate(smooth, size=size, mode="bicubic", align_corners=False)
    return picture, (F.interpolate(mask, size=size, mode="bilinear", align_corners=False) >= 0.5) * 1.0
