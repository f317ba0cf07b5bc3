"""Photo and mask in, photo out: regions -> harmonic fill -> windows -> autoencoder -> blend -> refiner -> texture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch

from maerestore.errors import MaerestoreError
from maerestore.image import InputError, Photo
from maerestore.image.canvas import Canvas
from maerestore.image.photo import Piece
from maerestore.inpaint.arrays import FloatImage, as_canvas, in_kind_of, of_type
from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.checks import check_fill, check_seed, check_settings, check_whole
from maerestore.inpaint.coarse import coarse_fill
from maerestore.inpaint.confidence import confidence_map, spread_of_draws
from maerestore.inpaint.masks import as_mask, as_masks
from maerestore.inpaint.model_window import Hiding, ModelWindow
from maerestore.inpaint.pretrained import Pretrained
from maerestore.inpaint.refine import refined_fill
from maerestore.inpaint.sampling import HiddenBlocks, ranked, seed_of_sample
from maerestore.inpaint.scene import Progress, Scene
from maerestore.inpaint.stages import FillReport, counter, find_scene, refined_pieces, smooth_pieces
from maerestore.inpaint.texture import sharpen
from maerestore.model import MaskedAutoencoder
from maerestore.model.refiner import Refiner
from maerestore.model.restorer import Restorer
from maerestore.precision import autocast, uses_bf16
from maerestore.threads import one_thread_if_forked

AnyCanvas = TypeVar("AnyCanvas", bound=Canvas)


@dataclass
class _Task:
    """A photo that is being filled: its scene, the ramp at the rim in pixels, and who is told what is done."""

    scene: Scene
    feather: int
    report: FillReport
    progress: Progress | None


class Inpainter(Pretrained):
    """Fills holes in photographs.

    Convention:
        A mask is True where the photo is to be filled; of numbers half of their range counts as True, see
        `maerestore.inpaint.masks.as_mask`. Known pixels come back bit by bit as they were. The same input gives the
        same output on one device with one number of threads (another one adds up in another order).

    Args:
        model: a masked autoencoder that predicts pixels; it is put in eval mode and frozen, its weights in float32.
        curve: how its fill is joined with the harmonic one; None for a plain ramp.
        smooth: sigma of a low-pass over its fill, in pixels of the model, at least 0; with a refiner, for its
            confidence only.
        size: side in pixels that the model sees windows at, a multiple of its patch size; None for its image size.
        device: a device of torch ("cpu", "cuda", ...); `from_pretrained` also takes "auto".
        refiner: draws the fills; the texture that a sharp one lacks, or all of it without a refiner, is taken from
            known patches.
        precision: of the networks: "fp32", "bf16", or "auto" (see `maerestore.precision`).

    Raises:
        MaerestoreError: another precision, or a model without a decoder.
        InputError: a `smooth` or `size` that does not fit.

    Example:
        >>> import numpy as np
        >>> from maerestore import Inpainter
        >>> photo = np.full((64, 64, 3), 200, np.uint8)
        >>> hole = np.zeros((64, 64), bool)
        >>> hole[20:40, 20:40] = True
        >>> filled = Inpainter.from_pretrained(device="cpu").inpaint(photo, hole)
        >>> filled.shape, filled.dtype, bool((filled[~hole] == 200).all())
        ((64, 64, 3), dtype('uint8'), True)
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        curve: BlendCurve | None = None,
        smooth: float = 0.0,
        size: int | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        refiner: Refiner | None = None,
    ) -> None:
        one_thread_if_forked()
        self.device = torch.device(device)
        self.bf16 = uses_bf16(precision, self.device)
        if not model.config.has_decoder:
            raise MaerestoreError("this model holds an encoder only: it gives features, and cannot fill holes")
        check_fill(smooth, size, model.config.patch_size)
        # Float32 whatever they were saved in: what is computed in half precision is autocast's to choose.
        self.model = model.to(self.device, torch.float32).eval().requires_grad_(False)
        self.restorer: Restorer | None = None
        if refiner is not None:
            refiner = refiner.to(self.device, torch.float32).to(memory_format=torch.channels_last)
            self.restorer = Restorer(self.model, refiner.eval().requires_grad_(False))
        self.curve = curve or BlendCurve()
        self.smooth = smooth
        self.size = size or model.config.image_size

    @property
    def refiner(self) -> Refiner | None:
        """The refiner, where there is one."""
        return None if self.restorer is None else self.restorer.refiner

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

        Transparency:
            Pixels of alpha 0 outside the mask are unknown to the fill, whatever colour they hold, and stay as they are.
            Alpha stays as it is in the hole too, unless that was erased (it is less than half as opaque as what is
            around it, and nine tenths of its rim are visible): then it becomes as opaque as that, for the fill could
            not be seen. See `maerestore.inpaint.visible` and `maerestore.inpaint.opacity`.

        Args:
            image: a PIL image; a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or float in
                [0, 1]; or a tensor (C, H, W) or (B, C, H, W), uint8 or float in [0, 1]. Two or four channels end with
                alpha.
            mask: what to fill: a PIL image, an array or a tensor (H, W), see `maerestore.inpaint.masks.as_mask`; for a
                batch one for all, or a list or a batch of one for each. Nothing is filled where it is empty.
            dilate: grow the mask by this many pixels, at least 0.
            feather: ramp from the rim's continuation to the fill over this many pixels, at least 0.
            sharp: give the fill the texture of the photo's known parts; False leaves it smooth.
            seed: of the search for that texture.
            progress: see `Progress`.

        Returns:
            an image of the kind, shape, dtype and device of `image`, which shares no memory with it: where the mask is
            empty, a copy.

        Raises:
            InputError: sizes that differ, a mask without any known pixel, values that are no image or no mask, or a
                setting out of range.
        """
        if isinstance(image, torch.Tensor) and image.ndim == 4:
            if len(image):
                as_canvas(image[0])  # a batch of another layout is told so, not that the masks are of another size
            filled = []
            masks = as_masks(mask, len(image), (image.shape[3], image.shape[2]))
            for number, (i, m) in enumerate(zip(image, masks, strict=True)):
                try:
                    filled.append(self.inpaint(
                        i, m, dilate=dilate, feather=feather, sharp=sharp, seed=seed, progress=progress
                    ))  # fmt: skip
                except InputError as err:
                    raise InputError(f"image {number} of the batch: {err}") from None
            return of_type(torch.stack(filled), image) if filled else image.clone()
        canvas = as_canvas(image)
        holes = as_mask(mask, canvas.size, canvas)
        filled_canvas, _ = self.fill(
            canvas, holes, dilate=dilate, feather=feather, sharp=sharp, seed=seed, progress=progress
        )
        return in_kind_of(filled_canvas, image)

    def fill(
        self,
        photo: AnyCanvas,
        mask: np.ndarray,
        *,
        dilate: int = 0,
        feather: int = 0,
        sharp: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[AnyCanvas, FillReport]:
        """Fill a photo as read from its file.

        Args:
            photo: what `maerestore.image.read_photo` gave.
            mask: (H, W) bool, True = fill.
            dilate, feather, sharp, seed, progress: as for `inpaint`.

        Returns:
            the photo with only the masked samples changed, and what was done.

        Raises:
            InputError: as `inpaint`.
        """
        seed = check_settings(sharp, feather, seed)
        report = FillReport()
        scene = self._scene(photo, mask, dilate, report, progress)
        if scene is None:
            return photo, report
        _, pieces = self._draw(_Task(scene, feather, report, progress), sharp, seed)
        with report.stage("paste"):
            return cast(AnyCanvas, photo.with_fills(pieces, scene.opacities)), report

    def samples(
        self,
        image: Any,
        mask: Any,
        n: int,
        *,
        dilate: int = 0,
        feather: int = 0,
        sharp: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Any]:
        """Fill an image in several ways.

        Each sample shows the autoencoder other known patches, and searches for texture with another seed. The fill of
        `inpaint` is one of them. Which comes first, see `maerestore.inpaint.sampling`. Transparency is treated as by
        `inpaint`, in all samples alike.

        Args:
            image: as for `inpaint`; one image, no batch.
            mask: as for `inpaint`.
            n: how many fills, at least 1.
            dilate, feather, sharp, seed, progress: as for `inpaint`.

        Returns:
            n images of the kind that came in, the best-ranked first; copies of it where the mask is empty.

        Raises:
            InputError: as for `inpaint`, or `n` is no whole number from 1.

        Example:
            >>> best, second = Inpainter.from_pretrained().samples(photo, mask, 2)   # doctest: +SKIP
        """
        canvas = _single(image, "samples")
        holes = as_mask(mask, canvas.size, canvas)
        filled, _ = self.fill_samples(
            canvas, holes, n, dilate=dilate, feather=feather, sharp=sharp, seed=seed, progress=progress
        )
        return [in_kind_of(sample, image) for sample in filled]

    def fill_samples(
        self,
        photo: AnyCanvas,
        mask: np.ndarray,
        n: int,
        *,
        dilate: int = 0,
        feather: int = 0,
        sharp: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Iterable[AnyCanvas], FillReport]:
        """Fill a photo as read from its file in several ways.

        Args:
            photo, mask: as for `fill`.
            n, dilate, feather, sharp, seed, progress: as for `samples`.

        Returns:
            n photos, the best-ranked first, each made as it is asked for, and what was done.

        Raises:
            InputError: as `samples`.
        """
        check_whole("n", n, at_least=1)
        seed = check_settings(sharp, feather, seed)
        report = FillReport()
        scene = self._scene(photo, mask, dilate, report, progress)
        if scene is None:
            return [photo] * n, report
        task = _Task(scene, feather, report, progress)
        plain, first = self._draw(task, sharp, seed_of_sample(seed, 0))
        drawn = [first]
        for k in range(1, n):
            hiding = HiddenBlocks(seed, k, self.model.config.patch_size)
            drawn.append(self._draw(task, sharp, seed_of_sample(seed, k), hiding)[1])
        with report.stage("rank"):
            order = ranked(scene, [fill for fill, _, _ in plain], drawn)
        return (cast(AnyCanvas, photo.with_fills(drawn[k], scene.opacities)) for k in order), report

    def confidence(
        self,
        image: Any,
        mask: Any,
        *,
        draws: int = 8,
        seed: int = 0,
        dilate: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """How sure the smooth fill is of each pixel.

        The expected absolute error is read from the spread of reconstructions of different visible patches, the
        distance from the known pixels, and the texture around the hole: see `maerestore.inpaint.confidence`.

        Args:
            image, mask, dilate, progress: as for `inpaint`; one image, no batch.
            draws: how many reconstructions to compare, at least 2.
            seed: of what they are shown.

        Returns:
            (H, W) float32 in [0, 1]: 1 at known pixels, in the hole `exp(-error / 0.1)`, where `error` is the expected
            mean absolute error of a colour in [0, 1]. 0.9 stands for 3 levels of 255, 0.37 for 25.

        Raises:
            InputError: as for `inpaint`, or `draws` is no whole number from 2.

        Example:
            >>> sure = Inpainter.from_pretrained().confidence(photo, mask)           # doctest: +SKIP
        """
        canvas = _single(image, "confidence")
        return self.confidence_of(
            canvas, as_mask(mask, canvas.size, canvas), draws=draws, seed=seed, dilate=dilate, progress=progress
        )[0]

    def confidence_of(
        self,
        photo: AnyCanvas,
        mask: np.ndarray,
        *,
        draws: int = 8,
        seed: int = 0,
        dilate: int = 0,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, FillReport]:
        """How sure the smooth fill is of each pixel of a photo as read from its file.

        Args:
            photo, mask: as for `fill`.
            draws, seed, dilate, progress: as for `confidence`.

        Returns:
            (H, W) float32, as `confidence`, and what was done.

        Raises:
            InputError: as `confidence`.
        """
        check_whole("draws", draws, at_least=2)
        seed = check_seed(seed)
        report = FillReport()
        scene = self._scene(photo, mask, dilate, report, progress)
        if scene is None:
            return np.ones(mask.shape, np.float32), report
        with report.stage("confidence"):
            advance = counter("comparing", scene.windows, progress)

            def see(windows: list[ModelWindow]) -> list[np.ndarray]:
                return spread_of_draws(self.model, windows, self.size, draws, seed, self.smooth, self.bf16, advance)

            return confidence_map(scene, list(scene.map_windows(see))), report

    def _scene(
        self, photo: Canvas, mask: np.ndarray, dilate: int, report: FillReport, progress: Progress | None
    ) -> Scene | None:
        """The holes with their windows; None where there is nothing to fill."""
        one_thread_if_forked()
        patch = self.model.config.patch_size
        return find_scene(photo, mask, dilate, self.size, patch, self.curve, report, progress)

    def _draw(
        self, task: _Task, sharp: bool, seed: int, hiding: Hiding | None = None
    ) -> tuple[list[Piece], list[Piece]]:
        """The fill of every region before it got texture from known patches, and after; the same where none is due.

        Args:
            task: what to fill.
            sharp, seed: as for `inpaint`.
            hiding: known pixels that the autoencoder is not shown.
        """
        refined: list[np.ndarray | None] | None = None
        if self.restorer is None:
            pieces = self._coarse(task, hiding)
        else:
            pieces, refined = self._refined(task, self.restorer, sharp, hiding)
        if not sharp:
            return pieces, pieces
        drawn = [(fill.copy(), mask, box) for fill, mask, box in pieces]
        scene = task.scene
        with task.report.stage("detail"), autocast(torch.device("cpu"), False):  # a program may have it on for itself
            return pieces, sharpen(scene.visible, scene.unknown, scene.regions, drawn, seed, task.progress, refined)

    def _coarse(self, task: _Task, hiding: Hiding | None) -> list[Piece]:
        """The autoencoder's fill of every region, joined to the harmonic one."""
        fill = partial(coarse_fill, self.model, size=self.size, smooth=self.smooth, bf16=self.bf16, hiding=hiding)
        return smooth_pieces(task.scene, fill, self.curve, task.feather, task.report, task.progress)

    def _refined(
        self, task: _Task, restorer: Restorer, sharp: bool, hiding: Hiding | None
    ) -> tuple[list[Piece], list[np.ndarray | None]]:
        """One of the refiner's two fills of every region, and how deep in the hole its pixels are."""
        fill = partial(
            refined_fill, restorer, size=self.size, curve=self.curve, bf16=self.bf16, hiding=hiding, sharp=sharp
        )
        return refined_pieces(task.scene, fill, task.feather, task.report, task.progress)


def _single(image: Any, name: str) -> Photo | FloatImage:
    """The canvas of an image that must be no batch."""
    if isinstance(image, torch.Tensor) and image.ndim == 4:
        raise InputError(f"{name} takes one image, not a batch {tuple(image.shape)}: call it for each")
    return as_canvas(image)
