"""Which patches are hidden while a model trains, and how that changes over the run.

What then stands in them is a setting of the model (`MAEConfig.hidden`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from maerestore.masking.patches import POLICIES
from maerestore.train.values import RecipeError, check, number, pair, whole

FREE_FORM = "free_form"


@dataclass(frozen=True)
class MaskingPhase:
    """Masking from one sample of the run on.

    Args:
        start: the sample the phase begins at ("from" in a recipe); the first phase's is 0.
        policies: weight of each policy, at least 0 and not all 0; a batch takes one of them.
            `maerestore.masking.patches.POLICIES`, and "free_form": holes of pixels (`maerestore.masking.pixels`), which
            need a model with `mask_embed`.
        mask_ratio: share of the patches to remove, a number in [0, 1) or a range, of which a batch takes one of five
            values.
        free_form_drop: the same for the patches that are removed beside a free-form hole.
        ramp: whether policies' weights, ratio and drop move in a straight line to the next phase's.

    Raises:
        RecipeError: an unknown policy, or a value of another type or out of range; the message names the setting.
    """

    start: int = 0
    policies: dict[str, float] = field(default_factory=lambda: {"random": 1.0})
    mask_ratio: tuple[float, float] = (0.75, 0.75)
    free_form_drop: tuple[float, float] = (0.0, 0.0)
    ramp: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.policies, dict) or not self.policies:
            raise RecipeError(f"masking.policies is a mapping from policy to weight, got {self.policies!r}")
        policies = {str(name): number(f"masking.policies.{name}", weight) for name, weight in self.policies.items()}
        object.__setattr__(self, "policies", policies)
        object.__setattr__(self, "start", whole("masking.from", self.start))
        for name in ("mask_ratio", "free_form_drop"):
            value = getattr(self, name)
            span = pair(f"masking.{name}", value if isinstance(value, (list, tuple)) else (value, value), number)
            object.__setattr__(self, name, span)
            if not 0 <= span[0] <= span[1] < 1:
                raise RecipeError(f"masking.{name} {value} is no number or range in [0, 1)")
        unknown = sorted(set(self.policies) - {*POLICIES, FREE_FORM})
        checks = [
            (self.start >= 0, f"masking.from must not be negative, got {self.start}"),
            (
                not unknown,
                f"unknown masking policies: {', '.join(unknown)}; there are {', '.join(POLICIES)}, {FREE_FORM}",
            ),
            (
                min(policies.values()) >= 0 and sum(policies.values()) > 0,
                f"masking.policies needs weights of which some are positive, got {policies}",
            ),
            (isinstance(self.ramp, bool), f"masking.ramp must be true or false, got {self.ramp!r}"),
        ]
        check(checks)

    @classmethod
    def from_dict(cls, values: Any) -> MaskingPhase:
        """Read a phase of a recipe.

        Raises:
            RecipeError: no mapping, an unknown key, or a value that does not fit.
        """
        if not isinstance(values, dict):
            raise RecipeError(f"masking is a mapping, or a list of mappings, got {values!r}")
        values = {("start" if key == "from" else key): value for key, value in values.items()}
        unknown = sorted(set(map(str, values)) - {f.name for f in fields(cls)})
        if unknown:
            raise RecipeError(f"unknown setting(s) of masking: {', '.join(unknown)}")
        return cls(**values)

    def towards(self, other: MaskingPhase, samples: int) -> MaskingPhase:
        """The phase part of the way to the next one, in sixteenths: shapes must not change with every step."""
        share = int(16 * (samples - self.start) / (other.start - self.start)) / 16

        def between(a: float, b: float) -> float:
            return a + share * (b - a)

        def spans(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
            return between(a[0], b[0]), between(a[1], b[1])

        names = {**self.policies, **other.policies}
        return replace(
            self,
            policies={n: between(self.policies.get(n, 0.0), other.policies.get(n, 0.0)) for n in names},
            mask_ratio=spans(self.mask_ratio, other.mask_ratio),
            free_form_drop=spans(self.free_form_drop, other.free_form_drop),
        )


def phase_at(phases: list[MaskingPhase], samples: int) -> MaskingPhase:
    """The phase that holds after so many samples."""
    i = max(i for i, phase in enumerate(phases) if phase.start <= samples)
    if phases[i].ramp and i + 1 < len(phases):
        return phases[i].towards(phases[i + 1], samples)
    return phases[i]


def read_phases(values: Any) -> list[MaskingPhase]:
    """The `masking` of a recipe: one mapping, or a list of them with ascending "from".

    Raises:
        RecipeError: see `MaskingPhase`; or phases that do not start at 0 and ascend.
    """
    given = values if isinstance(values, list) else [values]
    phases = [item if isinstance(item, MaskingPhase) else MaskingPhase.from_dict(item) for item in given]
    starts = [phase.start for phase in phases]
    if not starts or starts[0] != 0 or starts != sorted(set(starts)):
        raise RecipeError(f"the phases of masking must start at sample 0 and ascend, got {starts}")
    return phases
