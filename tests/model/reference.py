"""A masked autoencoder in the style of the authors' code, on timm's blocks: what published checkpoints were made by.

Its parameter names are theirs, and nothing of it comes from the package under test.
"""

import functools

import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn


class ReferenceMAE(nn.Module):
    def __init__(self, size=32, patch=8, width=32, depth=2, heads=2, narrow=16, decoder_depth=1, decoder_heads=2,
                 norm_pix_loss=False):  # fmt: skip
        super().__init__()
        norm = functools.partial(nn.LayerNorm, eps=1e-6)
        self.patch_embed = PatchEmbed(size, patch, 3, width)
        length = self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, length + 1, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, 4, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)
        self.decoder_embed = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(torch.randn(1, 1, narrow))
        self.decoder_pos_embed = nn.Parameter(torch.randn(1, length + 1, narrow), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(narrow, decoder_heads, 4, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth)
        )
        self.decoder_norm = norm(narrow)
        self.decoder_pred = nn.Linear(narrow, patch**2 * 3)
        self.norm_pix_loss = norm_pix_loss
        with torch.no_grad():
            for name, value in self.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    value += 0.1 * torch.randn_like(value)

    def encode(self, images, ratio, noise):
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        order = noise.argsort(1)
        keep = int(x.shape[1] * (1 - ratio))
        x = torch.stack([row[ids[:keep]] for row, ids in zip(x, order, strict=True)])
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), order, keep

    def forward(self, images, ratio, noise):
        """features, prediction, loss"""
        latent, order, keep = self.encode(images, ratio, noise)
        x = self.decoder_embed(latent)
        tokens = self.mask_token.expand(len(x), order.shape[1], -1).clone()
        for row in range(len(x)):
            tokens[row, order[row, :keep]] = x[row, 1:]
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        p = self.patch_embed.patch_size[0]
        target = torch.stack([
            torch.stack([
                image[:, y : y + p, x : x + p].permute(1, 2, 0).flatten()
                for y in range(0, image.shape[1], p) for x in range(0, image.shape[2], p)
            ])
            for image in images
        ])  # fmt: skip
        if self.norm_pix_loss:
            target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        error = ((prediction - target) ** 2).mean(2)
        hidden = [error[row, order[row, keep:]] for row in range(len(error))]
        return latent, prediction, torch.cat(hidden).mean()
