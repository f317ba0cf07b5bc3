"""Linear classification of fixed features: one head for each learning rate, trained together as in DINOv2.

Oquab et al. 2023, "DINOv2", https://arxiv.org/abs/2304.07193. In the comments N is the number of training images, D
the width, C the number of classes, G that of learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.errors import MaerestoreError

# For 256 images a step: DINOv2's, and three more for runs shorter than there.
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
MOST_STEPS = 12_500  # as there
FEWEST_STEPS, EPOCHS = 1000, 100  # sets too small for that many steps take as many as make 100 epochs
BATCH = 128


@dataclass(frozen=True)
class LinearHead:
    """One linear layer and a softmax.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """(Q, D) float32 -> (Q, C) float32, rows sum to 1."""
        return F.linear(features.float(), self.weight, self.bias).softmax(1)


@dataclass(frozen=True)
class Standardize:
    """Zero mean and unit variance by dimension, as the batch norm before the linear probe of the MAE paper.

    Attributes:
        mean, scale: (D,) float32, of the training features; a constant dimension keeps scale 1.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardize:
        """The statistics of (N, D) features."""
        scale = features.double().std(0, correction=0)
        scale = torch.where(scale > 1e-8, scale, 1.0)
        return cls(features.double().mean(0).float(), scale.float())

    def __call__(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.scale

    def fold(self, weight: Tensor, bias: Tensor) -> LinearHead:
        """The head on plain features that equals weight (C, D) and bias (C,) on standardised ones."""
        weight = weight.double() / self.scale.double()
        return LinearHead(weight.float().contiguous(), (bias.double() - weight @ self.mean.double()).float())

    def unfold(self, head: LinearHead) -> LinearHead:
        """The inverse of `fold`: the head on standardised features that equals one on plain features.

        Example:
            >>> scales = Standardize(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0]))
            >>> head = scales.fold(torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
            >>> scales.unfold(head)
            LinearHead(weight=tensor([[3., 4.]]), bias=tensor([5.]))
        """
        weight = head.weight.double()
        bias = head.bias.double() + weight @ self.mean.double()
        return LinearHead((weight * self.scale.double()).float(), bias.float())


def fit_linear(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    val_features: Tensor | None = None,
    val_labels: Tensor | None = None,
    rates: Sequence[float] = RATES,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[LinearHead, dict[str, Any]]:
    """Train a head for each learning rate with SGD and a cosine schedule, and keep the best by validation.

    Args:
        features: (N, D) float32.
        labels: (N,) int64, 0 to `num_classes` - 1.
        num_classes: C.
        val_features, val_labels: (Q, D) and (Q,); not needed where there is one rate only.
        rates: learning rates for 256 images a step.
        steps: of up to 128 images; None is as many as make 100 epochs, 1,000 at least, 12,500 (DINOv2's) at most.
        seed: of the weights and of the order.
        progress: called with a stage, what is done, and the total.

    Returns:
        the head, and what was chosen: lr, steps and the accuracy of every candidate.

    Raises:
        MaerestoreError: several rates and no validation set, or a rate that is not positive.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 2.0]])
        >>> head, chosen = fit_linear(x, torch.tensor([0, 0, 1, 1]), 2, rates=[0.1], steps=200)
        >>> head.probabilities(x).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    if not rates or not all(rate > 0 for rate in rates):
        raise MaerestoreError(f"rates must be positive numbers, got {list(rates)}")
    validated = val_features is not None and val_labels is not None and len(val_features) > 0
    if not validated and len(rates) > 1:
        raise MaerestoreError("the learning rate is chosen by validation: give a validation set, or one rate only")
    generator = torch.Generator().manual_seed(seed)
    standardize = Standardize.of(features)
    x, count = standardize(features), len(features)
    batch = min(BATCH, count)
    if steps is None:
        steps = min(max(EPOCHS * count // batch, FEWEST_STEPS), MOST_STEPS)
    grid = len(rates)
    layer = nn.utils.skip_init(nn.Linear, features.shape[1], grid * num_classes)  # the heads side by side
    with torch.no_grad():
        first = torch.empty(num_classes, features.shape[1]).normal_(0, 0.01, generator=generator)
        layer.weight.copy_(first.repeat(grid, 1))
        layer.bias.zero_()
    # A step of SGD with momentum is linear in the gradient: a head's rate can as well be its loss's weight.
    weights = torch.tensor(rates) * batch / 256
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:batch], order[batch:]
        logits = layer(x[chosen]).view(batch, grid, num_classes)
        losses = F.cross_entropy(logits.flatten(0, 1), labels[chosen].repeat_interleave(grid), reduction="none")
        optimizer.zero_grad()
        (losses.view(batch, grid).mean(0) * weights).sum().backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress("linear probe", step + 1, steps)
    heads = [
        standardize.fold(w, b)
        for w, b in zip(layer.weight.detach().chunk(grid), layer.bias.detach().chunk(grid), strict=True)
    ]
    if not validated:
        return heads[0], {"lr": rates[0], "steps": steps}
    assert val_features is not None
    assert val_labels is not None
    scores = [score(head, val_features, val_labels) for head in heads]
    best = max(range(grid), key=lambda i: scores[i])
    tried = {f"{rate:g}": round(score[0], 6) for rate, score in zip(rates, scores, strict=True)}
    return heads[best], {"lr": rates[best], "steps": steps, "tried": tried}


def score(head: LinearHead, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy of a head, and its mean log-likelihood to decide between equally accurate ones.

    Args:
        head: to judge; one that diverged comes last.
        features: (Q, D) float32.
        labels: (Q,) int64.
    """
    probabilities = head.probabilities(features)
    if not probabilities.isfinite().all():
        return 0.0, -float("inf")
    likelihood = probabilities.gather(1, labels[:, None]).clamp(min=1e-12).log().mean()
    return float((probabilities.argmax(1) == labels).double().mean()), float(likelihood)
