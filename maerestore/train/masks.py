"""The masks of a training step: patch masks by policy, and free-form holes drawn ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.masking.patches import draw_patch_masks, hide_highest, keep_count
from maerestore.masking.pixels import HOLE, RIM, draw_each, stacked
from maerestore.train.phases import FREE_FORM, MaskingPhase
from maerestore.train.run_recipe import RunRecipe
from maerestore.train.values import RecipeError
from maerestore.train.workers import leave_signals_to_the_parent, was_killed


@dataclass
class MaskBatch:
    """The masks of one training step.

    Attributes:
        mask: (N, L) float, 1 = removed; every row keeps exactly `num_visible`.
        num_visible: K.
        pixel_mask: (N, 1, H, W) float, 1 = unknown; None where only whole patches are hidden.
        pixel_weight: (N, 1, H, W) float, the weight of each pixel in the loss; None for the plain patch loss.
    """

    mask: Tensor
    num_visible: int
    pixel_mask: Tensor | None = None
    pixel_weight: Tensor | None = None


@dataclass(frozen=True)
class MaskChoice:
    """What a step hides: the same in every process, so that shapes agree.

    Attributes:
        policy: one of the phase's.
        amount: share of the patches to remove; for free-form holes, of those that the holes leave.
        bucket: of the holes.
    """

    policy: str
    amount: float
    bucket: int = 0

    @classmethod
    def draw(cls, phase: MaskingPhase, rng: np.random.Generator) -> MaskChoice:
        """Choose a policy by its weight, then its amount."""
        names = list(phase.policies)
        weights = np.array([phase.policies[name] for name in names])
        policy = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        if policy == FREE_FORM:
            return cls(policy, _one_of(phase.free_form_drop, rng), int(rng.integers(HoleBank.BUCKETS)))
        return cls(policy, _one_of(phase.mask_ratio, rng))


def _one_of(span: tuple[float, float], rng: np.random.Generator) -> float:
    """One of five values spread over a range: each is a shape, so there must not be many."""
    return span[0] + (span[1] - span[0]) * int(rng.integers(5)) / 4


def patch_masks(
    choice: MaskChoice,
    total: int,
    part: slice,
    grid: int,
    generator: torch.Generator,
    responses: Callable[[], Tensor],
) -> MaskBatch:
    """Whole patches, by policy.

    Args:
        choice: what the step hides.
        total: images of the whole batch.
        part: those of them that the masks are for.
        grid: patches along a side.
        generator: where the randomness comes from.
        responses: gives (n, L) for the part, where the policy follows attention.
    """
    guided = responses() if choice.policy.startswith("attention") else None
    mask = draw_patch_masks(choice.policy, total, (grid, grid), choice.amount, generator, guided, part)
    return MaskBatch(mask, keep_count(grid * grid, choice.amount))


class HoleBank:
    """Free-form holes drawn once, then looked up, flipped and transposed.

    Batches have static shapes: holes are sorted by how many patches they leave visible, a batch draws from one stretch
    of that order, and rows with patches to spare lose random ones.

    Args:
        drawn: (count, S, S) uint8 from `maerestore.masking.draw_many`: known, hole, rim. Known pixels of the rim count
            in the loss too.
        patch_size: side of a patch in pixels.
        rim_weight: how much one of them counts, beside 1 for a hidden pixel.
        device: where they are kept.
    """

    BUCKETS = 8

    def __init__(self, drawn: np.ndarray, patch_size: int, rim_weight: float, device: torch.device) -> None:
        count, size = drawn.shape[:2]
        self.patch_size, self.grid, self.rim_weight, self.device = patch_size, size // patch_size, rim_weight, device
        holes = torch.from_numpy(drawn).to(device)  # one byte a pixel
        known = (holes != HOLE).view(count, self.grid, patch_size, self.grid, patch_size)
        visible = known.any(4).any(2).sum((1, 2))  # patches with at least one known pixel
        order = visible.argsort(stable=True)
        self.holes = holes[order]  # (count, size, size)
        self.visible = visible[order].cpu()

    def masks(self, choice: MaskChoice, total: int, part: slice, generator: torch.Generator) -> MaskBatch:
        """Holes from the choice's bucket (0 to BUCKETS - 1, the first hide most); hidden pixels and rim have weight.

        A share `choice.amount` of the patches that the holes leave visible is removed at random on top.
        """
        edges = np.linspace(0, len(self.holes), self.BUCKETS + 1).astype(int)
        low = min(int(edges[choice.bucket]), len(self.holes) - 1)
        high = max(int(edges[choice.bucket + 1]), low + 1)  # also where there are fewer holes than buckets
        keep = max(1, int(int(self.visible[low]) * (1 - choice.amount)))
        ids = torch.randint(low, high, (total,), generator=generator, device=self.device)
        turns = torch.rand(3, total, 1, 1, generator=generator, device=self.device) < 0.5
        noise = torch.rand(total, self.grid**2, generator=generator, device=self.device)[part]
        code = self._turned(ids[part], turns[:, part])
        pixel_mask = (code == HOLE).float().contiguous()  # turned or not: one layout
        hidden = F.avg_pool2d(pixel_mask, self.patch_size).flatten(1) > 1 - 0.5 / self.patch_size**2  # (n, L)
        mask = hide_highest(noise + 2.0 * hidden, keep)
        removed = F.interpolate(mask.reshape(-1, 1, self.grid, self.grid), scale_factor=float(self.patch_size))
        weight = torch.maximum(torch.maximum(removed, pixel_mask), (code == RIM).float() * self.rim_weight)
        return MaskBatch(mask, keep, pixel_mask, weight.contiguous())

    def holes_only(self, total: int, part: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Any of the holes, for networks that see pixels rather than patches.

        Returns:
            (n, 1, size, size) float, 1 = hole; and the weight of each pixel in a loss, alike.
        """
        ids = torch.randint(len(self.holes), (total,), generator=generator, device=self.device)
        turns = torch.rand(3, total, 1, 1, generator=generator, device=self.device) < 0.5
        code = self._turned(ids[part], turns[:, part])
        hole = (code == HOLE).float().contiguous()
        return hole, (hole + (code == RIM).float() * self.rim_weight).contiguous()

    def _turned(self, ids: Tensor, turns: Tensor) -> Tensor:
        """Holes, each flipped down, across, and transposed as (3, n, 1, 1) bools say: (n, 1, size, size)."""
        code = self.holes[ids]
        code = torch.where(turns[0], code.flip(1), code)
        code = torch.where(turns[1], code.flip(2), code)
        return torch.where(turns[2], code.transpose(1, 2), code)[:, None]


