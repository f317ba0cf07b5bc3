"""Recipes: everything that decides what a run computes. Here is what pretraining and the restorer's training share."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from maerestore.masking import FAMILIES, TRAINING
from maerestore.precision import PRECISIONS
from maerestore.train.discriminator import LAYERS
from maerestore.train.values import RecipeError, check, number, pair, read_numbers, whole

Kind = TypeVar("Kind", bound="RunRecipe")


@dataclass
class RunRecipe:
    """Settings that every training run has. Lengths are counted in samples (images seen), not epochs or steps.

    Args:
        samples: length of the run, at least 1.
        batch_size: images a step, over all processes and accumulated parts; a multiple of both.
        accumulate: parts that a batch is computed in, one after the other; the gradients add up.
        base_lr: learning rate at batch 256, over 0; the rate used is `base_lr * batch_size / 256`, as in the MAE paper.
        optimizer: "adamw", or "muon" (momentum orthogonalised, Jordan et al. 2024) for the matrices of the blocks and
            AdamW for the rest; the rates of the two match in RMS, so `base_lr` means the same.
        schedule: "cosine", or "wsd": constant, then linear to zero over the last `decay_share` of the run. The second
            can be lengthened later from any checkpoint before the decay.
        decay_share: in (0, 1].
        warmup_samples: linear warm-up, 0 for none.
        weight_decay: of matrices and kernels, at least 0.
        betas: of AdamW, in [0, 1).
        layer_decay: in (0, 1]: the rate of each encoder block as a multiple of the next one's, as in BEiT's
            fine-tuning; 1 in pretraining. The patch embedding comes below the first block, the decoder has the full
            rate.
        groups: settings for some parameters: {match: a regular expression found in their names, lr: multiple of the
            rate, weight_decay: another one}. The first group that matches counts; lr 0 freezes.
        ema_decay: in [0, 1): decay per step of the averaged weights, which are the ones saved as the model.
        adversarial: settings of a patch discriminator (`maerestore.train.adversary.build_adversary`); empty for none.
            The crops that it sees, from its `start` on, have a side of at least 2^layers.
        resolution: (from sample, side in pixels) pairs, ascending from 0; training may start small.
        crop_scale: area range of the random resized crops, in (0, 1].
        flip: whether crops are mirrored at random.
        short_side: to which photographs are scaled when they are decoded, in pixels; 0 takes a quarter more than the
            largest crop, and no less than what is measured in validation. Packed folders and data sets of small images
            keep their own.
        resident_gb: decoded pixels to hold on the device, in 10^9 bytes; a larger corpus is streamed.
        families: weight of each free-form family (`maerestore.masking.pixels`), at least 0, not all 0.
        mask_count: free-form holes to draw, at least 8.
        rim_width: known pixels around the hole that count in the loss, at 128 px; scaled with the side.
        rim_weight: how much they count, beside 1 for the hole's; at least 0.
        precision: "bf16", "fp32", or "auto": bf16 where the processor has it (`maerestore.precision`).
        compile: whether what is made of many small operations is compiled (`torch.compile`): the blocks of transformers
            and, in pretraining, the cutting of crops; the restorer's networks and its smooth fill.
        seed: of everything random, in [0, 2^32).
        log_every, validate_every, save_every: in samples, at least 1.
        validation_images: how many held-out photographs are measured at most; 0 for none.

    Raises:
        RecipeError: a value of another type or out of range; the message is one line and names the setting.
    """

    samples: int = 1_000_000
    batch_size: int = 256
    accumulate: int = 1
    base_lr: float = 1.5e-4
    optimizer: str = "adamw"
    schedule: str = "cosine"
    decay_share: float = 0.2
    warmup_samples: int = 20_000
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    layer_decay: float = 1.0
    groups: list[dict[str, Any]] = field(default_factory=list)
    ema_decay: float = 0.999
    adversarial: dict[str, Any] = field(default_factory=dict)
    resolution: list[tuple[int, int]] = field(default_factory=list)
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    short_side: int = 0
    resident_gb: float = 8.0
    families: dict[str, float] = field(default_factory=lambda: {"strokes": 1.0, "boxes": 1.0, "blobs": 1.0})
    mask_count: int = 4096
    rim_width: int = 4
    rim_weight: float = 0.25
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    log_every: int = 10_000
    validate_every: int = 100_000
    save_every: int = 100_000
    validation_images: int = 96

    def __post_init__(self) -> None:
        read_numbers(self)
        for f in fields(self):
            if f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise RecipeError(f"{f.name} must be true or false, got {getattr(self, f.name)!r}")
            elif str(f.type).startswith("dict") and not isinstance(getattr(self, f.name), dict):
                raise RecipeError(f"{f.name} is a mapping of settings, got {getattr(self, f.name)!r}")
        for name in ("betas", "crop_scale"):
            setattr(self, name, pair(name, getattr(self, name), number))
        self.groups = _read_groups(self.groups)
        self.adversarial = _read_adversarial(self.adversarial)
        if not isinstance(self.resolution, (list, tuple)):
            raise RecipeError(f"resolution takes [from sample, side] pairs, got {self.resolution!r}")
        self.resolution = [pair("resolution", step, whole) for step in self.resolution] or [(0, self._default_side())]
        self.families = {str(name): number(f"families.{name}", weight) for name, weight in self.families.items()}
        unknown = sorted(set(self.families) - set(FAMILIES) - set(TRAINING))
        starts = [start for start, _ in self.resolution]
        layers = self.adversarial.get("layers", LAYERS)
        judged = self.sides_between(self.adversarial.get("start", 0)) if self.adversarial else []
        check(
            [
                (self.optimizer in ("adamw", "muon"), f"optimizer must be adamw or muon, got {self.optimizer!r}"),
                (self.schedule in ("cosine", "wsd"), f"schedule must be cosine or wsd, got {self.schedule!r}"),
                (self.precision in PRECISIONS, f"precision must be auto, bf16 or fp32, got {self.precision!r}"),
                (self.samples > 0, f"samples must be positive, got {self.samples}"),
                (self.batch_size > 0, f"batch_size must be positive, got {self.batch_size}"),
                (self.base_lr > 0, f"base_lr must be positive, got {self.base_lr}"),
                (self.warmup_samples >= 0, f"warmup_samples must not be negative, got {self.warmup_samples}"),
                (self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}"),
                (0 <= self.ema_decay < 1, f"ema_decay must lie in [0, 1), got {self.ema_decay}"),
                (all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), got {self.betas}"),
                (self.accumulate > 0, f"accumulate must be positive, got {self.accumulate}"),
                (
                    self.batch_size % max(1, self.accumulate) == 0,
                    f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}",
                ),
                (0 < self.layer_decay <= 1, f"layer_decay must lie in (0, 1], got {self.layer_decay}"),
                (self.short_side >= 0, f"short_side must not be negative, got {self.short_side}"),
                (self.resident_gb >= 0, f"resident_gb must not be negative, got {self.resident_gb}"),
                (0 < self.decay_share <= 1, f"decay_share must lie in (0, 1], got {self.decay_share}"),
                (
                    0 < self.crop_scale[0] <= self.crop_scale[1] <= 1,
                    f"crop_scale {self.crop_scale} is no range in (0, 1]",
                ),
                (starts[0] == 0 and starts == sorted(set(starts)), "resolution must start at sample 0 and ascend"),
                (all(side > 0 for _, side in self.resolution), "every side in resolution must be positive"),
                (
                    all(side.bit_length() > layers for side in judged),
                    f"adversarial.layers {layers} halves the side that often: too deep for crops of "
                    f"{min(judged, default=0)} px",
                ),
                (not unknown, f"unknown mask families: {', '.join(unknown)}"),
                (
                    not self._draws_holes()
                    or (all(w >= 0 for w in self.families.values()) and sum(self.families.values()) > 0),
                    f"families needs weights of which some are positive, got {self.families}",
                ),
                (self.mask_count >= 8, f"mask_count must be at least 8, got {self.mask_count}"),
                (self.rim_width >= 0 and self.rim_weight >= 0, "rim_width and rim_weight must not be negative"),
                (0 <= self.seed < 2**32, f"seed must lie in [0, 2^32), got {self.seed}"),
                (
                    min(self.log_every, self.validate_every, self.save_every) > 0,
                    "log_every, validate_every and save_every must be positive",
                ),
                (self.validation_images >= 0, f"validation_images must not be negative, got {self.validation_images}"),
            ]
        )

    def _default_side(self) -> int:
        """The side of the crops where `resolution` says nothing."""
        return 128

    def _largest_side(self) -> int:
        """The largest side of what is cut out of a photograph."""
        return max(side for _, side in self.resolution)

    def _measured_side(self) -> int:
        """The side of the held-out squares that are measured: enlarged ones would be blurred."""
        return 0

    def _draws_holes(self) -> bool:
        """Whether the run needs free-form holes."""
        return True

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

    def sides_between(self, start: int, end: float = math.inf) -> list[int]:
        """The sides of the crops that the run sees between two samples."""
        end = min(end, self.samples)
        ends = [*(first for first, _ in self.resolution[1:]), math.inf]
        seen = zip(self.resolution, ends, strict=True)
        return [side for (first, side), last in seen if max(first, start) < min(last, end)]

    @property
    def decoded_side(self) -> int:
        """Short side that photographs are scaled to when they are decoded."""
        wanted = max(self._largest_side() * 1.25, self._measured_side())
        return self.short_side or 2 * math.ceil(wanted / 2)

    def untold_rate(self, name: str) -> float:
        """The multiple of the rate that a parameter has where no group says one."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-able values."""
        return asdict(self)

    def but(self: Kind, **changes: Any) -> Kind:
        """The same recipe with some settings changed, and checked anew.

        Example:
            >>> RunRecipe(samples=1000).but(batch_size=64).samples
            1000
        """
        return type(self)(**{**self.to_dict(), **changes})


