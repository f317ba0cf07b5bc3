"""A photo with its holes, and the windows around them that the model fills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maerestore.image.box import Box
from maerestore.image.canvas import Canvas, ReadableImage
from maerestore.inpaint.blend import BlendCurve, merge_tiles
from maerestore.inpaint.boxes import grow, intersection, slices
from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.inpaint.model_window import ModelWindow, window_scale
from maerestore.inpaint.opacity import raised_opacities
from maerestore.inpaint.regions import Region, distance_to_known
from maerestore.inpaint.windows import plan_windows, seen_size

WORTHWHILE = 0.3  # share of the autoencoder that a hole must reach somewhere to be filled by it

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done and the steps in all."""


class Overlay:
    """Paints fills of all regions into windows of the photo."""

    def __init__(self, regions: list[Region], fills: list[np.ndarray]) -> None:
        self.regions, self.fills = regions, fills
        self.boxes = np.array([region.box for region in regions])

    def paint(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Change `image` (h, w, 3), the photo in `box`, where regions meet it; returns it."""
        meets = (
            (self.boxes[:, 0] < box[2])
            & (self.boxes[:, 2] > box[0])
            & (self.boxes[:, 1] < box[3])
            & (self.boxes[:, 3] > box[1])
        )
        for i in np.flatnonzero(meets):
            own = self.regions[i].box
            both = intersection(own, box)
            hole = self.regions[i].mask[slices(both, own)]
            image[slices(both, box)][hole] = self.fills[i][slices(both, own)][hole]
        return image


@dataclass
class Scene:
    """What every fill of a photo shares.

    Attributes:
        photo: the photo.
        mask: (H, W) bool, True = hole.
        unknown: (H, W) bool, the holes and the transparent pixels; `mask` itself where there are none.
        visible: the photo without the colours of its transparent pixels: what every stage reads.
        regions: its holes, grouped.
        smooth: the harmonic fill of each region, (h, w, 3) float32 over its box.
        distances: (h, w) photo pixels from each region's pixels to the nearest known one.
        plans: the windows of each region; none where the model would add next to nothing.
        scales: model pixels per photo pixel in each of those windows.
        model_size: side in pixels that the model sees windows at, all but those around specks.
    """

    photo: Canvas
    mask: np.ndarray
    unknown: np.ndarray
    visible: ReadableImage
    regions: list[Region]
    smooth: list[np.ndarray]
    distances: list[np.ndarray]
    plans: list[list[Box]]
    scales: list[list[float]]
    model_size: int

    @classmethod
    def plan(
        cls,
        photo: Canvas,
        mask: np.ndarray,
        unknown: np.ndarray,
        visible: ReadableImage,
        regions: list[Region],
        smooth: list[np.ndarray],
        *,
        model_size: int,
        patch_size: int,
        curve: BlendCurve,
    ) -> Scene:
        """Choose the windows.

        Args:
            photo, mask, unknown, visible, regions, smooth: as the attributes.
            model_size: side in pixels that the model sees windows at.
            patch_size: of the model.
            curve: share of the model's fill by distance.
        """
        size = mask.shape[0], mask.shape[1]
        also = None if unknown is mask else unknown
        distances = [distance_to_known(region, size, unknown if region.whole else also) for region in regions]
        plans: list[list[Box]] = []
        scales: list[list[float]] = []
        for region, distance in zip(regions, distances, strict=True):
            # A scratch across the photo would take hundreds of windows, for next to nothing.
            plan = plan_windows(region, size, model_size)
            deepest = max(float(distance.max()), region.thickness / 2 if region.whole else 0)  # parts alike
            seen = [window_scale(box, seen_size(box, size, model_size), patch_size) for box in plan]
            worthwhile = curve(np.array(deepest * max(seen))) >= WORTHWHILE
            plans.append(plan if worthwhile else [])
            scales.append(seen if worthwhile else [])
        return cls(photo, mask, unknown, visible, regions, smooth, distances, plans, scales, model_size)

    @cached_property
    def opacities(self) -> list[np.ndarray | None]:
        """For each region the alpha of its pixels once they are filled: see `raised_opacities`."""
        return raised_opacities(self.photo, self.mask, self.regions)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Runs (start, stop) of regions whose windows are filled together."""
        return list(_groups([len(plan) for plan in self.plans], at_least=32))

    def boxes(self, start: int, stop: int) -> list[Box]:
        """The windows of a run of regions, each once."""
        return list(dict.fromkeys(box for plan in self.plans[start:stop] for box in plan))

    @property
    def windows(self) -> int:
        """How many windows the model fills."""
        return len(self.boxes(0, len(self.plans)))

    def map_windows(
        self, fill_windows: Callable[[list[ModelWindow]], list[np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
        """Fill the windows of all regions, and merge those of each region that overlap.

        Args:
            fill_windows: windows, which show the harmonic fills, to as many pictures (h, w, 3) or (h, w, 1).

        Yields:
            for each region, in their order: the picture (h, w, 3) float32 over its box and the scale (h, w), model
            pixels per photo pixel; None where it has no windows.
        """
        overlay = Overlay(self.regions, self.smooth)
        users: dict[Box, list[int]] = {}
        for i, plan in enumerate(self.plans):
            for box in plan:
                users.setdefault(box, []).append(i)
        pictures: dict[Box, np.ndarray] = {}  # of this group, and those that a later one uses, too
        for start, stop in self.groups:
            boxes = [box for box in self.boxes(start, stop) if box not in pictures]
            windows = [
                ModelWindow(
                    box,
                    overlay.paint(self.visible.rgb(box), box),
                    self.unknown[slices(box)],
                    self._wanted(box, users[box]),
                    seen_size(box, self.unknown.shape[:2], self.model_size),
                )
                for box in boxes
            ]
            pictures.update(zip(boxes, fill_windows(windows) if windows else [], strict=True))
            for i in range(start, stop):
                if self.plans[i]:
                    seen = [pictures[box] for box in self.plans[i]]
                    yield merge_tiles(self.regions[i], self.plans[i], seen, self.scales[i])
                else:
                    yield None
            pictures = {box: picture for box, picture in pictures.items() if users[box][-1] >= stop}

    def _wanted(self, box: Box, users: list[int]) -> np.ndarray:
        """(h, w) bool: the hole pixels in a window, of the regions that use it."""
        wanted = np.zeros((box[2] - box[0], box[3] - box[1]), bool)
        for region in (self.regions[i] for i in users):
            both = intersection(region.box, box)
            wanted[slices(both, box)] |= region.mask[slices(both, region.box)]
        return wanted


def harmonic_fills(
    visible: ReadableImage, mask: np.ndarray, unknown: np.ndarray, regions: list[Region], progress: Progress | None
) -> list[np.ndarray]:
    """The harmonic fill of each region, (h, w, 3) float32 over its box; arguments as of `Scene.plan`."""
    width, height = visible.size
    fills = []
    for i, region in enumerate(regions):
        grown = grow(region.box, region.reach, (height, width))
        hole = np.zeros((grown[2] - grown[0], grown[3] - grown[1]), bool)
        hole[slices(region.box, grown)] = region.mask
        if region.whole:
            hole |= mask[slices(grown)]
        image = visible.rgb(grown)
        image[mask[slices(grown)] & ~hole] = 0  # other holes: no neighbours of this one, and nothing to be seen
        joined = unknown[slices(grown)]
        if unknown is not mask and (joined & ~mask[slices(grown)]).any() and not joined.all():
            hole = joined  # transparent pixels are no rim: the fill goes on through them to visible ones
        fills.append(harmonic_fill(image, hole)[slices(region.box, grown)].copy())
        if progress is not None:
            progress("smoothing", i + 1, len(regions))
    return fills


def _groups(counts: list[int], at_least: int) -> Iterator[tuple[int, int]]:
    """Cut a list into runs (start, stop) of at least so many windows: enough for a batch, few enough for memory."""
    start = held = 0
    for i, count in enumerate(counts):
        held += count
        if held >= at_least:
            yield start, i + 1
            start, held = i + 1, 0
    if start < len(counts):
        yield start, len(counts)
