"""The parts of a vision transformer: patch embedding, attention, MLP, block.

In the comments N is the batch, T the number of tokens, D their width, p the patch size.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model.config import MAEConfig

MASK_WEIGHT = "patch_embed.mask_proj.weight"
"""What a model with `mask_embed` has beside the weights of one without."""


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: (N, heads, T, D / heads) each; `key_mask` (N, 1, 1, T), False = no such token."""
    # For the few hundred tokens of a window, plain products train 2 to 6 times faster on a CPU than the fused kernel,
    # and in bfloat16 run 1.5 times faster; in float32, without gradients, the fused kernel is twice as fast.
    plain = q.device.type == "cpu" and q.shape[-2] <= 512 and (q.requires_grad or q.dtype == torch.bfloat16)
    if not plain:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (N, heads, T, T)
    if key_mask is not None:
        weights = weights.masked_fill(~key_mask, float("-inf"))
    return weights.softmax(-1) @ v


def _as_they_are(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which products of float32 are float32; none where they are so anyway, as exported graphs hold it."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def class_weights(self, x: Tensor) -> Tensor:
        """What the first token attends to, the mean over the heads: (N, T, D) -> (N, T)."""
        return self.mean_weights(x, slice(0, 1))[:, 0]

    def mean_weights(self, x: Tensor, queries: slice = slice(None)) -> Tensor:
        """What tokens attend to, the mean over the heads, in float32: (N, T, D) -> (N, number of queries, T)."""
        n, t, d = x.shape
        q, k, _ = self.qkv(x).reshape(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        with _as_they_are(x):
            logits = (q[:, :, queries].float() * (d // self.num_heads) ** -0.5) @ k.float().transpose(-2, -1)
            return logits.softmax(-1).mean(1)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        x = attend(q, k, v, key_mask)  # (N, heads, T, D / heads)
        return self.proj(x.transpose(1, 2).reshape(n, t, d))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, layer_norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def class_attention(self, x: Tensor) -> Tensor:
        """What the class token attends to in this block: (N, T, D) -> (N, T), rows sum to 1."""
        return self.attn.class_weights(self.norm1(x))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), key_mask)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Image to patch tokens; with a pixel mask, partly known patches tell which of their pixels are known."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        p, d = config.patch_size, config.embed_dim
        self.proj = nn.Conv2d(config.in_chans, d, kernel_size=p, stride=p)
        self.mask_proj = nn.Conv2d(1, d, kernel_size=p, stride=p, bias=False) if config.mask_embed else None

    def forward(self, images: Tensor, pixel_mask: Tensor | None = None) -> Tensor:
        project = by_convolution if images.device.type == "cpu" else by_product
        if pixel_mask is None or self.mask_proj is None:
            return project(self.proj, images)
        # Chosen, not multiplied: whatever stands at an unknown pixel, NaN even, must not get in.
        known = torch.where(pixel_mask > 0.5, 0.0, images)
        return project(self.proj, known) + project(self.mask_proj, pixel_mask.to(images.dtype))


def by_convolution(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Tokens of patches: (N, C, H, W) -> (N, L, D)."""
    return conv(images).flatten(2).transpose(1, 2)  # (N, D, H/p, W/p) -> (N, L, D)


def by_product(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """The same as a matrix product, which GPUs have fast kernels for; for such a convolution they have none."""
    n, c, h, w = images.shape
    p = conv.kernel_size[0]
    patches = images.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return F.linear(patches.reshape(n, (h // p) * (w // p), c * p * p), conv.weight.flatten(1), conv.bias)
