"""Patch masks for a batch of images: random, block, grid, and guided by attention.

Every policy gives each patch a score and removes those with the highest, so that all rows of a batch keep exactly the
same number of patches: shapes are static, whatever the policy.

Convention:
    A mask is (N, L) float, 1 = removed, L = rows * columns in raster order. All randomness comes from the
    `torch.Generator` given, which also says on which device the mask is made.

Reference: random and grid are the samplings compared in He et al. 2022 (https://arxiv.org/abs/2111.06377, table 1f);
block follows BEiT (https://arxiv.org/abs/2106.08254); attention-guided masks follow AttMask
(https://arxiv.org/abs/2203.12719).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

POLICIES = ("random", "block", "grid", "attention", "attention-keep")


def keep_count(length: int, mask_ratio: float) -> int:
    """How many of `length` patches a ratio leaves visible: `int(length * (1 - mask_ratio))`, as in the reference.

    Raises:
        ValueError: a ratio outside [0, 1].
    """
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio must lie in [0, 1], got {mask_ratio}")
    return int(length * (1 - mask_ratio))


def hide_highest(scores: Tensor, keep: int) -> Tensor:
    """Remove all but the `keep` patches of each row with the lowest scores: (N, L) -> (N, L)."""
    mask = torch.ones_like(scores, dtype=torch.float32)
    return mask.scatter_(1, scores.argsort(1)[:, :keep], 0.0)


def random_scores(n: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Uniform noise: every patch is as likely to go as any other."""
    return torch.rand(n, grid[0] * grid[1], generator=generator, device=generator.device, dtype=torch.float32)


def block_scores(n: int, grid: tuple[int, int], generator: torch.Generator, boxes: int = 32) -> Tensor:
    """Rectangles of 5 to 25 % of the grid and aspect 1/3 to 3, one after the other: the first hides its patches first.

    They may reach over the border. Were they to lie inside, as in BEiT, three quarters hidden would be the middle
    nearly always and a corner hardly ever (98 and 15 % of the masks on a grid of 14 x 14).

    Args:
        n: rows of the batch.
        grid: patches (down, across).
        generator: where the randomness comes from.
        boxes: how many rectangles each row has in store; what they leave over goes at random.
    """
    rows, columns = grid
    device = generator.device
    area, shape, top, left = torch.rand(4, n, boxes, generator=generator, device=device, dtype=torch.float32)
    area = (0.05 + 0.2 * area) * rows * columns
    aspect = torch.exp((2 * shape - 1) * math.log(3))
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = ((rows + height - 1) * top).floor() - height + 1
    left = ((columns + width - 1) * left).floor() - width + 1
    y = torch.arange(rows, device=device)[None, None, :, None]
    x = torch.arange(columns, device=device)[None, None, None, :]
    inside = (y >= top[:, :, None, None]) & (y < (top + height)[:, :, None, None])
    inside = (
        inside & (x >= left[:, :, None, None]) & (x < (left + width)[:, :, None, None])
    )  # (n, boxes, rows, columns)
    order = torch.arange(boxes, 0, -1, device=device, dtype=torch.float32)[None, :, None, None]
    first = (inside * order).amax(1).flatten(1)  # (n, L): the earliest box counts, 0 outside all
    return first + random_scores(n, grid, generator)


def grid_scores(n: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Evenly spread: any ratio keeps a regular lattice, 0.75 one patch of each 2 x 2, shifted at random in each row."""
    device = generator.device
    tile = torch.zeros(1, 1, device=device, dtype=torch.float32)
    while tile.shape[0] < max(grid):  # ordered dithering: each level puts its patches farthest from those before
        tile = torch.cat([torch.cat([4 * tile, 4 * tile + 2], 1), torch.cat([4 * tile + 3, 4 * tile + 1], 1)])
    side = tile.shape[0]
    shift = torch.randint(side, (2, n, 1), generator=generator, device=device)
    y = (torch.arange(grid[0], device=device)[None] + shift[0]) % side
    x = (torch.arange(grid[1], device=device)[None] + shift[1]) % side
    # Patches of a level that is not kept whole go at random, not in the order of the dither.
    ranks = tile[y[:, :, None], x[:, None, :]].flatten(1)  # (n, L)
    level = torch.ceil(torch.log2(ranks + 1) - 1e-6)  # 0, 1, 2, ...: twice as many patches at each
    return level + random_scores(n, grid, generator) * 0.999


# Of the policies that no attention guides; the guided ones take `random_scores` as the noise of `attention_scores`.
SCORES = {"random": random_scores, "block": block_scores, "grid": grid_scores}


def attention_scores(responses: Tensor, noise: Tensor, hide: str = "high", jitter: float = 0.25) -> Tensor:
    """Guided by attention: hide the patches of the highest responses, or keep them.

    Args:
        responses: (N, L) from `MaskedAutoencoder.responses`; only their order counts.
        noise: (N, L) uniform in [0, 1).
        hide: "high" removes the most attended patches, "low" keeps them.
        jitter: in ranks as a share of L; 0 makes the mask a function of the image alone.

    Raises:
        ValueError: `hide` is neither.
    """
    if hide not in ("high", "low"):
        raise ValueError(f"hide must be high or low, got {hide!r}")
    ranks = responses.argsort(1).argsort(1).float() / max(1, responses.shape[1] - 1)
    return (ranks if hide == "high" else 1 - ranks) + jitter * noise


def draw_patch_masks(
    policy: str,
    n: int,
    grid: tuple[int, int],
    mask_ratio: float,
    generator: torch.Generator,
    responses: Tensor | None = None,
    part: slice | None = None,
) -> Tensor:
    """Masks of one policy for a batch.

    Args:
        policy: "random"; "block"; "grid"; "attention", which hides the most attended patches; "attention-keep", which
            keeps them.
        n: images in the batch.
        grid: patches (down, across).
        mask_ratio: share of the patches to remove, in [0, 1]; every row keeps `keep_count` of them.
        generator: where the randomness comes from; the mask is made on its device.
        responses: (N, L), for the policies guided by attention; where `part` is given, of that part only.
        part: which of the n rows to return. All are drawn, so that processes that share a generator's seed and take
            a part each make the masks of one whole batch.

    Returns:
        (N, L) float32, 1 = removed.

    Raises:
        ValueError: an unknown policy, a ratio outside [0, 1], or no responses of that shape where they are needed.

    Example:
        >>> mask = draw_patch_masks("grid", 1, (4, 4), 0.75, torch.Generator().manual_seed(0))
        >>> int((1 - mask).sum())
        4
    """
    keep = keep_count(grid[0] * grid[1], mask_ratio)
    part = slice(None) if part is None else part
    if policy not in POLICIES:
        raise ValueError(f"unknown masking policy {policy!r}: choose from {', '.join(POLICIES)}")
    scores = SCORES.get(policy, random_scores)(n, grid, generator)[part]
    if policy not in SCORES:
        if responses is None:
            raise ValueError(f"the policy {policy!r} needs the responses of the patches")
        if responses.shape != scores.shape:  # one row would go unnoticed: it would serve all of them
            raise ValueError(f"responses must be {tuple(scores.shape)}, got {tuple(responses.shape)}")
        scores = attention_scores(responses, scores, "high" if policy == "attention" else "low")
    return hide_highest(scores, keep)
