"""What the stages of a fill do with the windows and regions of a scene, and the report of what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from maerestore.image import InputError
from maerestore.image.canvas import Canvas, is_transparent
from maerestore.image.photo import Piece
from maerestore.inpaint.blend import BlendCurve, blend
from maerestore.inpaint.checks import check_whole
from maerestore.inpaint.model_window import ModelWindow
from maerestore.inpaint.regions import cut_all, dilated, find_regions
from maerestore.inpaint.scene import Progress, Scene, harmonic_fills
from maerestore.inpaint.visible import unknown_pixels, visible_photo


class WindowModel(Protocol):
    """A network that fills windows: a picture (h, w, 3) float32 for each."""

    def __call__(self, windows: list[ModelWindow], *, progress: Callable[[int], None]) -> list[np.ndarray]: ...


@dataclass
class FillReport:
    """What a fill did.

    Attributes:
        holes: regions of the mask that were filled (holes that lie close together count as one).
        pixels: how many pixels were filled.
        windows: how many windows the model saw.
        seconds: wall-clock seconds by stage.
    """

    holes: int = 0
    pixels: int = 0
    windows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that passes inside to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def find_scene(
    photo: Canvas,
    mask: np.ndarray,
    dilate: int,
    model_size: int,
    patch_size: int,
    curve: BlendCurve,
    report: FillReport,
    progress: Progress | None,
) -> Scene | None:
    """Find the holes, fill them smoothly, and choose the windows that the model sees them through.

    Args:
        photo: the photo.
        mask: (H, W) bool, True = fill.
        dilate: grow the mask by this many pixels.
        model_size, patch_size, curve: as for `Scene.plan`.
        report: gets what was found, and the seconds of "regions" and "harmonic".
        progress: see `Progress`.

    Returns:
        the scene; None where there is nothing to fill.

    Raises:
        InputError: sizes that differ, or a mask without any known pixel.
    """
    check_whole("dilate", dilate)
    width, height = photo.size
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        told = f"{type(mask).__name__} of {mask.dtype}" if hasattr(mask, "dtype") else type(mask).__name__
        raise InputError(
            f"the mask of a photo must be a NumPy array of bool, got {told}: maerestore.image.read_mask("
            "path, photo.size) gives one, and inpaint() takes others"
        )
    if mask.shape != (height, width):
        size = "x".join(map(str, mask.shape[::-1]))
        raise InputError(f"the mask is {size}, the photo {width}x{height}: they must agree")
    given, mask = mask, dilated(mask, dilate)
    if not mask.any():
        return None
    if mask.all():
        grown = "" if given.all() else f" grown by {dilate} pixels"
        raise InputError(f"the mask{grown} covers the whole photo: leave some of it known")
    report.pixels = int(mask.sum())
    with report.stage("regions"):
        regions = find_regions(mask)
        report.holes = len(regions)
        parts = cut_all(regions)
        if len(parts) > len(regions) and not is_transparent(photo):
            regions = parts  # of a transparent one each stays whole: how opaque it becomes is told of all of it
    with report.stage("harmonic"):
        unknown = unknown_pixels(photo, mask)
        visible = visible_photo(photo, mask, unknown)
        smooth = harmonic_fills(visible, mask, unknown, regions, progress)
    scene = Scene.plan(
        photo, mask, unknown, visible, regions, smooth, model_size=model_size, patch_size=patch_size, curve=curve
    )
    report.windows = scene.windows
    return scene


def smooth_pieces(
    scene: Scene,
    fill_windows: WindowModel,
    curve: BlendCurve,
    feather: int,
    report: FillReport,
    progress: Progress | None,
) -> list[Piece]:
    """The autoencoder's fill of every region, joined to the harmonic one by the distance from what is known.

    Args:
        scene: the holes.
        fill_windows: the autoencoder.
        curve: its share by distance.
        feather: pixels over which it sets in.
        report: gets the seconds of "coarse".
        progress: see `Progress`.
    """
    with report.stage("coarse"):
        advance = counter("filling", scene.windows, progress)
        pieces: list[Piece] = []
        for i, seen in enumerate(scene.map_windows(partial(fill_windows, progress=advance))):
            region, fill = scene.regions[i], scene.smooth[i]
            if seen is not None:
                coarse, scale = seen
                fill = blend(fill, coarse, scene.distances[i], scale, curve, feather)
            pieces.append((fill, region.mask, region.box))
    return pieces


def refined_pieces(
    scene: Scene, fill_windows: WindowModel, feather: int, report: FillReport, progress: Progress | None
) -> tuple[list[Piece], list[np.ndarray | None]]:
    """The refiner's fill of every region that the model looks at, and how deep in the hole its pixels are.

    Args:
        scene: the holes.
        fill_windows: the refiner.
        feather: pixels over which the fill sets in.
        report: gets the seconds of "refine".
        progress: see `Progress`.
    """
    pieces: list[Piece] = []
    refined: list[np.ndarray | None] = []
    with report.stage("refine"):
        advance = counter("refining", scene.windows, progress)
        for i, seen in enumerate(scene.map_windows(partial(fill_windows, progress=advance))):
            fill, mask, box = scene.smooth[i], scene.regions[i].mask, scene.regions[i].box
            looked_at: np.ndarray | None = None
            if seen is not None:  # else so thin that the harmonic fill is the best there is
                (picture, _), distance = seen, scene.distances[i]
                if feather > 0:
                    picture = fill + np.clip(distance / feather, 0, 1)[..., None] * (picture - fill)
                fill = np.where(mask[..., None], picture, fill).astype(np.float32)
                looked_at = np.where(mask, distance, 0)
            pieces.append((fill, mask, box))
            refined.append(looked_at)
    return pieces, refined


def counter(stage: str, total: int, progress: Progress | None) -> Callable[[int], None]:
    """A function that adds to the steps done of a stage."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(stage, done, total)

    return advance
