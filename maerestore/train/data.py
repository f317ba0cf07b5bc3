"""Batches for pretraining: crops and masks are made on the training device, from uint8 held in memory.

A small corpus is decoded once (`maerestore.train.packing`), so the loader is a gather, a resampling and a mask look-up,
and the device waits for none of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.masking import draw_many, rim
from maerestore.train.packing import DataError, held_out


class PackedPhotos:
    """A packed folder, split into training and held-out photographs.

    Args:
        folder: what `maerestore.train.packing.pack` wrote.
        device: where the pixels are kept; on "cpu" they stay on disk, mapped into memory.

    Raises:
        DataError: no packed folder there.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not (folder / "pixels.npy").is_file():
            raise DataError(f"{folder}: no packed photographs there; make them with scripts/prepare_data.py")
        index = json.loads((folder / "index.json").read_text())
        pixels = torch.from_numpy(np.load(folder / "pixels.npy", mmap_mode="c"))  # "c": torch wants it writable
        self.pixels = pixels if device.type == "cpu" else pixels.to(device)  # (M, S, B, 3) uint8
        self.sizes = torch.from_numpy(np.load(folder / "sizes.npy")).to(device)  # (M, 3): height, width, turned
        self.sha256: str = index["sha256"]
        aside = torch.tensor([held_out(name) for name in index["names"]])
        self.train_ids = torch.nonzero(~aside).flatten().to(device)
        self.held_ids = torch.nonzero(aside).flatten().to(device)
        if len(self.train_ids) == 0:
            raise DataError(f"{folder}: no photograph left to train on")

    def crops(self, ids: Tensor, out: int, boxes: Tensor, flip: Tensor) -> Tensor:
        """Cut and scale squares.

        Args:
            ids: (N,) which photographs.
            out: side of the result in pixels.
            boxes: (N, 4) top, left, height, width in pixels of the stored photograph.
            flip: (N,) bool, mirror left to right.

        Returns:
            (N, 3, out, out) float32 in [0, 1].
        """
        canvas = self.pixels[ids.to(self.pixels.device)]  # (N, S, B, 3)
        canvas = canvas.permute(0, 3, 1, 2).float() / 255
        short, long = canvas.shape[2:]
        # Bilinear sampling aliases below half size: sample finer, then average.
        finer = max(1, round(short / out / 1.5))
        side = out * finer
        steps = (torch.arange(side, device=canvas.device) + 0.5) / side
        y = boxes[:, :1] + boxes[:, 2:3] * steps  # (N, side), pixels
        x = boxes[:, 1:2] + boxes[:, 3:] * steps
        # Right of a photo narrower than the canvas lies black: sampling must not reach into it.
        x = torch.minimum(x, self.sizes[ids, 1, None] - 0.5)
        grid = torch.stack(
            [(2 * x / long - 1)[:, None].expand(-1, side, -1), (2 * y / short - 1)[:, :, None].expand(-1, -1, side)],
            dim=-1,
        )
        images = F.grid_sample(canvas, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if finer > 1:
            images = F.avg_pool2d(images, finer)
        turned = self.sizes[ids, 2].bool()
        images = torch.where(turned[:, None, None, None], images.transpose(2, 3), images)
        return torch.where(flip[:, None, None, None], images.flip(3), images)

    def random_crops(self, count: int, out: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
        """Random resized crops (aspect 3/4 to 4/3) with flips, as MAE pretraining uses: (count, 3, out, out)."""
        device = self.sizes.device
        ids = self.train_ids[torch.randint(len(self.train_ids), (count,), generator=generator, device=device)]
        u = torch.rand(5, count, generator=generator, device=device)
        height, width = self.sizes[ids, 0].float(), self.sizes[ids, 1].float()
        area = height * width * (scale[0] + u[0] * (scale[1] - scale[0]))
        ratio = torch.exp((2 * u[1] - 1) * np.log(4 / 3))
        h = torch.minimum((area / ratio).sqrt(), height)
        w = torch.minimum((area * ratio).sqrt(), width)
        boxes = torch.stack([u[2] * (height - h), u[3] * (width - w), h, w], dim=1)
        return self.crops(ids, out, boxes, u[4] < 0.5)

    def centre_crops(self, ids: Tensor, out: int) -> Tensor:
        """The middle square of each photograph: (N, 3, out, out)."""
        sizes = self.sizes[ids].float()
        side = sizes[:, :2].min(dim=1).values
        boxes = torch.stack([(sizes[:, 0] - side) / 2, (sizes[:, 1] - side) / 2, side, side], dim=1)
        return self.crops(ids, out, boxes, torch.zeros(len(ids), dtype=torch.bool, device=ids.device))


@dataclass
class MaskBatch:
    """The masks of one training step.

    Attributes:
        mask: (N, L) float, 1 = removed; every row keeps exactly `num_visible`.
        num_visible: K.
        pixel_mask: (N, 1, H, W) float, 1 = unknown; None where only whole patches are hidden.
        pixel_weight: (N, 1, H, W) float, the weight of each pixel in the loss; None for the plain patch loss.
    """

    mask: Tensor
    num_visible: int
    pixel_mask: Tensor | None = None
    pixel_weight: Tensor | None = None


class MaskBank:
    """Free-form holes drawn once, then looked up, flipped and transposed; mixed with random patch masks.

    Batches have static shapes: holes are sorted by how many patches they leave visible, a batch draws from one stretch
    of that order, and rows with patches to spare lose random ones.

    Args:
        size: side of the images in pixels.
        patch_size: side of a patch in pixels.
        families: weight of each mask family (`maerestore.masking`).
        count: holes to draw.
        rim_width: known pixels up to this many pixels from the hole count in the loss too.
        rim_weight: how much one of them counts, beside 1 for a hidden pixel.
        seed: of the holes.
        device: where they are kept.
    """

    BUCKETS = 8

    def __init__(
        self,
        size: int,
        patch_size: int,
        families: dict[str, float],
        count: int,
        rim_width: int,
        rim_weight: float,
        seed: int,
        device: torch.device,
    ) -> None:
        holes = draw_many(families, count, size, seed)
        rims = np.stack([rim(hole, rim_width) for hole in holes])
        self.patch_size, self.grid, self.rim_weight, self.device = patch_size, size // patch_size, rim_weight, device
        share = holes.reshape(count, self.grid, patch_size, self.grid, patch_size).mean((2, 4))
        visible = (share < 1).sum((1, 2))  # patches with at least one known pixel
        order = np.argsort(visible, kind="stable")
        # 0 known, 1 rim, 2 hole: one byte a pixel
        self.holes = torch.from_numpy((2 * holes + rims)[order]).to(device)  # (count, size, size)
        self.visible = torch.from_numpy(visible[order])

    def random_patches(self, n: int, ratio: float, generator: torch.Generator) -> MaskBatch:
        """The paper's masking: `int(L * (1 - ratio))` random patches stay."""
        length = self.grid**2
        keep = int(length * (1 - ratio))
        noise = torch.rand(n, length, generator=generator, device=self.device)
        mask = torch.ones(n, length, device=self.device)
        mask.scatter_(1, noise.argsort(1)[:, :keep], 0.0)
        return MaskBatch(mask, keep)

    def free_form(self, n: int, generator: torch.Generator, bucket: int, drop: float = 0.0) -> MaskBatch:
        """Holes from one bucket (0 to BUCKETS - 1, the first hide most); `pixel_weight` covers hidden pixels and rim.

        A share `drop` of the patches that the holes leave visible is removed at random on top.
        """
        edges = np.linspace(0, len(self.holes), self.BUCKETS + 1).astype(int)
        low = min(int(edges[bucket]), len(self.holes) - 1)
        high = max(int(edges[bucket + 1]), low + 1)  # also where there are fewer holes than buckets
        keep = max(1, int(int(self.visible[low]) * (1 - drop)))
        ids = torch.randint(low, high, (n,), generator=generator, device=self.device)
        code = self.holes[ids]  # (n, size, size)
        u = torch.rand(3, n, 1, 1, generator=generator, device=self.device) < 0.5
        code = torch.where(u[0], code.flip(1), code)
        code = torch.where(u[1], code.flip(2), code)
        code = torch.where(u[2], code.transpose(1, 2), code)[:, None]
        pixel_mask = (code == 2).float()
        hidden = F.avg_pool2d(pixel_mask, self.patch_size).flatten(1) > 1 - 0.5 / self.patch_size**2  # (n, L)
        noise = torch.rand(hidden.shape, generator=generator, device=self.device) + 2.0 * hidden
        mask = torch.ones_like(noise)
        mask.scatter_(1, noise.argsort(1)[:, :keep], 0.0)
        removed = F.interpolate(mask.reshape(n, 1, self.grid, self.grid), scale_factor=float(self.patch_size))
        weight = torch.maximum(torch.maximum(removed, pixel_mask), (code == 1).float() * self.rim_weight)
        return MaskBatch(mask, keep, pixel_mask, weight)
