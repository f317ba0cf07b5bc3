"""A frozen network as teacher: the encoder learns to see in a view what the network sees in it.

References: "Knowledge distillation: A good teacher is patient and consistent" (Beyer et al. 2022,
https://arxiv.org/abs/2106.05237), whose teacher sees the very crop that the student sees; and "FitNets" (Romero et al.
2015, https://arxiv.org/abs/1412.6550) for features in the place of class probabilities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.hub.errors import ModelError
from maerestore.train.contrastive_settings import TeacherSettings
from maerestore.train.frozen import FrozenNetwork

_IN_RECIPE = " (--set contrastive.teacher.weights=FILE), or do without a teacher (--set contrastive.teacher=null)"


class Teacher(FrozenNetwork):
    """One vector a picture from a classification network.

    Args:
        settings: of the recipe.

    Raises:
        ModelError: an unknown backbone or layer, no weights named, or a file that does not fit.

    Example:
        >>> teacher = Teacher(TeacherSettings(backbone="squeezenet1_1", weights="random"))
        >>> teacher(torch.rand(2, 3, 64, 64)).shape, teacher.dim
        (torch.Size([2, 512]), 512)
    """

    def __init__(self, settings: TeacherSettings) -> None:
        super().__init__(settings.backbone, [settings.layer], settings.weights, _IN_RECIPE)
        self.side = settings.side
        self.to(memory_format=torch.channels_last)  # three times as fast on a CPU
        (shape,) = self.shapes(settings.side)
        # Channels that come last, as a Swin's, would be taken for positions: then the second length follows the side.
        if len(shape) not in (2, 4) or (len(shape) == 4 and self.shapes(2 * settings.side)[0][1] != shape[1]):
            raise ModelError(f"layer {settings.layer} of {settings.backbone} gives neither (N, C) nor (N, C, H, W)")
        self.dim = shape[1]

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """What the network makes of pictures.

        Args:
            pictures: (N, C, H, W) in [0, 1], C 1 or 3; they are resized to the teacher's side.

        Returns:
            (N, dim) float32, each of length 1: the layer's output, its mean over the positions where it is a map.
        """
        # A few at a time stay in the caches of a CPU: more than twice as fast.
        parts = pictures.split(16 if pictures.device.type == "cpu" else 256)
        return torch.cat([self._vectors(part) for part in parts])

    def _vectors(self, pictures: Tensor) -> Tensor:
        pictures = F.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        (found,) = self.features(pictures.contiguous(memory_format=torch.channels_last))
        return F.normalize(found.float().mean((2, 3)) if found.ndim > 2 else found.float(), dim=1)


def disagreement(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean of 1 - cosine between (N, D) vectors and those of the teacher: 0 where all point the same way, at most 2.

    Example:
        >>> wanted = torch.eye(2)
        >>> float(disagreement(3 * wanted, wanted)), float(disagreement(wanted.flip(0), wanted))
        (0.0, 1.0)
    """
    return 1 - F.cosine_similarity(found.float(), wanted, dim=1).mean()