class HoleBanks:
    """The holes of a run, at the side that it is at: drawn by several processes, those of the next side in advance.

    Args:
        recipe: families, how many holes, rim, seed, and the sides that the run goes through.
        patch_size: side of a patch in pixels; 1 for networks that see pixels.
        device: where holes are kept.
        workers: processes that draw; 16,384 holes of 256 px take one of them two minutes.
    """

    def __init__(self, recipe: RunRecipe, patch_size: int, device: torch.device, workers: int) -> None:
        self.recipe, self.patch_size, self.device = recipe, patch_size, device
        self.workers = workers if recipe.mask_count > 1024 else 1
        self._banks: dict[int, HoleBank] = {}  # one at most
        self._ahead: dict[int, Iterator[np.ndarray]] = {}
        self._pools: list[ProcessPoolExecutor] = []  # one for each side that was drawn

    def at(self, side: int, samples: int = 0) -> HoleBank:
        """The holes at a side in pixels; those of the side before are forgotten.

        Args:
            side: of the holes.
            samples: how many the run has seen: where it is, and what comes next.

        Raises:
            RecipeError: a process that draws was killed.
        """
        if side not in self._banks:
            try:
                self._draw(side, samples)
            except BrokenProcessPool as err:
                raise RecipeError(was_killed("a process that draws holes")) from err
        return self._banks[side]

    def _draw(self, side: int, samples: int) -> None:
        drawing = self._ahead.pop(side) if side in self._ahead else self._start(side)
        drawn = stacked(drawing, self.recipe.mask_count, side)
        self._banks = {side: HoleBank(drawn, self.patch_size, self.recipe.rim_weight, self.device)}
        later = self._next(side, samples)
        if self.workers > 1 and later is not None and later not in self._ahead:
            self._ahead = {later: self._start(later)}

    def close(self) -> None:
        """Draw nothing more."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, side: int) -> Iterator[np.ndarray]:
        recipe = self.recipe
        rim = max(1, recipe.rim_width * side // 128) if recipe.rim_width else 0
        what = recipe.families, recipe.mask_count, side, recipe.seed, rim
        if self.workers < 2:
            return draw_each(*what)
        pool = ProcessPoolExecutor(self.workers, initializer=leave_signals_to_the_parent)
        self._pools.append(pool)
        drawing = draw_each(*what, pool)
        pool.shutdown(wait=False)  # all is submitted: the processes end when it is drawn
        return drawing

    def _next(self, side: int, samples: int) -> int | None:
        """The other side that the run comes to after so many samples; None where it ends before."""
        later = (each for start, each in self.recipe.resolution if samples < start < self.recipe.samples)
        return next((each for each in later if each != side), None)
