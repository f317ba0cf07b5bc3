"""Model and loss as one module: what a step differentiates, and what processes share."""

from __future__ import annotations

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
        hidden_noise: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Hide, encode, decode, compare.

        Args:
            images: (N, C, H, W), normalised.
            mask: (N, L), 1 = removed.
            num_visible: patches that every row of `mask` keeps.
            pixel_mask: (N, 1, H, W), 1 = unknown.
            pixel_weight: (N, 1, H, W), weight of each pixel in the loss.
            hidden_noise: (N, C, H, W), what stands in hidden patches where the model's `hidden` is "noise".

        Returns:
            the loss, its terms by name (before their weights), and the prediction (N, L, p*p*C).
        """
        p = self.model.config.patch_size
        latent, _, ids_restore, key_mask = self.model.encode(
            images, mask=mask, pixel_mask=pixel_mask, num_visible=num_visible, hidden_noise=hidden_noise
        )
        pred = self.model.decode(latent, ids_restore, (images.shape[2] // p, images.shape[3] // p), key_mask)
        loss, parts = self.criterion(self.model, images, pred, mask, pixel_weight)
        return loss, parts, pred
