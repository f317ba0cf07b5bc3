"""A patch discriminator: how real each part of a picture looks.

References: PatchGAN, Isola et al. 2017 (https://arxiv.org/abs/1611.07004); spectral normalisation, Miyato et al. 2018
(https://arxiv.org/abs/1802.05957).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from maerestore.errors import MaerestoreError

LAYERS = 3  # of stride 2, where a recipe says nothing


class AdversaryError(MaerestoreError):
    """A setting of the adversary that does not fit; the message names it with its value."""


class PatchDiscriminator(nn.Module):
    """Convolutions that say for each part of a picture how real it looks.

    Each value of the map stands for a square of 2^layers pixels and sits in its middle. PatchGAN's last two layers have
    even kernels without stride, which shift and shrink the map; here they are 3 x 3, so that labels lie where the
    hidden pixels are.

    No batch norm: what is said of one image must not depend on the others, nor on the process they are in.

    Args:
        in_chans: channels of the pictures.
        width: channels after the first layer; they double with each further one, up to 8 times that.
        layers: convolutions of stride 2; pictures need a side of 2^layers at least. With 3 each value sees 54 x 54
            pixels.
        norm: "spectral" (on every convolution), "group" (group norm) or "none".

    Raises:
        AdversaryError: a setting that does not fit.

    Example:
        >>> import torch
        >>> PatchDiscriminator(width=8)(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 1, 8, 12])
    """

    def __init__(self, in_chans: int = 3, width: int = 64, layers: int = LAYERS, norm: str = "spectral") -> None:
        super().__init__()
        for name, value in (("in_chans", in_chans), ("width", width), ("layers", layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise AdversaryError(f"{name} must be a whole number of at least 1, got {value!r}")
        if norm not in ("spectral", "group", "none"):
            raise AdversaryError(f"norm must be spectral, group or none, got {norm!r}")
        widths = [in_chans, *(width * min(2**i, 8) for i in range(layers + 1)), 1]
        steps: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            last = i == layers + 1
            kernel, stride = (4, 2) if i < layers else (3, 1)
            conv: nn.Module = nn.Conv2d(before, after, kernel, stride, padding=1)
            steps.append(nn.utils.parametrizations.spectral_norm(conv) if norm == "spectral" else conv)
            if norm == "group" and i > 0 and not last:
                steps.append(nn.GroupNorm(_groups(after), after))
            if not last:
                steps.append(nn.LeakyReLU(0.2))
        self.steps = nn.Sequential(*steps)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, 1, h, w), positive = looks real."""
        return self.steps(2 * pictures - 1)

    def layers(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, with what each activation gave on the way."""
        x, found = 2 * pictures - 1, []
        for step in self.steps:
            x = step(x)
            if isinstance(step, nn.LeakyReLU):
                found.append(x)
        return x, found


def _groups(channels: int) -> int:
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0)
