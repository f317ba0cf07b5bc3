"""The refiner: convolutions that turn the autoencoder's coarse fill into one that continues its surroundings.

A U-Net with dilated residual blocks at an eighth of the size. Dilated convolutions come within a few per cent of
Fourier convolutions in the ablation of LaMa (Suvorov et al. 2022, https://arxiv.org/abs/2109.07161), and run in
bfloat16 and ONNX. As in MAE-FAR (Cao et al. 2022, https://arxiv.org/abs/2208.01837), tokens of the autoencoder's
decoder are added at several scales through gains that start at zero, and the decoder's attention copies features from
known places to hidden ones.

Two pictures come out of one pass: `mean`, trained for the least squared error, and `sharp`, trained to look right.
Both are the coarse fill plus a correction that starts at zero. In the comments N is the batch, H x W the picture,
D the decoder's width, h x w the grid of its tokens, C channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8  # of the dilated blocks


@dataclass(frozen=True)
class RefinerConfig:
    """Sizes of a refiner.

    Args:
        feature_dim: D, width of the autoencoder's decoder.
        feature_layer: decoder blocks that the tokens have been through, 1 to the decoder's depth.
        widths: channels at full size, 1/2, 1/4 and 1/8.
        dilations: of the residual blocks at 1/8, one for each.
        attention_copy: whether the decoder's attention copies features.

    Raises:
        ValueError: a setting that is out of range.
    """

    feature_dim: int
    feature_layer: int = 3
    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    attention_copy: bool = True

    def __post_init__(self) -> None:
        for name in ("widths", "dilations"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not value or not all(_whole(v) for v in value):
                raise ValueError(f"{name} must be whole numbers of at least 1, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        for name in ("feature_dim", "feature_layer"):
            if not _whole(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}")
        if len(self.widths) != 4:
            raise ValueError(f"widths must be 4 numbers, got {self.widths}")
        if self.widths[3] % 8:
            raise ValueError(f"the last of widths must be a multiple of 8, got {self.widths[3]}")
        if not isinstance(self.attention_copy, bool):
            raise ValueError(f"attention_copy must be true or false, got {self.attention_copy!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class Refined(NamedTuple):
    """What the refiner gives: (N, 3, H, W) each, in the normalisation of its inputs.

    Known pixels are drawn too, so that they can be learned from; the photo is pasted over them by whoever uses a fill.

    Attributes:
        mean: with the least squared error: the middle of all that may be there, smooth where that is uncertain.
        sharp: one of the things that may be there, with texture.
    """

    mean: Tensor
    sharp: Tensor


class Refiner(nn.Module):
    """Improve a fill.

    Convention:
        Pictures are (N, 3, H, W) float in the autoencoder's normalisation, of any size. `mask` is (N, 1, H, W),
        1 = unknown; what pictures hold there is never seen, except in `coarse` and `smooth`. Deterministic.

    Args:
        config: sizes.

    Example:
        >>> refiner = Refiner(RefinerConfig(feature_dim=8, widths=(4, 4, 8, 8), dilations=(1, 2)))
        >>> photo, mask, coarse = torch.zeros(1, 3, 40, 56), torch.zeros(1, 1, 40, 56), torch.ones(1, 3, 40, 56)
        >>> mask[..., 8:24, 8:24] = 1
        >>> out = refiner(photo, mask, coarse, coarse, torch.zeros(1, 8, 5, 7))
        >>> out.mean.shape, float(out.mean.sum())  # untrained: the coarse fill in the hole, the photo elsewhere
        (torch.Size([1, 3, 40, 56]), 768.0)
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.widths
        self.stem = nn.Conv2d(7, a, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in ((a, b), (b, c), (c, d)))
        self.blocks = nn.ModuleList(DilatedBlock(d, dilation) for dilation in config.dilations)
        self.narrow = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in ((d, c), (c, b), (b, a)))
        self.up = nn.ModuleList(nn.Conv2d(o, o, 3, padding=1) for o in (c, b, a))
        # Tokens of the decoder, by scale: 1/8, 1/4, 1/2.
        self.tokens = nn.ModuleList(Gained(config.feature_dim, width) for width in (d, c, b))
        self.copied = Gained(d, d) if config.attention_copy else None
        self.head = nn.Conv2d(a, 6, 3, padding=1)
        if not self.head.weight.is_meta:  # as in the autoencoder
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)  # untrained, the coarse fill comes back

    def forward(
        self,
        photo: Tensor,
        mask: Tensor,
        coarse: Tensor,
        smooth: Tensor,
        tokens: Tensor,
        attention: Tensor | None = None,
    ) -> Refined:
        """Refine a fill.

        Args:
            photo: (N, 3, H, W).
            mask: (N, 1, H, W), 1 = unknown.
            coarse: (N, 3, H, W), the autoencoder's fill; read in the hole only.
            smooth: (N, 3, H, W), the harmonic fill; read in the hole only.
            tokens: (N, D, h, w), of the autoencoder's decoder.
            attention: (N, h*w, h*w), rows sum to 1: from which known tokens each token takes; see
                `maerestore.model.MaskedAutoencoder.decode_states`. Without it nothing is copied.
        """
        height, width = photo.shape[2:]
        unknown = mask > 0
        base = torch.where(unknown, coarse, photo)
        x = torch.cat([base, mask, torch.where(unknown, smooth - coarse, 0.0)], dim=1)  # (N, 7, H, W)
        # Whole cells of an eighth: the margin repeats the border.
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        x = F.leaky_relu(self.stem(x), 0.1)
        skips = []
        for conv in self.down:
            skips.append(x)
            x = F.leaky_relu(conv(x), 0.1)
        x = x + self.tokens[0](tokens, x.shape[2:])  # (N, C, H/8, W/8)
        if self.copied is not None and attention is not None:
            x = x + self.copied(self._copy(x, mask, attention, tokens.shape[2:]), x.shape[2:])
        for block in self.blocks:
            x = block(x)
        for i, (narrow, conv) in enumerate(zip(self.narrow, self.up, strict=True)):
            skip = skips[-1 - i]
            x = _doubled(narrow(x)) + skip
            if i < 2:
                x = x + self.tokens[i + 1](tokens, x.shape[2:])
            x = F.leaky_relu(conv(x), 0.1)
        correction = self.head(x)[:, :, :height, :width].float()
        mean, sharp = correction.chunk(2, dim=1)
        return Refined(base + mean, base + sharp)

    def _copy(self, x: Tensor, mask: Tensor, attention: Tensor, grid: torch.Size) -> Tensor:
        """For the hidden part of each token's cell, the features that its attention brings: (N, C, h, w)."""
        cells = F.adaptive_avg_pool2d(x, (grid[0], grid[1])).flatten(2)  # (N, C, h*w)
        brought = (cells @ attention.transpose(1, 2).to(cells.dtype)).unflatten(2, (grid[0], grid[1]))
        return brought * F.adaptive_avg_pool2d(mask, (grid[0], grid[1]))


