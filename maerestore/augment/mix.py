"""Two images and their labels in one, with the seam between them rebuilt; a whole batch, on the device that trains."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from maerestore.augment.batch import IMAGE_KEYS
from maerestore.augment.core import MaskedViews
from maerestore.augment.pixels import check_images, hidden_pixels
from maerestore.augment.settings import ViewSettings, check_share
from maerestore.errors import MaerestoreError

LABEL_KEYS = ("label", "labels", "target")


class MAEMix(nn.Module):
    """CutMix whose seam the autoencoder rebuilds.

    A box of each image is replaced by that box of another image of the batch. The patches around the box are hidden and
    rebuilt from both sides, so that no straight edge gives the paste away, and the label says how much of the patches
    each image has.

    Convention:
        Images are (N, C, H, W), uint8 or float in [0, 1], before they are normalised; shape, dtype and device are
        kept, and the batch that came in is not modified. Labels come back as probabilities, (N, num_classes) float32,
        whether the batch was mixed or not. Random numbers come from torch's global generator. As with dropout, `eval()`
        turns it off: images and labels then come back as they are.

        All images of a batch get the same box, along the patches of the model, and the model computes where the
        images are. It is no part of `state_dict()` or `parameters()`.

    Args:
        num_classes: how many there are; may be left out where labels are given as probabilities.
        alpha: the area of the box follows Beta(alpha, alpha); 1, as in CutMix for CIFAR and ImageNet, makes all equally
            likely.
        p: probability that a batch is mixed.
        model, size: as for `maerestore.augment.settings.ViewSettings`.
        precision: "auto", "fp32" or "bf16"; see `maerestore.augment.core.MaskedViews`.

    Raises:
        ValueError: an argument that does not fit, named.

    Reference: CutMix, Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Example:
        >>> mix = MAEMix(num_classes=10, p=0.0)
        >>> images, labels = mix(torch.zeros(2, 3, 32, 32), torch.tensor([3, 5]))
        >>> labels.argmax(1).tolist()
        [3, 5]

        In a loop, before images are normalised; or in a loader:

        >>> images, labels = mix(images, labels)                                                # doctest: +SKIP
        >>> loss = torch.nn.functional.cross_entropy(net(normalize(images)), labels)            # doctest: +SKIP
        >>> loader = torch.utils.data.DataLoader(dataset, 64, collate_fn=mix.collate)           # doctest: +SKIP
    """

    def __init__(
        self,
        num_classes: int | None = None,
        alpha: float = 1.0,
        p: float = 0.5,
        model: str = "augment",
        size: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if num_classes is not None and (
            not isinstance(num_classes, Integral) or isinstance(num_classes, bool) or num_classes < 1
        ):
            raise MaerestoreError(f"num_classes must be a whole number of at least 1, got {num_classes!r}")
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise MaerestoreError(f"alpha must be a number above 0, got {alpha!r}")
        self.num_classes = None if num_classes is None else int(num_classes)
        self.alpha = float(alpha)
        self.p = check_share("p", p)
        self._views = MaskedViews(ViewSettings(model=model, size=size), device=None, precision=precision)

    @torch.compiler.disable  # draws with NumPy: a graph of the loop has to break here
    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            labels: (N,) class indices, or (N, classes) probabilities.

        Raises:
            ValueError: what is no batch of images, or labels that do not go with them.
        """
        if not self.training:
            return images, labels
        check_images(images, look=False)
        shares = self._probabilities(labels, len(images))
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), device="cpu")))
        if rng.random() >= self.p or len(images) < 2:
            return images, shares
        grid = self._views.grid((images.shape[2], images.shape[3]))
        box, seam = draw_box(grid, float(rng.beta(self.alpha, self.alpha)), rng)
        partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        pasted = _rows(box, 1, images.device)
        inside = hidden_pixels(pasted, grid, (images.shape[2], images.shape[3]))
        mixed = torch.where(inside, images[partner], images)
        noise = rng.random((len(images), box.size), np.float32)
        views = self._views.rebuild(mixed, _rows(seam, len(images), images.device), noise)
        share = float(box.mean())
        return views, torch.lerp(shares, shares[partner.to(shares.device)], share)

    def collate(self, samples: list[Any]) -> Any:
        """Put samples together as `torch.utils.data.default_collate` does, and mix them.

        Images and labels are the first two entries of a tuple or list, or the entries "image" (or "images", or
        "pixel_values") and "label" (or "labels", or "target") of a mapping.

        Raises:
            ValueError: samples in which no image and label are found.
        """
        batch = default_collate(samples)
        if isinstance(batch, MutableMapping):
            image = next((key for key in IMAGE_KEYS if isinstance(batch.get(key), Tensor)), None)
            label = next((key for key in LABEL_KEYS if isinstance(batch.get(key), Tensor)), None)
            if image is not None and label is not None:
                batch[image], batch[label] = self(batch[image], batch[label])
                return batch
            raise MaerestoreError(
                f"samples hold no image and label: looked for {', '.join(IMAGE_KEYS + LABEL_KEYS)} in {list(batch)}"
            )
        if isinstance(batch, (tuple, list)) and len(batch) > 1 and all(isinstance(part, Tensor) for part in batch[:2]):
            mixed = [*self(batch[0], batch[1]), *batch[2:]]
            return type(batch)(*mixed) if hasattr(batch, "_fields") else mixed  # a named tuple stays one
        raise MaerestoreError(f"samples hold no image and label: got {type(samples[0]).__name__}")

    def extra_repr(self) -> str:
        settings = self._views.settings
        values = {"num_classes": self.num_classes, "alpha": self.alpha, "p": self.p, "model": settings.model,
                  "size": settings.size, "precision": self._views.precision}  # fmt: skip
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def _probabilities(self, labels: Tensor, n: int) -> Tensor:
        """Labels -> (N, classes) float32."""
        if not isinstance(labels, Tensor):
            raise MaerestoreError(f"labels must be a tensor, got {type(labels).__name__}")
        if labels.ndim == 2 and labels.is_floating_point() and len(labels) == n:
            if self.num_classes not in (None, labels.shape[1]):
                raise MaerestoreError(f"labels are of {labels.shape[1]} classes, num_classes is {self.num_classes}")
            return labels.float()
        if labels.ndim != 1 or len(labels) != n or labels.is_floating_point() or labels.dtype == torch.bool:
            raise MaerestoreError(
                f"labels must be ({n},) class indices or ({n}, classes) probabilities, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        if self.num_classes is None:
            raise MaerestoreError("labels that are class indices need num_classes: MAEMix(num_classes=...)")
        if labels.device.type == "cpu" and n and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise MaerestoreError(
                f"labels must lie in 0 to {self.num_classes - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
        return F.one_hot(labels.long(), self.num_classes).float()


def draw_box(grid: tuple[int, int], area: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A box of patches anywhere in a grid, cut off where it reaches over the border, and the patches that touch it.

    Args:
        grid: patches (down, across).
        area: share of the grid that the box would have if none of it were cut off, in [0, 1].
        rng: where the randomness comes from; as many numbers are taken whatever the area is.

    Returns:
        the box and the seam around it, each (L,) bool, of which the box has at least one patch.

    Example:
        >>> box, seam = draw_box((4, 4), 0.06, np.random.default_rng(3))
        >>> print(np.where(box, "#", np.where(seam, "o", ".")).reshape(4, 4))
        [['.' '.' '.' '.']
         ['.' '.' '.' '.']
         ['o' 'o' 'o' '.']
         ['o' '#' 'o' '.']]
    """
    box, near = np.ones(grid, bool), np.ones(grid, bool)
    for axis, (length, place) in enumerate(zip(grid, rng.random(2), strict=True)):
        side = max(1, round(length * math.sqrt(area)))
        centre = int(place * length)
        first = centre - side // 2
        index = np.arange(length).reshape((-1, 1) if axis == 0 else (1, -1))
        box &= (index >= first) & (index < first + side)
        near &= (index >= first - 1) & (index < first + side + 1)
    return box.ravel(), (near & ~box).ravel()


def _rows(patches: np.ndarray, n: int, device: torch.device) -> Tensor:
    """(L,) bool -> (n, L) float32, 1 = set."""
    return torch.from_numpy(patches.astype(np.float32)).to(device).expand(n, -1)
