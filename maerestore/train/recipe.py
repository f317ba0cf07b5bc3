"""A pretraining recipe: everything that decides what a run computes, in one YAML file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from maerestore.errors import MaerestoreError
from maerestore.masking import FAMILIES, TRAINING
from maerestore.model.config import MAEConfig

_Value = TypeVar("_Value")


class RecipeError(MaerestoreError):
    """A recipe that cannot be read or does not fit."""


@dataclass
class PretrainRecipe:
    """Settings of a pretraining run. Lengths are counted in samples (images seen), not epochs or steps.

    Args:
        model: settings of the `MAEConfig`.
        samples: length of the run.
        batch_size: images a step, over all processes.
        base_lr: learning rate at batch 256; the rate used is `base_lr * batch_size / 256`, as in the MAE paper.
        optimizer: "adamw", or "muon" (momentum orthogonalised, Jordan et al. 2024) for the matrices of the blocks and
            AdamW for the rest; the rates of the two match in RMS, so `base_lr` means the same.
        schedule: "cosine", or "wsd": constant, then linear to zero over the last `decay_share` of the run. The second
            can be lengthened later from any checkpoint before the decay.
        warmup_samples: linear warm-up.
        weight_decay, betas: of AdamW.
        ema_decay: decay per step of the averaged weights, which are the ones saved as the model.
        resolution: (from sample, side in pixels) pairs, ascending; training may start small.
        crop_scale: area range of the random resized crops.
        mask_ratio: range of the random patch masks; a batch takes one of five ratios spread over it.
        free_form: share of the batches with free-form pixel masks; the others hide random patches.
        free_form_drop: range of the share of patches that are removed at random beside a free-form hole, drawn like
            `mask_ratio`: a step costs what it keeps.
        families: weight of each free-form family.
        mask_count: free-form holes to draw.
        rim_width, rim_weight: known pixels around the hole that count in the loss, at 128 px; scaled with the side.
        precision: "bf16" or "fp32".
        compile: whether to run `torch.compile`.
        seed: of everything random.
        log_every, validate_every, save_every: in samples.
        validation_images: how many held-out photographs are measured.
    """

    model: dict[str, Any] = field(default_factory=dict)
    samples: int = 1_000_000
    batch_size: int = 256
    base_lr: float = 1.5e-4
    optimizer: str = "adamw"
    schedule: str = "cosine"
    decay_share: float = 0.2
    warmup_samples: int = 20_000
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    ema_decay: float = 0.999
    resolution: list[tuple[int, int]] = field(default_factory=list)
    crop_scale: tuple[float, float] = (0.2, 1.0)
    mask_ratio: tuple[float, float] = (0.75, 0.75)
    free_form: float = 0.0
    free_form_drop: tuple[float, float] = (0.0, 0.0)
    families: dict[str, float] = field(default_factory=lambda: {"strokes": 1.0, "boxes": 1.0, "blobs": 1.0})
    mask_count: int = 4096
    rim_width: int = 4
    rim_weight: float = 0.25
    precision: str = "bf16"
    compile: bool = False
    seed: int = 0
    log_every: int = 10_000
    validate_every: int = 100_000
    save_every: int = 100_000
    validation_images: int = 96

    def __post_init__(self) -> None:
        for name in ("base_lr", "decay_share", "weight_decay", "ema_decay", "free_form", "rim_weight"):
            setattr(self, name, _number(name, getattr(self, name)))
        for name in (
            "samples",
            "batch_size",
            "warmup_samples",
            "mask_count",
            "rim_width",
            "seed",
            "log_every",
            "validate_every",
            "save_every",
            "validation_images",
        ):
            setattr(self, name, _whole(name, getattr(self, name)))
        for name in ("betas", "crop_scale", "mask_ratio", "free_form_drop"):
            setattr(self, name, _pair(name, getattr(self, name), _number))
        config = self.config
        if not isinstance(self.resolution, (list, tuple)):
            raise RecipeError(f"resolution takes [from sample, side] pairs, got {self.resolution!r}")
        self.resolution = [_pair("resolution", step, _whole) for step in self.resolution] or [(0, config.image_size)]
        if not isinstance(self.families, dict):
            raise RecipeError(f"families is a mapping from mask family to weight, got {self.families!r}")
        self.families = {str(name): _number(f"families.{name}", weight) for name, weight in self.families.items()}
        unknown = sorted(set(self.families) - set(FAMILIES) - set(TRAINING))
        starts = [start for start, _ in self.resolution]
        low_ratio, high_ratio = self.mask_ratio
        low_drop, high_drop = self.free_form_drop
        checks = [
            (self.optimizer in ("adamw", "muon"), f"optimizer must be adamw or muon, got {self.optimizer!r}"),
            (self.schedule in ("cosine", "wsd"), f"schedule must be cosine or wsd, got {self.schedule!r}"),
            (self.precision in ("bf16", "fp32"), f"precision must be bf16 or fp32, got {self.precision!r}"),
            (self.samples > 0, f"samples must be positive, got {self.samples}"),
            (self.batch_size > 0, f"batch_size must be positive, got {self.batch_size}"),
            (self.base_lr > 0, f"base_lr must be positive, got {self.base_lr}"),
            (self.warmup_samples >= 0, f"warmup_samples must not be negative, got {self.warmup_samples}"),
            (self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}"),
            (0 <= self.ema_decay < 1, f"ema_decay must lie in [0, 1), got {self.ema_decay}"),
            (all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), got {self.betas}"),
            (0 <= self.free_form <= 1, f"free_form must lie in [0, 1], got {self.free_form}"),
            (config.mask_embed or self.free_form == 0, "free_form masks need a model with mask_embed: true"),
            (0 < self.decay_share <= 1, f"decay_share must lie in (0, 1], got {self.decay_share}"),
            (0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, f"crop_scale {self.crop_scale} is no range in (0, 1]"),
            (0 <= low_ratio <= high_ratio < 1, f"mask_ratio {self.mask_ratio} is no range in [0, 1)"),
            (0 <= low_drop <= high_drop < 1, f"free_form_drop {self.free_form_drop} is no range in [0, 1)"),
            (starts[0] == 0 and starts == sorted(set(starts)), "resolution must start at sample 0 and ascend"),
            (
                all(side > 0 and side % config.patch_size == 0 for _, side in self.resolution),
                f"every side in resolution must be a multiple of the patch size {config.patch_size}",
            ),
            (not unknown, f"unknown mask families: {', '.join(unknown)}"),
            (
                self.free_form == 0
                or (all(w >= 0 for w in self.families.values()) and sum(self.families.values()) > 0),
                f"families needs weights of which some are positive, got {self.families}",
            ),
            (self.mask_count >= 8, f"mask_count must be at least 8, got {self.mask_count}"),
            (self.rim_width >= 0 and self.rim_weight >= 0, "rim_width and rim_weight must not be negative"),
            (self.seed >= 0, f"seed must not be negative, got {self.seed}"),
            (
                min(self.log_every, self.validate_every, self.save_every) > 0,
                "log_every, validate_every and save_every must be positive",
            ),
            (self.validation_images >= 0, f"validation_images must not be negative, got {self.validation_images}"),
        ]
        for holds, message in checks:
            if not holds:
                raise RecipeError(message)

    @property
    def config(self) -> MAEConfig:
        """The model's configuration."""
        if not isinstance(self.model, dict):
            raise RecipeError(f"model is a mapping of settings, got {self.model!r}")
        try:
            return MAEConfig.from_dict(self.model)
        except ValueError as err:
            raise RecipeError(f"model: {err}") from err

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        return self.base_lr * self.batch_size / 256

    def lr_factor(self, samples: int) -> float:
        """What the peak learning rate is multiplied with after so many samples."""
        if samples < self.warmup_samples:
            return (samples + self.batch_size) / (self.warmup_samples + self.batch_size)
        if self.schedule == "wsd":
            return min(1.0, max(0.0, (self.samples - samples) / (self.decay_share * self.samples)))
        progress = (samples - self.warmup_samples) / max(1, self.samples - self.warmup_samples)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def side(self, samples: int) -> int:
        """The side of the crops after so many samples."""
        return [side for start, side in self.resolution if start <= samples][-1]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-able values."""
        return asdict(self)


def load_recipe(path: Path, overrides: list[str] | None = None) -> PretrainRecipe:
    """Read a YAML recipe.

    Args:
        path: the file.
        overrides: "key=value" strings that replace settings; the value is read as YAML.

    Raises:
        RecipeError: not there, no YAML mapping, an unknown key, or a value that does not fit.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for item in overrides or []:
            key, equals, value = item.partition("=")
            if not equals:
                raise RecipeError(f"--set wants KEY=VALUE, got {item!r}")
            if isinstance(values, dict):
                values[key] = yaml.safe_load(value)
    except OSError as err:
        raise RecipeError(f"{path}: cannot be read ({err.strerror})") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise RecipeError(f"{path}: not valid YAML ({str(err).splitlines()[0]})") from err
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of settings")
    unknown = sorted(set(map(str, values)) - {f.name for f in fields(PretrainRecipe)})
    if unknown:
        raise RecipeError(f"{path}: unknown setting(s) {', '.join(unknown)}")
    try:
        return PretrainRecipe(**values)
    except RecipeError as err:
        raise RecipeError(f"{path}: {err}") from err


def _number(name: str, value: Any) -> float:
    """A float; YAML reads 3e-3, without a dot, as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"{name} must be a number, got {value!r}")
    return number


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise RecipeError(f"{name} must be a whole number, got {value!r}")
    return int(number)


def _pair(name: str, value: Any, kind: Callable[[str, Any], _Value]) -> tuple[_Value, _Value]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise RecipeError(f"{name} takes two values, got {value!r}")
    return kind(name, value[0]), kind(name, value[1])