def _doubled(x: Tensor) -> Tensor:
    """Each value four times: (N, C, h, w) -> (N, C, 2 h, 2 w)."""
    if torch.compiler.is_compiling() and x.requires_grad:  # compiled, the gradient of the other is a slow scatter
        n, c, height, width = x.shape
        return x[:, :, :, None, :, None].expand(n, c, height, 2, width, 2).reshape(n, c, 2 * height, 2 * width)
    return F.interpolate(x, scale_factor=2.0)


class DilatedBlock(nn.Module):
    """Two convolutions around a residual; the first one is dilated."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        groups = 8 if width > 8 else 4  # of more than one number, in a picture of 8 px too
        self.norm1, self.norm2 = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        h = self.conv1(F.leaky_relu(self.norm1(x), 0.1))
        return x + self.conv2(F.leaky_relu(self.norm2(h), 0.1))


class Gained(nn.Module):
    """A projection to other channels, enlarged to another size, times a gain for each channel that starts at zero."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, out_chans, 1)
        self.gain = nn.Parameter(torch.zeros(out_chans))

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """(N, in_chans, h, w) -> (N, out_chans, *size)."""
        # Scaled before it is enlarged: there it is small.
        small = self.proj(x) * self.gain[:, None, None]
        return F.interpolate(small, size=(size[0], size[1]), mode="bilinear", align_corners=False)
