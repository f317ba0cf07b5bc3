"""What an augmentation costs an image, as a share of a training step of ResNet-18 at 128 px."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augment_methods import Context, coarse_dropout, masked_views, mixing, normalize
from .augment_train import Recipe, Trainer

SIDE = 128

Run = Callable[[Tensor, Tensor], Any]


def contenders(context: Context) -> dict[str, Run]:
    """Each with p = 1, so that every image pays: name -> call on images (N, 3, S, S) uint8 and labels (N,).

    "in a loader" is one image at a time on the CPU; "per batch" is one call on the training device.
    """
    import kornia.augmentation as K

    from maerestore.augment.albumentations import MAEAugment

    elastic = K.RandomElasticTransform(p=1.0)
    mixup = mixing(context, "MixUp", alpha=0.2, p=1.0)
    adapter = MAEAugment(model=context.model, p=1.0)

    def loader(images: Tensor, labels: Tensor) -> list[np.ndarray]:
        return [adapter(image=row)["image"] for row in images.cpu().permute(0, 2, 3, 1).contiguous().numpy()]

    def pixels(make: Callable[..., Callable[[Tensor], Tensor]]) -> Run:
        run = make(context, p=1.0)
        return lambda images, labels: run(images)

    return {
        "CoarseDropout, in a loader": pixels(functools.partial(coarse_dropout, fill=0)),
        "CoarseDropout (Telea), in a loader": pixels(functools.partial(coarse_dropout, fill="inpaint_telea")),
        "MixUp, per batch": lambda images, labels: mixup(normalize(images), labels),
        "RandomElasticTransform, per batch": lambda images, labels: elastic(images.float() / 255),
        "MAEAugment random, in a loader": loader,
        "MAEAugment random, per batch": pixels(functools.partial(masked_views, strategy="random")),
        "MAEAugment attention-keep, per batch": pixels(functools.partial(masked_views, strategy="attention-keep")),
    }


def measure_speed(
    images: Tensor, contenders: dict[str, Run], device: torch.device, rounds: int = 7, recipe: Recipe | None = None
) -> list[dict[str, Any]]:
    """Time each beside the step.

    Every round times the step and then each contender once on the same batch, and the ratios are taken within the
    round: what else the machine does at that time slows both.

    Args:
        images: (N, 3, S, S) uint8, the batch.
        contenders: as `contenders` makes them.
        device: of the step.
        rounds: counted, after one that is not.
        recipe: of the step; precision and network matter.

    Returns:
        rows with "name", "ms" (per image, median) and "share" (of the step, median of the rounds'); the step first.
    """
    images = images.to(device)
    labels = torch.arange(len(images), device=device) % 10
    trainer = Trainer(recipe or Recipe(), 10, device, seed=0)
    x = normalize(images)
    calls: dict[str, Callable[[], Any]] = {"step": lambda: trainer.step(x, labels, 1e-3)}
    calls |= {name: functools.partial(call, images, labels) for name, call in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = _clock(device)
            call()
            seconds[name].append(_clock(device) - start)
    taken = {name: values[1:] for name, values in seconds.items()}
    return [
        {
            "name": name,
            "ms": 1000 * statistics.median(values) / len(images),
            "share": statistics.median(v / s for v, s in zip(values, taken["step"], strict=True)),
        }
        for name, values in taken.items()
    ]


def format_speed(rows: list[dict[str, Any]], side: int, batch: int, where: str) -> str:
    """One line per contender."""
    step, *others = rows
    lines = [f"cost of an augmented image at {side} px, batch {batch}, {where}, beside a training step "
             f"({step['ms']:.2f} ms an image)",
             f"{'':40}{'ms':>8}{'of the step':>13}{'at p = 0.5':>12}"]  # fmt: skip
    lines += [f"{row['name']:<40}{row['ms']:8.2f}{row['share']:13.1%}{row['share'] / 2:12.1%}" for row in others]
    return "\n".join(lines)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
