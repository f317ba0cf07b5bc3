"""Distance between pictures as a frozen classification network sees them.

References: "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (Johnson et al. 2016,
https://arxiv.org/abs/1603.08155), whose VGG-16 layers are the default. Features are compared as in "The Unreasonable
Effectiveness of Deep Features as a Perceptual Metric" (Zhang et al. 2018, https://arxiv.org/abs/1801.03924) without its
learned heads: each position's channels scaled to unit length, so that layers of any network weigh alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from maerestore.hub.errors import ModelError
from maerestore.train.frozen import FrozenNetwork, check_backbone

LAYERS: dict[str, tuple[str, ...]] = {
    "vgg16": ("features.3", "features.8", "features.15", "features.22"),  # relu1_2, relu2_2, relu3_3, relu4_3
    "resnet50": ("relu", "layer1", "layer2", "layer3"),
    "squeezenet1_1": ("features.1", "features.4", "features.7", "features.12"),
    "mobilenet_v2": ("features.1", "features.3", "features.6", "features.13"),
}
"""Where features are taken when no layers are named: strides 1 or 2 up to 8 or 16."""

IN_RECIPE = " (--set loss.perceptual.weights=FILE), or do without the loss (--set loss.perceptual.weight=0)"
"""The `hint` of where the loss is a term of a recipe."""

_EPSILON = 1e-6  # under the root: keeps the gradient finite where all channels are 0


class PerceptualLoss(FrozenNetwork):
    """Mean squared distance between unit-length features of a picture and of its target; computed in float32.

    Args:
        backbone, weights, hint: as for `FrozenNetwork`.
        layers: likewise; the default is `LAYERS[backbone]`.

    Raises:
        ModelError: an unknown backbone or layer, no weights named, or a file that does not fit.

    Example:
        >>> loss = PerceptualLoss("squeezenet1_1", weights="random")
        >>> photo = torch.rand(2, 3, 32, 32)
        >>> loss(photo, photo).tolist()
        [0.0, 0.0]
    """

    def __init__(
        self,
        backbone: str = "vgg16",
        layers: Sequence[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        hint: str = "",
    ) -> None:
        if layers is None:
            check_backbone(backbone)
            if backbone not in LAYERS:
                raise ModelError(f"layers of {backbone} must be named: defaults are known for {', '.join(LAYERS)}")
            layers = LAYERS[backbone]
        super().__init__(backbone, layers, weights, hint)

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """Compare pictures with their targets.

        Args:
            pictures, targets: (N, C, H, W) in [0, 1], C 1 (repeated) or 3; gradients flow to the pictures only.

        Returns:
            (N,) float32: for each image the mean over the layers of the squared distance, itself the mean over the
            positions.
        """
        with torch.no_grad():
            wanted = [_unit(y.float()) for y in self.features(targets)]
        found = [_unit(y.float()) for y in self.features(pictures)]
        distances = [((a - b) ** 2).sum(1).mean((1, 2)) for a, b in zip(found, wanted, strict=True)]
        return torch.stack(distances).mean(0)


def _unit(features: Tensor) -> Tensor:
    return features * (features.pow(2).sum(1, keepdim=True) + _EPSILON).rsqrt()
