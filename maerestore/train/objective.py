"""Model and loss as one module: what a step differentiates, what `torch.compile` sees, what processes share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model import MaskedAutoencoder
from maerestore.train.losses import Criterion


class Objective(nn.Module):
    """A pass through the autoencoder and the criterion.

    Args:
        model: what is trained.
        criterion: the losses.
    """

    def __init__(self, model: MaskedAutoencoder, criterion: Criterion) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(
        self,
        images: Tensor,
        mask: Tensor,
        num_visible: int,
        pixel_mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Hide, encode, decode, compare.

        Args:
            images: (N, C, H, W), normalised: the targets, and what is seen where `seen` is None.
            mask: (N, L), 1 = removed.
            num_visible: patches that every row of `mask` keeps.
            pixel_mask: (N, 1, H, W), 1 = unknown.
            pixel_weight: (N, 1, H, W), weight of each pixel in the loss.
            seen: (N, C, H, W), images with something else in the hidden patches: the encoder takes all of them.

        Returns:
            the loss, its terms by name (before their weights), and the prediction (N, L, p*p*C).
        """
        p = self.model.config.patch_size
        if seen is None:
            latent, _, ids_restore, key_mask = self.model.encode(
                images, mask=mask, pixel_mask=pixel_mask, num_visible=num_visible
            )
        else:
            latent, _, ids_restore, key_mask = self.model.encode(seen)
        pred = self.model.decode(latent, ids_restore, (images.shape[2] // p, images.shape[3] // p), key_mask)
        loss, parts = self.criterion(self.model, images, pred, mask, pixel_weight)
        return loss, parts, pred


def replace_hidden(
    images: Tensor, mask: Tensor, hidden: str, total: int, part: slice, generator: torch.Generator
) -> Tensor:
    """Images with noise, or the mean colour of their visible pixels, in the hidden patches.

    Args:
        images: (n, C, H, W), normalised; the `part` of a batch of `total`.
        mask: (n, L), 1 = removed.
        hidden: "noise" or "mean".
        total, part: noise is drawn for the whole batch, so that processes with a part each agree with one that has all.
        generator: where the noise comes from.

    Returns:
        (n, C, H, W).
    """
    n, _, height, width = images.shape
    across = round((mask.shape[1] * width / height) ** 0.5)
    area = F.interpolate(mask.reshape(n, 1, -1, across), size=(height, width))  # (n, 1, H, W)
    if hidden == "noise":
        shape = (total, *images.shape[1:])
        other = torch.randn(shape, generator=generator, device=images.device)[part]
    else:
        visible = (1 - area).sum((2, 3), keepdim=True).clamp(min=1)
        other = ((images * (1 - area)).sum((2, 3), keepdim=True) / visible).expand_as(images)
    return torch.where(area > 0, other, images)
