"""What the refiner is trained to make small.

    mse         squared error of its `mean` picture, in the hole and, weighted less, around it
    l1          absolute error of its `sharp` picture, there too
    perceptual  distance of features (`PerceptualLoss`) between the photo and the sharp picture pasted into it

An L1 of zero inside the hole, as LaMa has it, is blamed for colour shifts; here the sharp picture is held to the photo
everywhere. A patch discriminator may come on top (`maerestore.train.adversary`). Every term is a mean over images of
per-image values, so that the loss does not depend on how a batch is split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maerestore.model.means import weighted_mean
from maerestore.model.restorer import Restored, Restorer
from maerestore.train.losses import Composite, parse_terms
from maerestore.train.perceptual import IN_RECIPE, PerceptualLoss

RESTORER_OPTIONS: dict[str, tuple[str, ...]] = {
    "mse": (),
    "l1": (),
    "perceptual": ("backbone", "layers", "weights"),
}
"""The terms, and the options that each takes beside `weight`."""


class RestorerCriterion(nn.Module):
    """The weighted sum of the terms.

    Args:
        terms: name -> weight, or name -> mapping with `weight` and options (`maerestore.train.losses.parse_terms`). A
            term of weight 0, but a perceptual one, is measured only.

    Raises:
        LossError: terms that do not fit.
        ModelError: a perceptual backbone, layer or weights file that does not fit.
    """

    def __init__(self, terms: Mapping[str, Any]) -> None:
        super().__init__()
        self.terms = parse_terms(terms, RESTORER_OPTIONS)
        perceptual = self.terms.get("perceptual")
        self.perceptual = PerceptualLoss(**perceptual.options, hint=IN_RECIPE) if perceptual else None

    def forward(
        self, photo: Tensor, restored: Restored, weight: Tensor, pasted: Composite
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare fills with the photo.

        Args:
            photo: (N, 3, H, W), normalised.
            restored: the fills.
            weight: (N, 1, H, W), at least 0: how much each pixel counts.
            pasted: as `paste` gives it.

        Returns:
            the weighted sum, a float32 scalar, and each term's value before weighting.
        """
        total, parts = photo.new_zeros((), dtype=torch.float32), {}
        for name, term in self.terms.items():
            value = self._value(name, photo, restored, weight, pasted)
            parts[name] = value
            if term.weight > 0:
                total = total + term.weight * value
        return total, parts

    def _value(self, name: str, photo: Tensor, restored: Restored, weight: Tensor, pasted: Composite) -> Tensor:
        if name == "mse":
            return weighted_mean((restored.mean - photo) ** 2, weight)
        if name == "l1":
            return weighted_mean((restored.sharp - photo).abs(), weight)
        assert self.perceptual is not None
        return self.perceptual(pasted.picture, pasted.photo).mean()


def paste(restorer: Restorer, photo: Tensor, sharp: Tensor, hole: Tensor) -> Composite:
    """The sharp picture in the photo's hole, in [0, 1] (predictions may leave it), float32.

    Args:
        restorer: tells the normalisation.
        photo, sharp: (N, 3, H, W), normalised.
        hole: (N, 1, H, W), 1 = hole.
    """
    model = restorer.autoencoder
    true = model.denormalize(photo.float())
    return Composite(torch.where(hole > 0, model.denormalize(sharp.float()), true), true, hole)
