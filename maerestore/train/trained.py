"""What a run trains, as one state: saved, checked and taken over together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maerestore.train.adversary import Adversary
from maerestore.train.optim import load_optimizer
from maerestore.train.values import RecipeError


@dataclass(frozen=True)
class Trained:
    """Networks and optimisers of a run.

    Args:
        model, average: what is trained, and the moving average of its weights.
        optimizers: the model's, and those of what is trained beside it.
        adversary, contrast: None where there is none.
    """

    model: nn.Module
    average: nn.Module
    optimizers: list[Any]  # torch's, or what accelerate made of them
    adversary: Adversary | None
    contrast: nn.Module | None

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every weight of every network is."""
        discriminator = None if self.adversary is None else self.adversary.discriminator
        networks = (self.model, self.average, self.contrast, discriminator)
        weights = [weight for network in networks if network is not None for weight in network.parameters()]
        return bool(torch.stack([weight.isfinite().all() for weight in weights]).all())

    def state_dict(self) -> dict[str, Any]:
        """All states by name, as a checkpoint holds them."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        beside = {"adversary": self.adversary, "contrast": self.contrast}
        return state | {name: each.state_dict() for name, each in beside.items() if each is not None}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Take over what `state_dict` gave; settings of the optimisers stay those of these ones.

        An adversary may join a run that had none.

        Raises:
            RecipeError: a state of another model or of other optimisers; the message names the checkpoint, `path`.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
        except (RuntimeError, TypeError, AttributeError) as err:
            raise RecipeError(f"{path}: its weights are not those of the recipe's model") from err
        try:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                load_optimizer(optimizer, saved)
            if self.adversary is not None and "adversary" in state:
                self.adversary.load_state_dict(state["adversary"])
            if self.contrast is not None:
                self.contrast.load_state_dict(state["contrast"])
        except (ValueError, KeyError, RuntimeError) as err:
            raise RecipeError(
                f"{path}: its optimisers are not the recipe's (optimizer, layer_decay, groups, adversarial, "
                "contrastive): go on with the same, or start another run from it with --init"
            ) from err
