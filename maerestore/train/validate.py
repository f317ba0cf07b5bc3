"""How good the fills of a model are, on held-out photographs with fixed holes, while it trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maerestore.masking import FAMILIES, draw_mask
from maerestore.model import MaskedAutoencoder
from maerestore.model.hiding import fixed_noise
from maerestore.model.restorer import Restorer
from maerestore.model.smooth import smooth_fill


def draw_holes(images: Tensor, seed: int) -> dict[str, Tensor]:
    """One hole of each mask family for each of (N, C, S, S): (N, 1, S, S) float by family, on their device."""
    rng = np.random.default_rng(seed)
    n, size = len(images), images.shape[-1]
    return {
        family: torch.from_numpy(np.stack([draw_mask(family, size, rng) for _ in range(n)]))[:, None]
        .float()
        .to(images.device)
        for family in FAMILIES
    }


def hole_psnr(filled: Tensor, images: Tensor, hole: Tensor) -> Tensor:
    """(N,) in dB, of pictures in [0, 1] within (N, 1, S, S) holes."""
    error = ((filled - images) ** 2 * hole).sum((1, 2, 3)) / (images.shape[1] * hole.sum((1, 2, 3)))
    return -10 * torch.log10(error.clamp(min=1e-8))


def contact_sheet(columns: list[Tensor]) -> Image.Image:
    """Columns of (rows, 3, S, S) in [0, 1] as one picture."""
    sheet = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)  # (3, rows * S, columns * S)
    return Image.fromarray((sheet.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8))


class Validation:
    """Fixed photographs and holes.

    Args:
        images: (N, C, S, S) float in [0, 1].
        seed: of the holes and of the random patch mask.
        batch_size: images at a time.
    """

    def __init__(self, images: Tensor, seed: int = 1234, batch_size: int = 32) -> None:
        self.images, self.batch_size = images, batch_size
        self.holes = draw_holes(images, seed)
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
                scores.append(hole_psnr(filled, images, hole))
            result[f"psnr_{family}"] = float(torch.cat(scores).mean())
        total = 0.0
        generator = torch.Generator(self.images.device).manual_seed(self.seed)
        for i in range(0, len(self.images), self.batch_size):
            images = model.normalize(self.images[i : i + self.batch_size])
            length = (images.shape[-1] // model.config.patch_size) ** 2
            noise = torch.rand(len(images), length, generator=generator, device=images.device)
            other = fixed_noise(images, model.config.hidden)
            total += float(model(images, 0.75, noise, hidden_noise=other).loss) * len(images)
        result["masked_mse"] = total / len(self.images)
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
        other = fixed_noise(known, model.config.hidden)
        filled = model.denormalize(model.reconstruct(known, pixel_mask=unseen, hidden_noise=other)).clamp(0, 1)
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
        return contact_sheet([column.expand(-1, 3, -1, -1) for column in columns])


class RestorerValidation:
    """Fills of a restorer on fixed photographs with fixed holes.

    Args:
        images: (N, 3, S, S) float in [0, 1].
        seed: of the holes.
        batch_size: images at a time.
    """

    def __init__(self, images: Tensor, seed: int = 1234, batch_size: int = 8) -> None:
        self.images, self.batch_size = images, batch_size
        self.holes = draw_holes(images, seed)

    @torch.inference_mode()
    def measure(
        self, restorer: Restorer, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """For each mask family, means over the photographs.

        Returns:
            hole PSNR in dB of the coarse, the mean and the sharp picture; and, where a perceptual loss is given, its
            value for the sharp one and for the mean one.
        """
        restorer.eval()
        result: dict[str, float] = {}
        for family, holes in self.holes.items():
            scores: dict[str, list[Tensor]] = {}
            for i in range(0, len(self.images), self.batch_size):
                images, hole = self.images[i : i + self.batch_size], holes[i : i + self.batch_size]
                for name, filled in self.fill(restorer, images, hole).items():
                    scores.setdefault(f"{name}_psnr_{family}", []).append(hole_psnr(filled, images, hole))
                    if perceptual is not None and name != "coarse":
                        scores.setdefault(f"{name}_perceptual_{family}", []).append(perceptual(filled, images))
            result |= {name: float(torch.cat(values).mean()) for name, values in scores.items()}
        restorer.train()
        return result

    @staticmethod
    def fill(restorer: Restorer, images: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """The coarse, mean and sharp pictures pasted into the hole: (N, 3, S, S) in [0, 1]."""
        model = restorer.autoencoder
        known = model.normalize(images)
        size = model.config.image_size
        restored = restorer(known, hole, smooth_fill(known, hole), (size, size))
        pictures = {"coarse": restored.coarse, "mean": restored.mean, "sharp": restored.sharp}
        return {k: torch.where(hole > 0, model.denormalize(v).clamp(0, 1), images) for k, v in pictures.items()}

    @torch.inference_mode()
    def picture(self, restorer: Restorer, rows: int = 5) -> Image.Image:
        """Rows of photo | for each family: masked, mean, sharp."""
        restorer.eval()
        images = self.images[:rows]
        columns = [images]
        for holes in self.holes.values():
            hole = holes[:rows]
            filled = self.fill(restorer, images, hole)
            columns += [torch.where(hole > 0, 0.5, images), filled["mean"], filled["sharp"]]
        restorer.train()
        return contact_sheet(columns)
