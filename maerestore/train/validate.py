"""How good the fills of a model are, on held-out photographs with fixed holes, while it trains."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maerestore.masking import FAMILIES, draw_mask
from maerestore.model import MaskedAutoencoder


class Validation:
    """Fixed photographs and holes.

    Args:
        images: (N, C, S, S) float in [0, 1].
        seed: of the holes and of the random patch mask.
        batch_size: images at a time.
    """

    def __init__(self, images: Tensor, seed: int = 1234, batch_size: int = 32) -> None:
        self.images, self.batch_size = images, batch_size
        n, size = len(images), images.shape[-1]
        rng = np.random.default_rng(seed)
        self.holes = {
            family: torch.from_numpy(np.stack([draw_mask(family, size, rng) for _ in range(n)]))[:, None]
            .float()
            .to(images.device)
            for family in FAMILIES
        }
        self.seed = seed

    @torch.inference_mode()
    def measure(self, model: MaskedAutoencoder) -> dict[str, float]:
        """Mean hole PSNR in dB for every mask family, and the masked MSE of the paper's 75 % patch masks."""
        model.eval()
        result = {}
        for family, holes in self.holes.items():
            scores = []
            for i in range(0, len(self.images), self.batch_size):
                images, hole = self.images[i : i + self.batch_size], holes[i : i + self.batch_size]
                filled = self.fill(model, images, hole)
                error = ((filled - images) ** 2 * hole).sum((1, 2, 3)) / (images.shape[1] * hole.sum((1, 2, 3)))
                scores.append(-10 * torch.log10(error.clamp(min=1e-8)))
            result[f"psnr_{family}"] = float(torch.cat(scores).mean())
        losses = []
        generator = torch.Generator(self.images.device).manual_seed(self.seed)
        for i in range(0, len(self.images), self.batch_size):
            images = model.normalize(self.images[i : i + self.batch_size])
            length = (images.shape[-1] // model.config.patch_size) ** 2
            noise = torch.rand(len(images), length, generator=generator, device=images.device)
            losses.append(model(images, 0.75, noise).loss)
        result["masked_mse"] = float(torch.stack(losses).mean())
        model.train()
        return result

    @staticmethod
    def fill(model: MaskedAutoencoder, images: Tensor, hole: Tensor) -> Tensor:
        """Paste the decoder's pixels into the hole: (N, C, S, S) in [0, 1].

        Unknown pixels never reach the model; one that predicts normalised pixels is told their mean and variance. A
        model that never saw a partly known patch gets no patch that the hole touches.
        """
        known, unseen = model.normalize(images), hole
        if not model.config.mask_embed:
            touched = F.max_pool2d(hole, model.config.patch_size)
            unseen = F.interpolate(touched, scale_factor=float(model.config.patch_size))
        if not model.config.norm_pix_loss:
            known = known * (1 - unseen)
        filled = model.denormalize(model.reconstruct(known, pixel_mask=unseen)).clamp(0, 1)
        return torch.where(hole > 0, filled, images)

    @torch.inference_mode()
    def picture(self, model: MaskedAutoencoder, rows: int = 6) -> Image.Image:
        """Rows of photo | for each family: masked, filled."""
        model.eval()
        images = self.images[:rows]
        columns = [images]
        for holes in self.holes.values():
            hole = holes[:rows]
            columns += [torch.where(hole > 0, 0.5, images), self.fill(model, images, hole)]
        model.train()
        columns = [column.expand(-1, 3, -1, -1) for column in columns]
        sheet = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)  # (3, rows * S, columns * S)
        return Image.fromarray((sheet.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8))
