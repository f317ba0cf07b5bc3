"""A small corpus: decoded once, held as uint8 on the device and cropped there, so that the device waits for nothing."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maerestore.train.corpus import Corpus
from maerestore.train.packing import DataError, held_out


class ResidentCorpus(Corpus):
    """Photographs held in memory.

    Args:
        pixels: (M, S, B, C) uint8.
        sizes: (M, 3) int32: height, width, turned.
        names: M names; they decide which photographs are kept aside.
        device: where the pixels go; on "cpu" they stay where they are.
        fingerprint: of the pixels.
        corrupt: files that were left out.
        stay: leave the pixels in the host's memory, and bring over what a batch needs.

    Raises:
        DataError: nothing left to train on.
    """

    def __init__(
        self,
        pixels: Tensor,
        sizes: Tensor,
        names: list[str],
        device: torch.device,
        fingerprint: str,
        corrupt: int = 0,
        stay: bool = False,
    ) -> None:
        self.device, self.fingerprint = device, fingerprint
        self._corrupt = corrupt
        self.pixels = pixels if stay or device.type == "cpu" else pixels.to(device)
        self.sizes = sizes.to(device)
        aside = torch.tensor([held_out(name) for name in names], dtype=torch.bool)
        self.train_ids = torch.nonzero(~aside).flatten().to(device)
        self.held_ids = torch.nonzero(aside).flatten().to(device)
        self.description = f"{len(self.train_ids):,} photographs in memory, {len(self.held_ids):,} more kept aside"
        if len(self.train_ids) == 0:
            raise DataError("no photograph left to train on")

    @classmethod
    def from_packed(cls, folder: Path, device: torch.device, resident_gb: float = math.inf) -> ResidentCorpus:
        """Open what `maerestore.train.packing.pack` wrote; on the CPU the pixels are mapped from the file.

        More than `resident_gb` stays mapped from the file for another device, too.

        Raises:
            DataError: no packed folder there, or files that do not belong together.
        """
        try:
            index = json.loads((folder / "index.json").read_text())
            # "c": copy on write, as torch wants it writable
            pixels = torch.from_numpy(np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False))
            sizes = torch.from_numpy(np.load(folder / "sizes.npy", allow_pickle=False))
            names, fingerprint, corrupt = index["names"], index["sha256"], int(index["corrupt"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise DataError(f"{folder}: no packed photographs there; make them with scripts/prepare_data.py") from err
        if not len(pixels) == len(sizes) == len(names):
            raise DataError(f"{folder}: pixels, sizes and names differ in number; pack the photographs again")
        return cls(pixels, sizes, names, device, fingerprint, corrupt, stay=pixels.nbytes > resident_gb * 1e9)

    @classmethod
    def from_arrays(cls, images: np.ndarray, name: str, device: torch.device) -> ResidentCorpus:
        """Images of one size, (M, H, W) gray or (M, H, W, 3) uint8, such as MNIST's or CIFAR-10's."""
        images = np.ascontiguousarray(images if images.ndim == 4 else images[..., None])
        count, height, width, _ = images.shape
        sizes = torch.tensor([[height, width, 0]], dtype=torch.int32).expand(count, -1).contiguous()
        names = [f"{name}-{i}" for i in range(count)]
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        return cls(torch.from_numpy(images), sizes, names, device, digest)

    @property
    def corrupt(self) -> int:
        return self._corrupt

    def canvases(self, total: int, part: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        draw = torch.randint(len(self.train_ids), (total,), generator=generator, device=self.device)
        return self._take(self.train_ids[draw[part]])

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        return self._take(self.held_ids[:count])

    def _take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels[ids.to(self.pixels.device)].to(self.device), self.sizes[ids]
