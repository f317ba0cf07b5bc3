"""Weighted k-nearest-neighbour classification, following the protocol of DINO and DINOv2.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
https://arxiv.org/abs/1805.01978; Oquab et al. 2023, "DINOv2", https://arxiv.org/abs/2304.07193.
In the comments N is the number of training images, Q that of queries, D the width, C the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.errors import MaerestoreError

NEIGHBOURS = (10, 20, 100)
TEMPERATURE = 0.07
_CHUNK = 1 << 25  # similarities held at once: 128 MB


@dataclass(frozen=True)
class KNNHead:
    """Classifies by the votes of the nearest training images.

    Attributes:
        features: (N, D) float16, of length 1, in the order of their labels.
        labels: (N,) int64, 0 to `num_classes` - 1, ascending.
        num_classes: C.
        k: how many neighbours vote.
        temperature: a neighbour of cosine similarity s votes with weight exp(s / temperature).
    """

    features: Tensor
    labels: Tensor
    num_classes: int
    k: int = 20
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if not 1 <= self.k <= len(self.features):
            raise MaerestoreError(f"k must lie in 1 to the {len(self.features)} training images, got {self.k}")
        if not self.temperature > 0:
            raise MaerestoreError(f"temperature must be positive, got {self.temperature}")

    def probabilities(self, features: Tensor) -> Tensor:
        """The neighbours' votes: (Q, D) float32 -> (Q, C) float32, rows sum to 1."""
        similarity, labels = self.neighbours(features, self.k)
        return _votes(similarity, labels, self.num_classes, self.temperature)

    def neighbours(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest training images of each query, nearest first.

        Args:
            features: (Q, D) float32, of any length but 0.
            k: 1 to N.

        Returns:
            cosine similarities (Q, k) float32, and labels (Q, k) int64.
        """
        train = self.features.float().T  # (D, N)
        step = max(1, _CHUNK // len(self.features))
        parts = [(F.normalize(q.float(), dim=1) @ train).topk(k, dim=1) for q in features.split(step)]
        if not parts:
            return torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64)
        return torch.cat([p.values for p in parts]), self.labels[torch.cat([p.indices for p in parts])]


def fit_knn(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    val_features: Tensor | None = None,
    val_labels: Tensor | None = None,
    ks: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> tuple[KNNHead, dict[str, Any]]:
    """Keep the training features, and choose k by validation; the smaller one where two are equally good.

    Args:
        features: (N, D) float32, of any length but 0.
        labels: (N,) int64, 0 to `num_classes` - 1.
        num_classes: C.
        val_features, val_labels: (Q, D) and (Q,); not needed where there is one k only.
        ks: candidates; those over N count as N.
        temperature: as of `KNNHead`.

    Returns:
        the head, and what was chosen: k, temperature and the accuracy of every candidate.

    Raises:
        MaerestoreError: several candidates and no validation set, or a candidate below 1.

    Example:
        >>> corners = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> head, chosen = fit_knn(corners, torch.tensor([0, 0, 1]), 2, ks=[1])
        >>> head.probabilities(torch.tensor([[0.1, 2.0]])).argmax(1).item()
        1
    """
    candidates = sorted({min(k, len(features)) for k in ks})
    if not candidates or candidates[0] < 1:
        raise MaerestoreError(f"ks must be whole numbers of at least 1, got {list(ks)}")
    order = labels.argsort(stable=True)  # as the head's file keeps them
    stored, labels = F.normalize(features.float(), dim=1).half()[order], labels[order]
    head = KNNHead(stored, labels, num_classes, candidates[-1], temperature)
    if val_features is None or val_labels is None or not len(val_features):
        if len(candidates) > 1:
            raise MaerestoreError("k is chosen by validation: give a validation set, or one k only")
        return head, {"k": head.k, "temperature": temperature}
    similarity, neighbours = head.neighbours(val_features, candidates[-1])
    accuracy = {
        k: float((_votes(similarity[:, :k], neighbours[:, :k], num_classes, temperature).argmax(1) == val_labels)
                 .double().mean())
        for k in candidates
    }  # fmt: skip
    best = max(candidates, key=lambda k: (accuracy[k], -k))
    chosen = {"k": best, "temperature": temperature, "tried": {str(k): round(a, 6) for k, a in accuracy.items()}}
    return KNNHead(stored, labels, num_classes, best, temperature), chosen


def _votes(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """(Q, k) each -> (Q, C): the neighbours' weights, summed by class."""
    weights = (similarity / temperature).softmax(1)
    return torch.zeros(len(labels), num_classes).scatter_add_(1, labels, weights)
