"""Optimisers and weight averaging."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maerestore.train.recipe import PretrainRecipe, RecipeError


def build_optimizers(model: nn.Module, recipe: PretrainRecipe) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks beside AdamW for everything else.

    Weight decay falls on matrices and kernels only, not on biases, norms or tokens.
    """
    matrices: list[nn.Parameter] = []
    kernels: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and "blocks." in name:
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "token" not in name:
            kernels.append(parameter)
        else:
            vectors.append(parameter)
    decayed = kernels if recipe.optimizer == "muon" else matrices + kernels
    fused = all(p.device.type in ("cuda", "cpu") for p in model.parameters())
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            groups,
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=fused,
        )
    ]
    if recipe.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise RecipeError(f"optimizer muon needs torch 2.9 or newer, this is {torch.__version__}: take adamw")
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=recipe.lr,
                weight_decay=recipe.weight_decay,
                momentum=0.95,
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the model's; the decay warms up, so that the start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
