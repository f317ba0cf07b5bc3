"""The recipe of a pretraining run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from maerestore.masking.patches import keep_count
from maerestore.model.config import MAEConfig
from maerestore.train.contrastive_settings import ContrastiveSettings
from maerestore.train.losses import LossError, parse_terms
from maerestore.train.phases import FREE_FORM, MaskingPhase, phase_at, read_phases
from maerestore.train.run_recipe import RunRecipe
from maerestore.train.values import RecipeError, check


@dataclass
class PretrainRecipe(RunRecipe):
    """Settings of a pretraining run, beside those of `RunRecipe`.

    Args:
        model: settings of the `MAEConfig`, with a decoder; with `mask_embed` where there are free-form masks. Every
            side in `resolution` is a multiple of its patch size.
        loss: weight of each term, at least 0 and not all 0, or its settings (`maerestore.train.losses`).
        masking: a `MaskingPhase`, or a list of them ("from" in samples): policies, mask_ratio, free_form_drop, ramp.
        contrastive: settings of a contrastive loss beside the reconstruction
            (`maerestore.train.contrastive_settings.ContrastiveSettings`); None for none.

    Raises:
        RecipeError: a value of another type or out of range, or settings that do not fit each other; in one line.
    """

    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=lambda: {"masked_mse": 1.0})
    masking: list[MaskingPhase] = field(default_factory=lambda: [MaskingPhase()])
    contrastive: ContrastiveSettings | None = None

    def __post_init__(self) -> None:
        self.masking = read_phases(self.masking)
        self.contrastive = None if self.contrastive is None else ContrastiveSettings.from_dict(self.contrastive)
        super().__post_init__()
        try:
            parse_terms(self.loss)
        except LossError as err:
            raise RecipeError(str(err)) from err
        config = self.config
        check(
            [
                (config.mask_embed or not self._draws_holes(), "free_form masks need a model with mask_embed: true"),
                (config.has_decoder, "model: pretraining needs a decoder, decoder_depth is 0"),
                (
                    all(side % config.patch_size == 0 for _, side in self.resolution),
                    f"every side in resolution must be a multiple of the patch size {config.patch_size}",
                ),
            ]
        )
        self._check_ratios(config)
        if self.contrastive is not None:
            self._check_contrastive(self.contrastive, config)

    def _check_ratios(self, config: MAEConfig) -> None:
        """Every ratio has to leave a patch visible on the smallest crops that it comes to."""
        if not any(weight for phase in self.masking for name, weight in phase.policies.items() if name != FREE_FORM):
            return
        for phase, later in zip_longest(self.masking, self.masking[1:]):
            end = math.inf if later is None else later.start
            held = [phase]
            if phase.ramp and later is not None:
                held.append(phase.towards(later, later.start - 1))  # as far as the ramp goes
            for ratio in (each.mask_ratio[1] for each in held):
                sides = self.sides_between(phase.start, end)
                check([_leaves_some("masking.mask_ratio", ratio, side, config.patch_size) for side in sides])

    def _check_contrastive(self, settings: ContrastiveSettings, config: MAEConfig) -> None:
        check(
            [
                (
                    settings.side % config.patch_size == 0,
                    f"contrastive.side must be a multiple of the patch size {config.patch_size}, got {settings.side}",
                ),
                (
                    settings.hide == 0 or config.hidden == "drop",
                    f"contrastive.hide saves nothing where hidden patches hold a {config.hidden}: set it to 0",
                ),
                (
                    settings.weight == 0 or self.batch_size // self.accumulate > 1,
                    f"the contrastive loss compares photographs, and batch_size {self.batch_size} in accumulate "
                    f"{self.accumulate} parts has one in each: take fewer parts",
                ),
                *(
                    _leaves_some("contrastive.hide", settings.hide, side, config.patch_size)
                    for side in ([settings.side] if settings.side else self.sides_between(0))
                ),
            ]
        )

    def _default_side(self) -> int:
        return self.config.image_size

    def _largest_side(self) -> int:
        return max(super()._largest_side(), self.contrastive.side if self.contrastive is not None else 0)

    def _measured_side(self) -> int:
        return self.config.image_size

    def _draws_holes(self) -> bool:
        return any(phase.policies.get(FREE_FORM, 0.0) > 0 for phase in self.masking)

    @property
    def config(self) -> MAEConfig:
        """The model's configuration."""
        if not isinstance(self.model, dict):
            raise RecipeError(f"model is a mapping of settings, got {self.model!r}")
        try:
            return MAEConfig.from_dict(self.model)
        except ValueError as err:
            raise RecipeError(f"model: {err}") from err

    def phase(self, samples: int) -> MaskingPhase:
        """How images are masked after so many samples."""
        return phase_at(self.masking, samples)


def _leaves_some(name: str, ratio: float, side: int, patch_size: int) -> tuple[bool, str]:
    """A condition for `check`: that a share of the patches hidden leaves one of a crop visible."""
    patches = (side // patch_size) ** 2
    return keep_count(patches, ratio) > 0, f"{name} {ratio:g} leaves none of the {patches} patches of {side} px visible"
