"""Photo and mask in, photo out: regions -> harmonic fill -> windows -> autoencoder -> blend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import torch

from maerestore.image import InputError, Photo
from maerestore.inpaint.arrays import FloatImage, as_canvas, as_mask, in_kind_of
from maerestore.inpaint.blend import BlendCurve, blend, merge_tiles
from maerestore.inpaint.coarse import Window, coarse_fill, window_scale
from maerestore.inpaint.detail import synthesize
from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.inpaint.windows import (
    Box,
    Region,
    cut,
    distance_to_known,
    find_regions,
    grow,
    plan_blocks,
    plan_windows,
    surroundings,
)
from maerestore.model import MaskedAutoencoder

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done and the steps in all."""

WORTHWHILE = 0.3  # share of the autoencoder that a hole must reach somewhere to be looked at by it

Canvas = TypeVar("Canvas", bound=Photo | FloatImage)

Piece = tuple[np.ndarray, np.ndarray, Box]
"""A fill (h, w, 3), its mask (h, w) and their place in the photo."""


@dataclass
class Report:
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


class Inpainter:
    """Fills holes in photographs.

    Convention:
        A mask is True, or at least half of its range, where the photo is to be filled. Known pixels come back bit by
        bit as they were. The same input gives the same output on one device.

    Args:
        model: a masked autoencoder that predicts pixels; it is put in eval mode and frozen.
        curve: how its fill is joined with the harmonic one; None for a plain ramp.
        smooth: sigma of a low-pass over its fill, in pixels of the model.
        size: side in pixels that the model sees windows at, a multiple of its patch size; None for its image size.
        device: where to run.

    Example:
        >>> from maerestore import Inpainter                                   # doctest: +SKIP
        >>> filled = Inpainter.from_pretrained().inpaint(photo, mask)          # doctest: +SKIP
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        curve: BlendCurve | None = None,
        smooth: float = 0.0,
        size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.curve = curve or BlendCurve()
        self.smooth = smooth
        self.size = size or model.config.image_size

    @classmethod
    def from_pretrained(
        cls, name: str | None = None, *, device: str = "auto", revision: str | None = None, **hub: Any
    ) -> Inpainter:
        """Load a model and the settings fitted for it.

        A model of another library (see `maerestore.hub.load.load_autoencoder`) has no such settings: it is joined by a
        plain ramp, at its own image size.

        Args:
            name: None or "default" for the bundled model, a folder, a file of weights (`.pth`, `.safetensors`, ...), or
                "org/name[@revision]" on the Hugging Face Hub.
            device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".
            revision: of the Hub repository, when not in the name.
            **hub: passed to `huggingface_hub` (token, cache_dir, local_files_only).

        Raises:
            maerestore.hub.ModelError: no such model, files that do not fit, or a model without a decoder.
        """
        from maerestore.hub.errors import ModelError
        from maerestore.hub.fetch import resolve_model
        from maerestore.hub.load import load_autoencoder, pick_device, read_notes

        source = resolve_model(name, revision=revision, **hub)
        fill = read_notes(source).get("fill", {})
        model = load_autoencoder(source, need_decoder=True)
        try:
            curve = BlendCurve(**fill["curve"]) if "curve" in fill else None
            smooth = float(fill.get("smooth", 0.0))
            size = int(fill.get("size", 0)) or None
            patch = model.config.patch_size
            if not 0 <= smooth <= 64 or (size is not None and (size < patch or size % patch)):
                raise ValueError(f"smooth {smooth}, size {size}")
        except (TypeError, ValueError, OverflowError) as err:
            raise ModelError(f"{source}: the fill settings in its config do not fit ({err})") from err
        return cls(model, curve, smooth, size, pick_device(device))

    def inpaint(
        self,
        image: Any,
        mask: Any,
        *,
        dilate: int = 0,
        feather: int = 0,
        sharp: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Any:
        """Fill an image, or a batch of tensors, and return the kind that came in.

        Args:
            image: a PIL image; a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or float in
                [0, 1]; or a tensor (C, H, W) or (B, C, H, W), uint8 or float in [0, 1].
            mask: what to fill: PIL image, array (H, W) or tensor ((B,) (1,) H, W); bool, or any range.
            dilate: grow the mask by this many pixels.
            feather: ramp from the rim's continuation to the fill over this many pixels.
            sharp: give the fill the texture of the photo's known parts; False leaves it smooth.
            seed: of the search for that texture.
            progress: see `Progress`.

        Raises:
            maerestore.image.InputError: sizes that differ, a mask without any known pixel, values that are no image.

        Shape:
            The result has the shape, dtype and device of `image`.
        """
        if isinstance(image, torch.Tensor) and image.ndim == 4:
            masks = mask if isinstance(mask, torch.Tensor) else torch.as_tensor(np.asarray(mask))
            if masks.ndim == 2 or len(masks) == 1:  # one mask for all
                masks = masks.reshape(masks.shape[-2:]).expand(len(image), -1, -1)
            if len(masks) != len(image):
                raise InputError(f"{len(masks)} masks for {len(image)} images: give one mask for each, or one for all")
            filled = [
                self.inpaint(i, m, dilate=dilate, feather=feather, sharp=sharp, seed=seed, progress=progress)
                for i, m in zip(image, masks, strict=True)
            ]
            return torch.stack(filled) if filled else image.clone()
        canvas = as_canvas(image)
        filled_canvas, _ = self.fill(
            canvas, as_mask(mask, canvas.size), dilate, feather, sharp=sharp, seed=seed, progress=progress
        )
        return in_kind_of(filled_canvas, image)

    def fill(
        self,
        photo: Canvas,
        mask: np.ndarray,
        dilate: int = 0,
        feather: int = 0,
        *,
        sharp: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Canvas, Report]:
        """Fill a photo as read from its file.

        Args:
            photo: what `maerestore.image.read_photo` gave.
            mask: (H, W) bool, True = fill.
            dilate, feather, sharp, seed, progress: as for `inpaint`.

        Returns:
            the photo with only the masked samples changed, and what was done.
        """
        for name, value in (("dilate", dilate), ("feather", feather)):
            if not isinstance(value, (int, np.integer)) or value < 0:
                raise InputError(f"{name} must be a whole number of pixels, 0 or more, got {value!r}")
        if not isinstance(sharp, (bool, np.bool_)):
            raise InputError(f"sharp must be True or False, got {sharp!r}")
        if not -(2**63) <= seed < 2**64:
            raise InputError(f"seed must fit 64 bits, got {seed}")
        width, height = photo.size
        if mask.shape != (height, width):
            raise InputError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]}, the photo {width}x{height}: they must agree"
            )
        report = Report()
        if dilate:
            known = (~mask).astype(np.uint8)
            mask = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= dilate if mask.any() else mask
        if not mask.any():
            return photo, report
        if mask.all():
            raise InputError("the mask covers the whole photo: leave some of it known, or pass --mask-white keep")
        report.pixels = int(mask.sum())
        with report.stage("regions"):
            regions = find_regions(mask)
        report.holes = len(regions)
        with report.stage("harmonic"):
            smooth = _harmonic(photo, mask, regions, progress)
        with report.stage("coarse"):
            pieces = self._pieces(photo, mask, regions, smooth, feather, report, progress)
        if sharp:
            with report.stage("detail"):
                pieces = _sharpen(photo, mask, regions, pieces, seed, progress)
        with report.stage("paste"):
            return cast(Canvas, photo.with_fills(pieces)), report

    def _pieces(
        self,
        photo: Photo | FloatImage,
        mask: np.ndarray,
        regions: list[Region],
        smooth: list[np.ndarray],
        feather: int,
        report: Report,
        progress: Progress | None,
    ) -> list[Piece]:
        """The finished fill of every region."""
        size = mask.shape[0], mask.shape[1]
        patch = self.model.config.patch_size
        plans: list[list[Box]] = []
        distances = [distance_to_known(region, size) for region in regions]
        for region, distance in zip(regions, distances, strict=True):
            # A scratch across the photo would take hundreds of windows, for next to nothing.
            plan = plan_windows(region, size, self.size)
            reach = float(distance.max()) * max(window_scale(box, self.size, patch) for box in plan)
            plans.append(plan if self.curve(np.array(reach)) >= WORTHWHILE else [])
        groups = list(_groups([len(plan) for plan in plans], at_least=32))
        shared = [list(dict.fromkeys(box for plan in plans[start:stop] for box in plan)) for start, stop in groups]
        done, total = 0, sum(map(len, shared))
        report.windows = total
        overlay = _Overlay(regions, smooth)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("filling", done, total)

        pieces: list[Piece] = []
        for (start, stop), boxes in zip(groups, shared, strict=True):
            windows = [Window(box, overlay.paint(photo.rgb(box), box), mask[cut(box)]) for box in boxes]
            pictures = dict(zip(boxes, coarse_fill(self.model, windows, self.size, self.smooth, advance), strict=True))
            for i in range(start, stop):
                region, box = regions[i], regions[i].box
                if not plans[i]:
                    pieces.append((smooth[i], region.mask, box))
                    continue
                scales = [window_scale(b, self.size, patch) for b in plans[i]]
                coarse, scale = merge_tiles(region, plans[i], [pictures[b] for b in plans[i]], scales)
                pieces.append((blend(smooth[i], coarse, distances[i], scale, self.curve, feather), region.mask, box))
        return pieces


class _Overlay:
    """Paints the harmonic fills of all regions into windows of the photo."""

    def __init__(self, regions: list[Region], smooth: list[np.ndarray]) -> None:
        self.regions, self.smooth = regions, smooth
        self.boxes = np.array([region.box for region in regions])

    def paint(self, image: np.ndarray, box: Box) -> np.ndarray:
        meets = (
            (self.boxes[:, 0] < box[2])
            & (self.boxes[:, 2] > box[0])
            & (self.boxes[:, 1] < box[3])
            & (self.boxes[:, 3] > box[1])
        )
        for i in np.flatnonzero(meets):
            own = self.regions[i].box
            shared = (max(own[0], box[0]), max(own[1], box[1]), min(own[2], box[2]), min(own[3], box[3]))
            hole = self.regions[i].mask[cut(shared, own)]
            image[cut(shared, box)][hole] = self.smooth[i][cut(shared, own)][hole]
        return image


def _harmonic(
    photo: Photo | FloatImage, mask: np.ndarray, regions: list[Region], progress: Progress | None
) -> list[np.ndarray]:
    """The harmonic fill of each region, (h, w, 3) float32 over its box."""
    width, height = photo.size
    fills = []
    for i, region in enumerate(regions):
        grown = grow(region.box, 1, (height, width))
        hole = np.zeros((grown[2] - grown[0], grown[3] - grown[1]), bool)
        hole[cut(region.box, grown)] = region.mask
        image = photo.rgb(grown)
        image[mask[cut(grown)] & ~hole] = 0  # other holes: no neighbours of this one, and nothing to be seen
        fills.append(harmonic_fill(image, hole)[cut(region.box, grown)].copy())
        if progress is not None:
            progress("smoothing", i + 1, len(regions))
    return fills


def _sharpen(
    photo: Photo | FloatImage,
    mask: np.ndarray,
    regions: list[Region],
    pieces: list[Piece],
    seed: int,
    progress: Progress | None,
) -> list[Piece]:
    """Give the smooth fill of every region the texture of its surroundings, block by block."""
    size = mask.shape[0], mask.shape[1]
    blocks = [(i, block) for i, region in enumerate(regions) for block in plan_blocks(region)]
    overlay = _Overlay(regions, [fill for fill, _, _ in pieces])
    drawn_from = ~mask  # known pixels; deep in a hole, where none is near, also what earlier blocks drew
    for done, (i, block) in enumerate(blocks):
        area = grow(block, surroundings(regions[i]), size)
        hole = np.zeros((area[2] - area[0], area[3] - area[1]), bool)
        hole[cut(block, area)] = regions[i].mask[cut(block, regions[i].box)]
        known = ~mask[cut(area)]
        if known.sum() < 4 * hole.sum() // 10:
            known = drawn_from[cut(area)].copy()
        drawn = synthesize(overlay.paint(photo.rgb(area), area), hole, known, seed)
        # Written where the overlay reads, so that the next block continues this one.
        fill = pieces[i][0][cut(block, regions[i].box)]
        own = hole[cut(block, area)]
        fill[own] = drawn[cut(block, area)][own]
        drawn_from[cut(block)] |= own
        if progress is not None:
            progress("sharpening", done + 1, len(blocks))
    return pieces


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
