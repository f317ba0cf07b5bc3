"""Pixel masks: the strokes, boxes and blobs that people's holes look like, drawn from a seed.

The stroke and box generators follow the recipe that LaMa (Suvorov et al. 2022, https://arxiv.org/abs/2109.07161)
publishes: brushes of 1 to 5 segments, 5 + rand(max width) wide, 10 + rand(max length) long. Lengths are stated for a
picture of 512 px and scale with the short side drawn, so one seed gives the same hole at every resolution.

Convention:
    A mask is (H, W) uint8, 1 = hole. All randomness comes from the `numpy.random.Generator` given.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import cv2
import numpy as np

REFERENCE_SIZE = 512  # the short side of the picture that stroke and box lengths are stated for
JUDGED_SIZE = 128  # the short side at which a hole's coverage is judged
KNOWN, HOLE, RIM = 0, 1, 2  # what a pixel of `draw_many` is


@dataclass(frozen=True)
class Strokes:
    """A number of brushes; widths and lengths in pixels of a 512 px picture."""

    times: tuple[int, int]
    max_width: int
    max_length: int
    max_angle: float = 4.0

    def draw(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Add the brushes to `mask` (H, W) uint8, in place."""
        height, width = mask.shape
        scale = min(height, width) / REFERENCE_SIZE
        for _ in range(int(rng.integers(self.times[0], self.times[1] + 1))):
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            thickness = max(1, round((5 + rng.uniform(0, self.max_width)) * scale))
            for segment in range(int(rng.integers(1, 6))):
                angle = 0.01 + rng.uniform(0, self.max_angle)
                if segment % 2:
                    angle = 2 * np.pi - angle  # turn back and forth, as a hand does
                length = (10 + rng.uniform(0, self.max_length)) * scale
                end_x = float(np.clip(x + length * np.sin(angle), 0, width))
                end_y = float(np.clip(y + length * np.cos(angle), 0, height))
                cv2.line(mask, (int(x), int(y)), (int(end_x), int(end_y)), (1,), thickness)
                x, y = end_x, end_y


