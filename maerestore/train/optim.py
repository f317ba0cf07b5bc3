"""Optimisers, their rates by layer, and weight averaging."""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import Tensor, nn

from maerestore.train.run_recipe import RunRecipe
from maerestore.train.values import RecipeError

Key = tuple[bool, float, float]  # for Muon, multiple of the rate, weight decay


def build_optimizers(
    model: nn.Module, recipe: RunRecipe, contrast: nn.Module | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks beside AdamW for everything else.

    Weight decay falls on matrices and kernels only, not on biases and norms, nor on what has "token" in its name: class
    and mask token, and the refiner's projections of the decoder's tokens (kernels, but never decayed: checkpoints keep
    parameters by group). Rates follow the recipe's `layer_decay` and `groups`; parameters at rate 0 are frozen.
    `contrast`, trained beside the model, has the full rate; the names of its parameters start with "contrast." there.
    Each group of an optimiser has the "names" of its parameters, by which `load_optimizer` knows them again.

    Raises:
        RecipeError: a group that no parameter falls to, nothing left to train, or no Muon in this torch.
    """
    depth = len(getattr(model, "blocks", []))
    unused = {group["match"] for group in recipe.groups}
    groups: dict[Key, dict[str, nn.Parameter]] = {}
    beside = contrast.named_parameters("contrast") if contrast is not None else ()
    named = dict(itertools.chain(model.named_parameters(), beside))
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        kernel = parameter.ndim >= 2 and "token" not in name
        rate, decay = recipe.untold_rate(name), recipe.weight_decay if kernel else 0.0
        for group in recipe.groups:
            if re.search(group["match"], name):
                unused.discard(group["match"])
                rate, decay = group.get("lr", rate), group.get("weight_decay", decay)
                break
        scale = layer_scale(name, depth, recipe.layer_decay) * rate
        if scale == 0:
            parameter.requires_grad_(False)
            continue
        muon = recipe.optimizer == "muon" and parameter.ndim == 2 and "blocks." in name
        groups.setdefault((muon, scale, decay), {})[name] = parameter
    if unused:
        raise RecipeError(f"groups: {_why_unused(sorted(unused)[0], list(named), trained)}")
    if not groups:
        raise RecipeError("groups: every parameter is frozen")

    def chosen(muon: bool) -> list[dict[str, Any]]:
        return [
            {
                "params": list(params.values()),
                "names": list(params),
                "lr": recipe.lr * key[1],
                "lr_scale": key[1],
                "weight_decay": key[2],
            }
            for key, params in groups.items()
            if key[0] == muon
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if chosen(False):
        fused = all(p.device.type in ("cuda", "cpu") for p in model.parameters())
        optimizers.append(torch.optim.AdamW(chosen(False), lr=recipe.lr, betas=recipe.betas, fused=fused))
    if chosen(True):
        if not hasattr(torch.optim, "Muon"):
            raise RecipeError(f"optimizer muon needs torch 2.9 or newer, this is {torch.__version__}: take adamw")
        from maerestore.train.muon import StackedMuon  # a class of its own only where torch has the one it is made from

        optimizers.append(
            StackedMuon(chosen(True), lr=recipe.lr, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _why_unused(match: str, names: list[str], trained: list[str]) -> str:
    """Why no parameter falls to a group.

    Args:
        match: the group's.
        names: of all parameters.
        trained: of those that are not fixed by the model itself.
    """
    if any(re.search(match, name) for name in trained):
        return f"earlier groups take every parameter whose name has {match!r}: the first that matches counts"
    if fixed := [name for name in names if re.search(match, name)]:
        return f"{match!r} is in the names of parameters only that are never trained, such as {fixed[0]}"
    return f"no parameter's name has {match!r}"


def layer_scale(name: str, depth: int, decay: float) -> float:
    """What the rate of a parameter is multiplied with: `decay` once for every block above it in the encoder.

    Example:
        >>> [layer_scale(n, 2, 0.5) for n in ("patch_embed.proj.weight", "blocks.0.x", "blocks.1.x", "norm.weight")]
        [0.125, 0.25, 0.5, 1.0]
    """
    if decay == 1 or name.startswith(("norm.", "decoder_", "mask_token", "contrast.")):
        return 1.0
    block = re.match(r"blocks\.(\d+)\.", name)
    return decay ** (depth - int(block.group(1)) if block else depth + 1)


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of every parameter group to its multiple of `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a saved state, but keep the settings of the groups: the recipe may have been changed since.

    Raises:
        ValueError: groups of other parameters; by their shapes, where the state is from before groups had names.
    """
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if saved.get("names", group.get("names")) != group.get("names"):
            raise ValueError("groups of parameters with other names")
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            moments = [value for value in state["state"].get(key, {}).values() if isinstance(value, Tensor)]
            if any(value.ndim and value.shape != parameter.shape for value in moments):
                raise ValueError("groups of parameters with other shapes")
    wanted = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, wanted, strict=True):
        group.update(settings)


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the model's; the decay warms up, so that the start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
