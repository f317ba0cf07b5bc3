"""The augmentations that are compared, each on top of the same crop and flip.

Erasing methods and MAEAugment change half of the images (p = 0.5). Their other settings are the published ones, or the
library's own; both CoarseDropouts hide the same boxes. None of them was tuned here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.model.config import IMAGENET_MEAN, IMAGENET_STD

P = 0.5
HOLES = {"num_holes_range": (1, 3), "hole_height_range": (0.2, 0.5), "hole_width_range": (0.2, 0.5)}
ERASING = ("RandomErasing", "CoarseDropout", "CoarseDropout (Telea)")
"""The baselines that MAEAugment is tested against."""

Pixels = Callable[[Tensor], Tensor]
"""(N, 3, S, S) uint8 -> the same."""
Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Normalised (N, 3, S, S) float and labels (N,) -> the same and labels (N,) or (N, classes)."""


@dataclass(frozen=True)
class Context:
    """What a method has to know of its run.

    Attributes:
        classes: how many.
        seed: of everything that it draws.
        device: where the network is trained.
        model: name or folder of MAEAugment's model.
        precision: of MAEAugment's model, as `MaskedViews` takes it.
    """

    classes: int
    seed: int
    device: torch.device
    model: str = "augment"
    precision: str = "auto"


@dataclass(frozen=True)
class Method:
    """One augmentation, in the places of the pipeline where it belongs.

    Attributes:
        pixels: on uint8, before normalisation; makes what it returns from a context.
        tensor: on normalised floats, one image (3, S, S) at a time.
        mixer: on normalised floats and labels of a batch.
    """

    pixels: Callable[[Context], Pixels] | None = None
    tensor: Callable[[Context], Callable[[Tensor], Tensor]] | None = None
    mixer: Callable[[Context], Mixer] | None = None
    uses_model: bool = False


class Augmentation:
    """A method at work.

    Args:
        method: what to do.
        context: of the run. The method draws from generators seeded by it, and where its library allows no other
            from torch's global one, which the caller seeds.
    """

    def __init__(self, method: Method, context: Context) -> None:
        self.pixels = method.pixels(context) if method.pixels else None
        self.tensor = method.tensor(context) if method.tensor else None
        self.mixer = method.mixer(context) if method.mixer else None
        self.device = context.device

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) uint8 and labels (N,) -> normalised float32 and labels (N,) or (N, classes)."""
        if self.pixels is not None:
            images = self.pixels(images)
        x = normalize(images)
        if self.tensor is not None:
            x = torch.stack([self.tensor(row) for row in x])
        return self.mixer(x, labels) if self.mixer is not None else (x, labels)


def normalize(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> float32 with ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std


def coarse_dropout(context: Context, fill: Any, p: float = P) -> Pixels:
    """albumentations, one image at a time, as in a loader."""
    import albumentations as A

    transform = A.Compose([A.CoarseDropout(**HOLES, fill=fill, p=p)], seed=context.seed)

    def run(images: Tensor) -> Tensor:
        rows = [transform(image=row)["image"] for row in images.cpu().permute(0, 2, 3, 1).contiguous().numpy()]
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous().to(images.device)

    return run


def random_erasing(context: Context) -> Callable[[Tensor], Tensor]:
    """torchvision, after normalisation: a box of 2 to 33 % becomes the mean colour."""
    from torchvision.transforms import v2

    return v2.RandomErasing(p=P)


def mixing(context: Context, kind: str, alpha: float, p: float) -> Mixer:
    """torchvision's MixUp or CutMix on a share p of the batches."""
    from torchvision.transforms import v2

    transform = getattr(v2, kind)(alpha=alpha, num_classes=context.classes)
    rng = np.random.default_rng([context.seed, 11])

    def run(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if rng.random() >= p:
            return x, F.one_hot(labels, context.classes).float()
        mixed, soft = transform(x, labels)
        return mixed, soft.float()

    return run


def masked_views(context: Context, strategy: str, p: float = P) -> Pixels:
    """BatchMAEAugment with its defaults, on the training device."""
    from maerestore.augment.batch import BatchMAEAugment

    return BatchMAEAugment(strategy=strategy, model=context.model, precision=context.precision, p=p)


def _mae(strategy: str) -> Callable[[Context], Pixels]:
    return functools.partial(masked_views, strategy=strategy)


_CUTMIX = functools.partial(mixing, kind="CutMix", alpha=1.0, p=0.5)
METHODS: dict[str, Method] = {
    "none": Method(),
    "RandomErasing": Method(tensor=random_erasing),
    "CoarseDropout": Method(
        pixels=functools.partial(coarse_dropout, fill=tuple(round(255 * m) for m in IMAGENET_MEAN))
    ),
    "CoarseDropout (Telea)": Method(pixels=functools.partial(coarse_dropout, fill="inpaint_telea")),
    "MixUp": Method(mixer=functools.partial(mixing, kind="MixUp", alpha=0.2, p=1.0)),
    "CutMix": Method(mixer=_CUTMIX),
    "MAEAugment random": Method(pixels=_mae("random"), uses_model=True),
    "MAEAugment attention-keep": Method(pixels=_mae("attention-keep"), uses_model=True),
    "MAEAugment + CutMix": Method(pixels=_mae("random"), mixer=_CUTMIX, uses_model=True),
}
"""By the name in the table. MixUp: alpha 0.2, as for ImageNet; CutMix: alpha 1 on half of the batches, as for CIFAR.
"attention-keep" is the paper's choice: what the class token looks at most stays, and the rest is rebuilt."""
