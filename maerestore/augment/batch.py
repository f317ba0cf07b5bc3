"""Masked-reconstruction views of a whole batch, on the device that trains."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from maerestore.augment.core import MaskedViews
from maerestore.augment.graphs import outside_graphs
from maerestore.augment.pixels import check_images
from maerestore.augment.settings import ViewSettings, check_share
from maerestore.errors import MaerestoreError


class BatchMAEAugment(nn.Module):
    """Replaces part of a batch by masked-reconstruction views.

    Convention:
        Images are (N, C, H, W), uint8 or float in [0, 1], before they are normalised; shape, dtype and device are
        kept, and the batch that came in is not modified. Whatever else is given comes back as it is. Random numbers
        come from torch's global generator. As with dropout, `eval()` turns it off.

        Of N images p N are chosen (where that is no whole number, the next smaller or larger one, by chance): each
        with probability p, and always as many, so that shapes are static. The model computes where the images are. It
        is no part of `state_dict()` or `parameters()`.

    Args:
        mask_ratio, strategy, blend, model, size: as for `maerestore.augment.settings.ViewSettings`.
        precision: "auto", "fp32" or "bf16"; see `maerestore.augment.core.MaskedViews`.
        compile: compile the network with `torch.compile`: once for each of the five mask ratios and number of images.
        p: probability that an image is changed.

    Raises:
        MaerestoreError: an argument that does not fit, named.

    Example:
        >>> augment = BatchMAEAugment(p=0.0)
        >>> images = torch.zeros(8, 3, 32, 32)
        >>> augment(images) is images
        True
        >>> images, labels = augment(images, torch.arange(8))

        In a loader, on the batch instead of on the device:

        >>> loader = torch.utils.data.DataLoader(dataset, 64, collate_fn=augment.collate)       # doctest: +SKIP
    """

    def __init__(
        self,
        mask_ratio: float | tuple[float, float] = (0.4, 0.75),
        strategy: str = "random",
        blend: float = 1.0,
        model: str = "augment",
        size: int | None = None,
        precision: str = "auto",
        compile: bool = False,
        p: float = 0.5,
    ) -> None:
        super().__init__()
        settings = ViewSettings(mask_ratio, strategy, blend, model, size)
        self._views = MaskedViews(settings, device=None, precision=precision, compile=compile)
        self.p = check_share("p", p)

    def forward(self, images: Tensor, *others: Any) -> Any:
        """Views of a batch.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            *others: labels and the like.

        Returns:
            the images; with `others`, a tuple of them and those.

        Raises:
            MaerestoreError: `images` is no batch of images.
        """
        views = self._views_of(images) if self.training else images
        return (views, *others) if others else views

    def collate(self, samples: list[Any]) -> Any:
        """Put samples together as `torch.utils.data.default_collate` does, and make views of their images.

        The images are the first entry of a tuple or list, the entry "image" (or "images", or "pixel_values") of a
        mapping, or the samples themselves.

        Args:
            samples: of a data set; images (C, H, W), uint8 or float in [0, 1], all of one size.

        Returns:
            the batch, of the kind that `default_collate` makes.

        Raises:
            MaerestoreError: samples in which no image is found.

        Example:
            >>> images, labels = BatchMAEAugment(p=0).collate([(torch.zeros(3, 32, 32), 1), (torch.ones(3, 32, 32), 0)])
            >>> images.shape, labels.tolist()
            (torch.Size([2, 3, 32, 32]), [1, 0])
        """
        batch = default_collate(samples)
        if isinstance(batch, Tensor):
            return self(batch)
        if isinstance(batch, MutableMapping):
            for key in ("image", "images", "pixel_values"):
                if isinstance(batch.get(key), Tensor):
                    batch[key] = self(batch[key])
                    return batch
            raise MaerestoreError(f"samples hold no image: looked for image, images, pixel_values in {list(batch)}")
        if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
            views = [self(batch[0]), *batch[1:]]
            return type(batch)(*views) if hasattr(batch, "_fields") else views  # a named tuple stays one
        raise MaerestoreError(f"samples hold no image: got {type(samples[0]).__name__}")

    def extra_repr(self) -> str:
        values = {**self._views.settings.to_dict(), "precision": self._views.precision, "p": self.p}
        return ", ".join(f"{name}={value}" for name, value in values.items())

    @outside_graphs
    def _views_of(self, images: Tensor) -> Tensor:
        if self.p == 0 or self._views.settings.changes_nothing:
            return images
        check_images(images, look=False)
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), device="cpu")))
        n = len(images)
        chosen = min(n, int(self.p * n + rng.random()))
        if not chosen:
            return images
        draw = self._views.draw(chosen, rng, (images.shape[-2], images.shape[-1]))
        if chosen == n:
            return self._views.render(images, draw)
        ids = torch.from_numpy(np.sort(rng.permutation(n)[:chosen])).to(images.device)
        return images.index_copy(0, ids, self._views.render(images[ids], draw))
