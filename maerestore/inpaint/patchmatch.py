"""PatchMatch on one level of a pyramid: for each place in a hole the known patch that fits best, and what it paints.

Barnes et al. 2009, https://doi.org/10.1145/1531326.1531330. Patches are compared by a few dozen principal components,
for all places of the hole at once. `maerestore.inpaint.detail` builds the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 7
RADIUS = PATCH // 2
COMPONENTS = 20  # of the 147 colours of a patch
BRUTE_FORCE = 4_000_000  # pairs of places and sources up to which the first match is exact
MIN_SOURCES = 64
FIRST_TRUST = 0.3  # of the first match in what the patches look like: in the hole they still are smooth
CHUNK = 1 << 16  # places compared at a time: bounds the memory
_NUMBERS: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults of the program are


@dataclass
class Level:
    """One resolution of the pyramid; P is the number of pixels, row by row.

    Attributes:
        image: (h, w, 3), the hole holding the current fill.
        hole: (h, w) bool.
        places: (N,) pixels whose patch touches the hole: each gets a match.
        sources: (M,) pixels whose patch is known throughout. Neither they nor places lie within RADIUS of the border:
            a step beyond it, even one that comes out at the other end of the next row, reaches none of them.
        is_source: (P,) bool.
        guide: (P, 4), weighted: low-passed colours of the photo with its coarse fill; the strength of its texture.
    """

    image: Tensor
    hole: Tensor
    places: Tensor
    sources: Tensor
    is_source: Tensor
    guide: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.hole.shape[0], self.hole.shape[1]


def describe(level: Level, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What patches are compared by: (P, COMPONENTS + 4), their squared distance is the cost of a match.

    Returns:
        the descriptors, and the kernels (COMPONENTS, 3, PATCH, PATCH) of their first part.
    """
    some = level.sources[torch.randint(len(level.sources), (2000,), generator=generator, device="cpu")]
    columns = torch.stack(
        [level.image.view(-1, 3)[some + offset] for offset in _offsets(level)], dim=1
    )  # (2000, 49, 3)
    columns = columns.transpose(1, 2).flatten(1)  # channel first, as the kernels of a convolution
    _, _, axes = torch.linalg.svd(columns - columns.mean(0), full_matrices=False)
    kernels = axes[:COMPONENTS].reshape(-1, 3, PATCH, PATCH) / PATCH  # a mean over the patch, not a sum
    parts = F.conv2d(level.image.permute(2, 0, 1)[None], kernels, padding=RADIUS)[0].flatten(1).T
    return torch.cat([parts, level.guide], dim=1).contiguous(), kernels


def describe_hole(level: Level, features: Tensor, kernels: Tensor) -> None:
    """Bring descriptors up to date with what was painted in the hole; elsewhere none of them changes."""
    rows, columns = level.hole.any(1).nonzero().flatten(), level.hole.any(0).nonzero().flatten()
    height, width = level.shape
    top, bottom = max(0, int(rows[0]) - RADIUS), min(height, int(rows[-1]) + RADIUS + 1)
    left, right = max(0, int(columns[0]) - RADIUS), min(width, int(columns[-1]) + RADIUS + 1)
    pixels = F.pad(level.image.permute(2, 0, 1), (RADIUS,) * 4)  # what lies beyond the border counts as 0
    window = pixels[:, top : bottom + 2 * RADIUS, left : right + 2 * RADIUS]
    parts = F.conv2d(window[None], kernels)[0].movedim(0, 2)
    features.view(height, width, -1)[top:bottom, left:right, :COMPONENTS] = parts


def _offsets(level: Level) -> list[int]:
    """Offsets, in the flat order of pixels, from a patch's centre to its pixels."""
    width = level.shape[1]
    return [dy * width + dx for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]


