"""Muon with few operations: matrices of one shape are made orthogonal together.

`torch.optim.Muon` takes one matrix after the other, 30 operations each. For the 64 matrices of a small transformer an
accelerator is done with its arithmetic long before it was told all of that.

References: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); rates matched to AdamW's: Liu et al. 2025
(https://arxiv.org/abs/2502.16982).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maerestore.precision import uses_bf16


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon`, with its arguments, state and, up to rounding, its updates.

    Example:
        >>> weights = [torch.nn.Parameter(torch.eye(4)) for _ in range(3)]
        >>> optimizer = StackedMuon(weights, lr=0.1, adjust_lr_fn="match_rms_adamw")
        >>> sum(w.sum() for w in weights).backward()
        >>> optimizer.step()
        >>> len({w.sum().item() for w in weights})
        1
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every matrix that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            moments: list[Tensor] = []
            self._init_group(group, params, grads, moments)  # torch's: those that have a gradient, with their state
            if not params:
                continue
            torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, moments, group["momentum"]) if group["nesterov"] else moments
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            shapes: dict[torch.Size, list[int]] = {}
            for i, p in enumerate(params):
                shapes.setdefault(p.shape, []).append(i)
            for shape, places in shapes.items():
                stack = torch.stack([updates[i] for i in places])
                directions = orthogonal(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = _adjusted(group["lr"], group["adjust_lr_fn"], shape)
                torch._foreach_add_([params[i] for i in places], list(directions.float().unbind()), alpha=-rate)
        return loss


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest half-orthogonal matrices, roughly, by Newton-Schulz iterations: (M, A, B) -> (M, A, B).

    Singular values end between about 0.7 and 1.2, which is all that Muon needs. In bfloat16, as torch's, but for CPUs
    that lack it: there float32 takes a sixth of the time, or less.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    exact = matrices.device.type == "cpu" and not uses_bf16("auto", matrices.device)
    x = matrices.float() if exact else matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _adjusted(lr: float, how: str | None, shape: torch.Size) -> float:
    rows, columns = shape
    if how == "match_rms_adamw":
        return lr * 0.2 * max(rows, columns) ** 0.5
    if how == "spectral_unclamped":
        return lr * (rows / columns) ** 0.5
    return lr * max(1.0, rows / columns) ** 0.5