def _read_adversarial(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with numbers for what is one; `build_adversary` checks what they may be."""
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("weight", "feature_matching", "r1", "lr", "weight_decay"):
            read[name] = number(f"adversarial.{name}", value)
        elif name in ("start", "r1_every", "width", "layers"):
            read[name] = whole(f"adversarial.{name}", value)
        else:
            read[name] = pair("adversarial.betas", value, number) if name == "betas" else value
    return read


def _read_groups(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(group, dict) for group in values):
        raise RecipeError(f"groups is a list of mappings with match, lr and weight_decay, got {values!r}")
    groups = []
    for group in values:
        unknown = sorted(set(map(str, group)) - {"match", "lr", "weight_decay"})
        if unknown or not isinstance(group.get("match"), str):
            raise RecipeError(f"a group takes match, lr and weight_decay, got {group!r}")
        try:
            re.compile(group["match"])
        except re.error as err:
            raise RecipeError(f"groups: {group['match']!r} is no regular expression ({err})") from err
        read = {name: number(f"groups.{name}", group[name]) for name in ("lr", "weight_decay") if name in group}
        if any(value < 0 for value in read.values()):
            raise RecipeError(f"groups: lr and weight_decay must not be negative, got {group!r}")
        groups.append({"match": group["match"], **read})
    return groups
