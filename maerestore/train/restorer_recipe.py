"""The recipe of a restorer's training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from maerestore.model.refiner import RefinerConfig
from maerestore.train.losses import LossError, parse_terms
from maerestore.train.restorer_losses import RESTORER_OPTIONS
from maerestore.train.run_recipe import RunRecipe
from maerestore.train.values import RecipeError, check, number


@dataclass
class RestorerRecipe(RunRecipe):
    """Settings of a restorer's training, beside those of `RunRecipe`.

    The autoencoder is frozen unless `groups` gives it a rate: `[{match: "^autoencoder", lr: 0.05}]` trains both. A
    group without `lr` does not.

    Args:
        refiner: settings of the `RefinerConfig`; the width of the tokens follows from the autoencoder.
        loss: weight of each term, at least 0 and not all 0, or its settings: mse, l1, perceptual
            (`maerestore.train.restorer_losses`).
        ratios: by how much the autoencoder sees a picture smaller than the refiner (at least 1), and how often.
        native: whether crops come at the photographs' own resolution, at whole pixels, whatever `crop_scale` says.
            Crops that are resized are blurred, and so is the texture that a refiner learns from them.
        layer_decay: 1 here; rates of the autoencoder's parts are for `groups` to say.
        validation_side: pixels of the held-out squares that are measured, at least 16; the autoencoder sees them at
            its own size.

    Raises:
        RecipeError: a value of another type or out of range, or settings that do not fit each other; in one line.
    """

    refiner: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=lambda: {"mse": 1.0, "l1": 1.0})
    ratios: dict[float, float] = field(default_factory=lambda: {1.0: 1.0, 2.0: 1.0})
    native: bool = False
    validation_side: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parse_terms(self.loss, RESTORER_OPTIONS)
        except LossError as err:
            raise RecipeError(str(err)) from err
        unknown = sorted(set(map(str, self.refiner)) - {f.name for f in fields(RefinerConfig)})
        try:
            if unknown:
                raise ValueError(f"unknown setting(s) {', '.join(unknown)}")
            RefinerConfig(**{"feature_dim": 1, **self.refiner})
        except ValueError as err:
            raise RecipeError(f"refiner: {err}") from err
        self.ratios = {number("ratios", k): number(f"ratios.{k}", v) for k, v in self.ratios.items()}
        check(
            [
                (self.layer_decay == 1, "layer_decay is for pretraining: give the autoencoder's parts rates by groups"),
                (
                    all(ratio >= 1 for ratio in self.ratios) and all(weight >= 0 for weight in self.ratios.values()),
                    f"ratios maps numbers of at least 1 to weights, got {self.ratios}",
                ),
                (sum(self.ratios.values()) > 0, f"ratios needs a positive weight, got {self.ratios}"),
                (self.validation_side >= 16, f"validation_side must be at least 16, got {self.validation_side}"),
            ]
        )

    def _measured_side(self) -> int:
        return self.validation_side

    def untold_rate(self, name: str) -> float:
        return 0.0 if name.startswith("autoencoder.") else 1.0

    def seen_side(self, side: int, ratio: float, patch_size: int) -> int:
        """The side that the autoencoder sees a picture at: whole patches.

        Example:
            >>> RestorerRecipe().seen_side(224, 2.0, 8), RestorerRecipe().seen_side(100, 1.0, 8)
            (112, 96)
        """
        return max(patch_size, round(side / ratio / patch_size) * patch_size)
