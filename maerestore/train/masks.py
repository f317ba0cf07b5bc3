"""The masks of a training step: patch masks by policy, and free-form holes drawn ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.masking import draw_many, rim
from maerestore.masking.patches import draw_patch_masks, hide_highest, keep_count
from maerestore.train.phases import FREE_FORM, MaskingPhase


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
    """One of five values spread over a range: each is a shape for torch.compile, so there must not be many."""
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
        size: side of the images in pixels.
        patch_size: side of a patch in pixels.
        families: weight of each mask family (`maerestore.masking`).
        count: holes to draw.
        rim_width: known pixels up to this many pixels from the hole count in the loss too.
        rim_weight: how much one of them counts, beside 1 for a hidden pixel.
        seed: of the holes.
        device: where they are kept.
        workers: processes that draw; 16,384 holes take one of them one to two minutes.
    """

    BUCKETS = 8

    def __init__(
        self,
        size: int,
        patch_size: int,
        families: dict[str, float],
        count: int,
        rim_width: int,
        rim_weight: float,
        seed: int,
        device: torch.device,
        workers: int = 1,
    ) -> None:
        holes = draw_many(families, count, size, seed, workers)
        rims = np.stack([rim(hole, rim_width) for hole in holes])
        self.patch_size, self.grid, self.rim_weight, self.device = patch_size, size // patch_size, rim_weight, device
        hidden = holes.reshape(count, self.grid, patch_size, self.grid, patch_size).min((2, 4))  # in bytes, not floats
        visible = (hidden == 0).sum((1, 2))  # patches with at least one known pixel
        order = np.argsort(visible, kind="stable")
        # 0 known, 1 rim, 2 hole: one byte a pixel
        self.holes = torch.from_numpy((2 * holes + rims)[order]).to(device)  # (count, size, size)
        self.visible = torch.from_numpy(visible[order])

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
        pixel_mask = (code == 2).float().contiguous()  # turned or not: one layout, one compilation
        hidden = F.avg_pool2d(pixel_mask, self.patch_size).flatten(1) > 1 - 0.5 / self.patch_size**2  # (n, L)
        mask = hide_highest(noise + 2.0 * hidden, keep)
        removed = F.interpolate(mask.reshape(-1, 1, self.grid, self.grid), scale_factor=float(self.patch_size))
        weight = torch.maximum(torch.maximum(removed, pixel_mask), (code == 1).float() * self.rim_weight)
        return MaskBatch(mask, keep, pixel_mask, weight.contiguous())

    def holes_only(self, total: int, part: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Any of the holes, for networks that see pixels rather than patches.

        Returns:
            (n, 1, size, size) float, 1 = hole; and the weight of each pixel in a loss, alike.
        """
        ids = torch.randint(len(self.holes), (total,), generator=generator, device=self.device)
        turns = torch.rand(3, total, 1, 1, generator=generator, device=self.device) < 0.5
        code = self._turned(ids[part], turns[:, part])
        hole = (code == 2).float().contiguous()
        return hole, (hole + (code == 1).float() * self.rim_weight).contiguous()

    def _turned(self, ids: Tensor, turns: Tensor) -> Tensor:
        """Holes, each flipped down, across, and transposed as (3, n, 1, 1) bools say: (n, 1, size, size)."""
        code = self.holes[ids]
        code = torch.where(turns[0], code.flip(1), code)
        code = torch.where(turns[1], code.flip(2), code)
        return torch.where(turns[2], code.transpose(1, 2), code)[:, None]