@dataclass(frozen=True)
class Boxes:
    """A number of upright rectangles; sides in pixels of a 512 px picture, kept off the border by a margin."""

    times: tuple[int, int]
    size: tuple[int, int]
    margin: int = 20
    probability: float = 1.0

    def draw(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Add the boxes to `mask` (H, W) uint8, in place."""
        if rng.uniform() >= self.probability:
            return
        height, width = mask.shape
        scale = min(height, width) / REFERENCE_SIZE
        margin = round(self.margin * scale)
        for _ in range(int(rng.integers(self.times[0], self.times[1] + 1))):
            box = [max(1, round(rng.uniform(*self.size) * scale)) for _ in range(2)]
            h, w = min(box[0], height - 2 * margin), min(box[1], width - 2 * margin)
            if h < 1 or w < 1:
                continue
            top = int(rng.integers(margin, height - margin - h + 1))
            left = int(rng.integers(margin, width - margin - w + 1))
            mask[top : top + h, left : left + w] = 1


@dataclass(frozen=True)
class Blobs:
    """Segment-shaped holes: a smooth random field, cut at the quantile that leaves the share wanted."""

    share: tuple[float, float]
    smoothness: tuple[float, float] = (24.0, 64.0)

    def draw(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Add the blobs to `mask` (H, W) uint8, in place."""
        height, width = mask.shape
        # Drawn on a grid that is the same for every resolution, and enlarged.
        grid = [max(2, round(64 * side / min(height, width))) for side in (height, width)]
        field: np.ndarray = rng.standard_normal(grid).astype(np.float32)
        field = cv2.GaussianBlur(field, (0, 0), rng.uniform(*self.smoothness) * 64 / REFERENCE_SIZE)
        field = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
        mask |= (field > np.quantile(field, 1 - rng.uniform(*self.share))).astype(np.uint8)


@dataclass(frozen=True)
class LargeHoles:
    """Boxes up to the whole side and long brushes, as MAT (Li et al. 2022, https://arxiv.org/abs/2203.15270) trains on.

    Fewer than `small_boxes` boxes up to half the side, fewer than `large_boxes` up to the side, fewer than `brushes`
    brushes of 4 to 18 corners; their widths are those of a 512 px picture.
    """

    small_boxes: int = 5
    large_boxes: int = 3
    brushes: int = 9
    width: tuple[float, float] = (12.0, 48.0)

    def draw(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Add boxes and brushes to `mask` (H, W) uint8, in place."""
        height, width = mask.shape
        side = min(height, width)
        scale = side / REFERENCE_SIZE
        for fewer_than, largest in ((self.small_boxes, side / 2), (self.large_boxes, side)):
            for _ in range(int(rng.integers(fewer_than))):
                h, w = (max(1, round(rng.uniform(0, largest))) for _ in range(2))
                top, left = round(rng.uniform(-h / 2, height - h / 2)), round(rng.uniform(-w / 2, width - w / 2))
                mask[max(0, top) : max(0, top + h), max(0, left) : max(0, left + w)] = 1
        for _ in range(int(rng.integers(self.brushes))):
            thickness = max(1, round(rng.uniform(*self.width) * scale))
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            turn = rng.uniform(0, 2 * np.pi)
            for corner in range(int(rng.integers(4, 19))):
                turn += np.pi + rng.normal(0, 2 * np.pi / 15) if corner % 2 else rng.uniform(0, 2 * np.pi)
                length = float(np.clip(rng.normal(side / 8, side / 16), 0, side / 4))
                end_x = float(np.clip(x + length * np.sin(turn), 0, width))
                end_y = float(np.clip(y + length * np.cos(turn), 0, height))
                cv2.line(mask, (int(x), int(y)), (int(end_x), int(end_y)), (1,), thickness)
                x, y = end_x, end_y


@dataclass(frozen=True)
class CentreSquare:
    """A square of half the side in the middle."""

    def draw(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Add the square to `mask` (H, W) uint8, in place; draws nothing from `rng`."""
        h, w = mask.shape
        mask[h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2] = 1


Shape = Strokes | Boxes | Blobs | LargeHoles | CentreSquare

# The evaluation families: thin, medium and thick carry LaMa's published parameters for 512 px, except that boxes keep
# 20 px off the border (LaMa's: 0 for medium, 10 for thick).
FAMILIES: dict[str, tuple[Shape, ...]] = {
    "thin": (Strokes((4, 70), 20, 100),),
    "medium": (Strokes((4, 10), 100, 200), Boxes((1, 5), (30, 150), probability=0.3)),
    "thick": (Strokes((1, 5), 250, 450), Boxes((1, 4), (30, 300), probability=0.3)),
    "centre": (CentreSquare(),),
}

# What a model trains on beside them; LaMa's 256 px training parameters, doubled, and MAT's.
TRAINING: dict[str, tuple[Shape, ...]] = {
    "strokes": (Strokes((1, 5), 200, 400),),
    "boxes": (Boxes((1, 4), (60, 300)),),
    "blobs": (Blobs((0.05, 0.5)),),
    "mat": (LargeHoles(),),
}

# The share of a picture that a hole may cover, by family; a draw outside is drawn again.
COVERAGE: dict[str, tuple[float, float]] = {
    "thin": (0.02, 0.3),
    "medium": (0.1, 0.4),
    "thick": (0.2, 0.5),
    "centre": (0.2, 0.3),
    "strokes": (0.02, 0.5),
    "boxes": (0.02, 0.5),
    "blobs": (0.02, 0.5),
    "mat": (0.02, 0.6),
}


def draw_mask(family: str, size: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw one hole.

    Args:
        family: a key of `FAMILIES` or `TRAINING`.
        size: side, or (height, width), in pixels.
        rng: where the randomness comes from.

    Returns:
        (H, W) uint8, 1 = hole.

    Raises:
        ValueError: an unknown family.

    Example:
        >>> draw_mask("centre", 8, np.random.default_rng(0)).sum()
        np.uint64(16)
    """
    shapes = FAMILIES.get(family) or TRAINING.get(family)
    if shapes is None:
        raise ValueError(f"unknown mask family {family!r}: choose from {', '.join([*FAMILIES, *TRAINING])}")
    shape = (size, size) if isinstance(size, int) else size
    low, high = COVERAGE[family]
    scale = JUDGED_SIZE / min(shape)
    judged = (round(shape[0] * scale), round(shape[1] * scale))
    attempt = 0
    for _ in range(50):  # the least lucky generator needs four draws on average
        # Each attempt has a seed of its own and is judged at one size: the hole is the same at every resolution.
        attempt = int(rng.integers(2**63))
        if low <= _render(shapes, judged, attempt).mean() <= high:
            break
    return _render(shapes, shape, attempt)


def _render(shapes: tuple[Shape, ...], shape: tuple[int, int], seed: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    rng = np.random.default_rng(seed)
    for part in shapes:
        part.draw(mask, rng)
    return mask


def rim(mask: np.ndarray, width: int) -> np.ndarray:
    """The known pixels within `width` pixels of a hole: (H, W) uint8, 1 = rim."""
    if width < 1:
        return np.zeros_like(mask)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return np.asarray(cv2.dilate(mask, kernel), np.uint8) & (1 - mask)


def draw_many(families: dict[str, float], count: int, size: int, seed: int, rim_width: int = 0) -> np.ndarray:
    """Draw `count` square holes from families mixed by weight.

    Args:
        families: weight of each mask family.
        count: holes to draw.
        size: their side in pixels.
        seed: of all of them; each hole has one of its own, (`seed`, place).
        rim_width: mark the known pixels within so many pixels of the hole as well.

    Returns:
        (count, size, size) uint8, `KNOWN`, `HOLE` or, where it was asked for, `RIM`.
    """
    return stacked(draw_each(families, count, size, seed, rim_width), count, size)


def draw_each(
    families: dict[str, float], count: int, size: int, seed: int, rim_width: int = 0, pool: Executor | None = None
) -> Iterator[np.ndarray]:
    """The holes of `draw_many`, one by one, the same with or without `pool`, which starts on all of them at once."""
    names = list(families)
    weights = np.array([families[n] for n in names], float)
    chosen = np.random.default_rng(seed).choice(len(names), size=count, p=weights / weights.sum())
    tasks = [(names[choice], size, seed, i, rim_width) for i, choice in enumerate(chosen)]
    if pool is None:
        return map(_draw_task, tasks)
    return _in_order([pool.submit(_draw_tasks, tasks[start : start + 64]) for start in range(0, count, 64)])


def _in_order(parts: list[Future[list[np.ndarray]]]) -> Iterator[np.ndarray]:
    """What parts give, each forgotten once it is taken. (`Executor.map` cancels the others when a process is killed,
    which the pool of Python 3.11 does not survive: it waits for its processes for ever.)"""
    parts.reverse()
    while parts:
        yield from parts.pop().result()


def stacked(drawn: Iterator[np.ndarray], count: int, size: int) -> np.ndarray:
    """What `draw_each` draws as one array, (count, size, size) uint8."""
    out = np.empty((count, size, size), np.uint8)
    for i, hole in enumerate(drawn):
        out[i] = hole
    return out


def _draw_tasks(tasks: list[tuple[str, int, int, int, int]]) -> list[np.ndarray]:
    return [_draw_task(task) for task in tasks]


def _draw_task(task: tuple[str, int, int, int, int]) -> np.ndarray:
    family, size, seed, place, rim_width = task
    hole = draw_mask(family, size, np.random.default_rng((seed, place)))
    return hole + RIM * rim(hole, rim_width)
