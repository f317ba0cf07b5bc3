"""Train one network from scratch with one augmentation, and count what it gets right."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.precision import autocast, trains_in_bf16

from .augment_data import Batches, LabelledData, balanced
from .augment_methods import METHODS, Augmentation, Context, normalize

NETWORKS = ("resnet18", "tiny")


@dataclass(frozen=True)
class Recipe:
    """How every network is trained; chosen on `none` and a part of the training pictures kept aside.

    Attributes:
        network: "resnet18" (torchvision's), or "tiny" for tests.
        side: of its input in pixels.
        batch_size: rows of a batch.
        epochs: passes over the full training part. A subset gets the same number of steps, and so more passes.
        lr: the highest rate, for a batch of 64; it rises over `warmup` and falls in a cosine to 0.
        warmup: share of the steps.
        momentum, weight_decay: of SGD with Nesterov's momentum; norms and biases do not decay.
        label_smoothing: of the cross-entropy.
        crop_scale: (low, high) share of the area that a crop takes.
        precision: "auto", "fp32" or "bf16".
    """

    network: str = "resnet18"
    side: int = 64
    batch_size: int = 64
    epochs: float = 7.0
    lr: float = 0.02
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    crop_scale: tuple[float, float] = (0.35, 1.0)
    precision: str = "auto"

    def steps(self, pictures: int) -> int:
        """Of the optimiser, for a full training part of so many pictures."""
        return max(1, round(self.epochs * pictures / self.batch_size))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step (0, 1, ...).

        Example:
            >>> [round(Recipe(lr=1.0, warmup=0.5).rate(step, 4), 3) for step in range(4)]
            [0.5, 1.0, 1.0, 0.5]
        """
        peak = self.lr * self.batch_size / 64
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return peak * (step + 1) / rising
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "crop_scale": list(self.crop_scale)}


def make_network(name: str, classes: int) -> nn.Module:
    """An untrained network, from torch's global generator."""
    if name == "tiny":
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, classes),
        )  # fmt: skip
    from torchvision.models import resnet18

    return resnet18(num_classes=classes)


class Trainer:
    """A network and its optimiser; `step` is what the speed measurement times, too.

    Args:
        recipe: how to train.
        classes: of the data.
        device: where.
        seed: of the weights.
    """

    def __init__(self, recipe: Recipe, classes: int, device: torch.device, seed: int) -> None:
        self.recipe, self.device = recipe, device
        self.bf16 = trains_in_bf16(recipe.precision, device.type == "cpu")
        torch.manual_seed(seed)
        network = make_network(recipe.network, classes)
        self.network = network.to(device, memory_format=torch.channels_last)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0,
        )  # fmt: skip

    def step(self, x: Tensor, targets: Tensor, rate: float) -> Tensor:
        """One update on normalised images (N, 3, S, S) and labels (N,) or (N, classes); returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x = x.to(memory_format=torch.channels_last)
        with autocast(self.device, self.bf16):
            logits = self.network(x)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def correct(self, images: Tensor, labels: Tensor, batch_size: int = 256) -> int:
        """How many of (N, 3, S, S) uint8 images get their class."""
        self.network.eval()
        right = 0
        for rows, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = normalize(rows.to(self.device)).to(memory_format=torch.channels_last)
            with autocast(self.device, self.bf16):
                right += int((self.network(x).argmax(1).cpu() == truth).sum())
        self.network.train()
        return right


def train_cell(
    data: LabelledData,
    method: str,
    seed: int,
    fraction: float,
    recipe: Recipe,
    device: torch.device,
    model: str = "augment",
) -> dict[str, Any]:
    """One cell of the grid.

    Weights, subset, order, crops and flips depend on the seed alone: methods with the same seed are paired.

    Args:
        data: what to train and test on.
        method: of `METHODS`.
        seed: 0, 1, ...
        fraction: share of the training part, balanced by class.
        recipe: how to train; the number of steps is that of the full part.
        device: where.
        model: of MAEAugment.

    Returns:
        "accuracy" in [0, 1], "correct", "tested", "trained_on", "steps", "loss" (mean of the last tenth of the steps),
        "images_per_second" (of the loop, augmentation included, test excluded) and "augment_share" of its seconds.
    """
    part = data.train.part(balanced(data.train.labels, fraction, seed))
    steps = recipe.steps(len(data.train))
    trainer = Trainer(recipe, data.classes, device, seed)
    augment = Augmentation(METHODS[method], Context(data.classes, seed, device, model))
    torch.manual_seed(seed + 1_000_000)  # for the libraries that draw from the global generator
    losses: list[Tensor] = []
    augmenting = 0.0
    batches = iter(Batches(part, recipe.batch_size, recipe.side, seed, recipe.crop_scale))
    images, labels = next(batches)
    augment(images.to(device), labels.to(device))  # loads and compiles what is loaded and compiled once
    augment = Augmentation(METHODS[method], Context(data.classes, seed, device, model))
    torch.manual_seed(seed + 1_000_000)
    start = _clock(device)
    for step in range(steps):
        if step:
            images, labels = next(batches)
        mark = _clock(device)
        x, targets = augment(images.to(device), labels.to(device))
        augmenting += _clock(device) - mark
        losses.append(trainer.step(x, targets, recipe.rate(step, steps)))
    seconds = _clock(device) - start
    right = trainer.correct(data.test.images, data.test.labels)
    tail = torch.stack(losses[-max(1, steps // 10) :]).mean()
    return {
        "accuracy": right / len(data.test),
        "correct": right,
        "tested": len(data.test),
        "trained_on": len(part),
        "steps": steps,
        "loss": float(tail),
        "seconds": seconds,
        "images_per_second": steps * recipe.batch_size / seconds,
        "augment_share": augmenting / seconds,
    }


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