def first_matches(level: Level, features: Tensor, generator: torch.Generator) -> Tensor:
    """The best source for every place, (N,), of all sources or of as many random ones as is affordable."""
    count = min(len(level.sources), max(MIN_SOURCES, BRUTE_FORCE // len(level.places)))
    candidates = level.sources[torch.randperm(len(level.sources), generator=generator, device="cpu")[:count]]
    trust = torch.ones_like(features[0])
    trust[:COMPONENTS] = FIRST_TRUST
    features = features * trust
    source = features[candidates]
    norms = source.square().sum(1)
    best = [(norms - 2 * features[part] @ source.T).argmin(1) for part in level.places.split(CHUNK // 16)]
    return candidates[torch.cat(best)]


def enlarge(matches: Tensor, shape: tuple[int, int], level: Level, generator: torch.Generator) -> Tensor:
    """Matches of the level below, stretched to this one; what no longer is a source is drawn at random."""
    height, width = level.shape
    small_h, small_w = shape
    y, x = level.places // width, level.places % width
    parent_y, parent_x = (y // 2).clamp(max=small_h - 1), (x // 2).clamp(max=small_w - 1)
    parent = matches[parent_y * small_w + parent_x]
    near_y = (2 * (parent // small_w) + y % 2).clamp(0, height - 1)
    near_x = (2 * (parent % small_w) + x % 2).clamp(0, width - 1)
    stretched = near_y * width + near_x
    lost = (parent < 0) | ~level.is_source[stretched]
    random = level.sources[torch.randint(len(level.sources), (len(stretched),), generator=generator, device="cpu")]
    return torch.where(lost, random, stretched)


def paint_matches(level: Level, matches: Tensor) -> None:
    """Paint each place with the middle of its match: the search must not start from a smooth picture.

    What is smooth is matched best by what is smooth, and the fill would stay without texture.
    """
    in_hole = level.hole.flatten()[level.places]
    colours = level.image.view(-1, 3)
    colours[level.places[in_hole]] = colours[matches[in_hole]]


def search(level: Level, features: Tensor, current: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One round of PatchMatch: neighbours pass on their matches, then random ones ever nearer are tried.

    Args:
        level: where to search.
        features: (P, D), what patches are compared by.
        current: (N,) a source for each of the level's places.
        generator: of the random tries.

    Returns:
        costs (P,) and matches (P,), infinite and -1 where there is no place.
    """
    height, width = level.shape
    places = level.places
    wanted = features.index_select(0, places)
    cost = _cost(features, wanted, current)

    everywhere = torch.full((height * width,), -1, dtype=torch.int64, device="cpu")
    last = len(everywhere) - 1
    for jump in (1, 2, 4, 1):
        for dy, dx in ((0, jump), (0, -jump), (jump, 0), (-jump, 0)):
            everywhere[places] = current
            step = dy * width + dx
            theirs = everywhere.index_select(0, (places + step).clamp_(0, last))
            candidate = torch.where(theirs >= 0, theirs - step, current).clamp_(0, last)
            current, cost = _better(level, features, wanted, current, cost, candidate)
    radius = max(height, width) / 2
    while radius >= 1:
        u = torch.rand(2, len(places), generator=generator, **_NUMBERS) * 2 - 1
        y = (current // width + (u[0] * radius).round().long()).clamp(0, height - 1)
        x = (current % width + (u[1] * radius).round().long()).clamp(0, width - 1)
        current, cost = _better(level, features, wanted, current, cost, y * width + x)
        radius /= 2.5
    everywhere[places] = current
    costs = torch.full((height * width,), float("inf"), **_NUMBERS)
    costs[places] = cost
    return costs, everywhere


def _cost(features: Tensor, wanted: Tensor, matches: Tensor) -> Tensor:
    # Rows taken by index_select come several times faster than those that an index brings; likewise below.
    costs = []
    for want, match in zip(wanted.split(CHUNK), matches.split(CHUNK), strict=True):
        difference = features.index_select(0, match) - want
        costs.append(torch.einsum("nd,nd->n", difference, difference))
    return torch.cat(costs)


def _better(
    level: Level,
    features: Tensor,
    wanted: Tensor,
    current: Tensor,
    cost: Tensor,
    candidate: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take candidates that are sources and cost less."""
    allowed = level.is_source.index_select(0, candidate) & (candidate != current)
    rows = allowed.nonzero().flatten()
    if len(rows) == 0:
        return current, cost
    candidate = candidate.index_select(0, rows)
    new = _cost(features, wanted.index_select(0, rows), candidate)
    won = new < cost.index_select(0, rows)
    rows = rows[won]
    return current.index_copy(0, rows, candidate[won]), cost.index_copy(0, rows, new[won])


def vote(level: Level, matches: Tensor, costs: Tensor) -> Tensor:
    """Colours for the hole's pixels, in their order: (K, 3), the mean of what the patches that cover each one say."""
    colours = level.image.view(-1, 3)
    pixels = level.hole.flatten().nonzero().flatten()
    total = torch.zeros(len(pixels), 3, **_NUMBERS)
    weights = torch.zeros(len(pixels), **_NUMBERS)
    scale = float(costs[level.places].median().clamp(min=1e-6))
    for step in _offsets(level)[::2]:  # every other patch is enough of a vote
        cost, source = _from_patch(level, pixels, matches, costs, step)
        weight = torch.exp(-cost / scale)
        total.addcmul_(weight[:, None], colours.index_select(0, source))
        weights += weight
    return torch.where((weights > 0)[:, None], total / weights.clamp(min=1e-12)[:, None], colours[pixels])


def best_origins(level: Level, matches: Tensor, costs: Tensor) -> Tensor:
    """For the hole's pixels, in their order, the source pixel of the best patch that covers each: (K,)."""
    pixels = level.hole.flatten().nonzero().flatten()
    best = torch.full((len(pixels),), float("inf"), **_NUMBERS)
    origin = pixels.clone()
    for step in _offsets(level):
        cost, source = _from_patch(level, pixels, matches, costs, step)
        won = cost < best
        best, origin = torch.where(won, cost, best), torch.where(won, source, origin)
    return origin


def _from_patch(level: Level, pixels: Tensor, matches: Tensor, costs: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The cost of the patch around each pixel's neighbour, and the pixel's source in it; infinite where none is."""
    centre = (pixels + step).clamp_(0, len(costs) - 1)
    return costs.index_select(0, centre), (matches.index_select(0, centre) - step).clamp_(min=0)
