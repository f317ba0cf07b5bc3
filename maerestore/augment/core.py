"""The engine of every host: hide patches, reconstruct them, and paste the reconstruction into the image.

Reference: "Masked Autoencoders are Robust Data Augmentors", Xu et al. 2022, https://arxiv.org/abs/2206.04846.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.augment.fill import compiled_fill, fill, stand_in
from maerestore.augment.graphs import outside_graphs
from maerestore.augment.models import config_of, load
from maerestore.augment.pixels import check_images, from_model, hidden_pixels, paste, to_model
from maerestore.augment.settings import ViewSettings
from maerestore.errors import MaerestoreError
from maerestore.inpaint.model_window import model_shape
from maerestore.masking.patches import SCORES, attention_scores, hide_highest, random_scores
from maerestore.model import MaskedAutoencoder
from maerestore.precision import PRECISIONS, autocast, uses_bf16
from maerestore.threads import one_thread_if_forked

LEVELS = 5  # different mask ratios of a range
BATCH = 256  # images a pass, which bounds the memory


@dataclass(frozen=True, eq=False)
class Draw:
    """All that is random about the views of n images: small, and the same draw gives the same views.

    Attributes:
        ratio: (n,) float32 in [0, 1], share of the patches that are hidden.
        noise: (n, L) float32 score of each of the L patches, in raster order; the highest are hidden. With an attention
            strategy it perturbs the ranks of the attention. Images with equal rows (frames of a video) get one mask,
            from the mean of their attention.

    Example:
        >>> draw = Draw(np.full(2, 0.5, np.float32), np.zeros((2, 64), np.float32))
        >>> len(draw), draw[:1].noise.shape
        (2, (1, 64))
    """

    ratio: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.ratio)

    def __getitem__(self, rows: Any) -> Draw:
        """The draws of some rows: a slice, indices or a (n,) bool array."""
        return Draw(self.ratio[rows], self.noise[rows])


class MaskedViews:
    """Makes masked-reconstruction views of images.

    Convention:
        Images are (N, C, H, W) tensors, uint8 or float in [0, 1]; a view has shape, dtype and device of its image, and
        visible patches come back bit for bit. All randomness is in the `Draw`, which comes from the
        `numpy.random.Generator` given; the same draw makes the same view, up to the rounding of the device. The model
        is loaded by the first view that needs it. Instances hold no weights, pickle small, and survive fork and spawn.
        Gradients reach an image through what is kept of it.

        One channel is shown to an RGB model three times, and comes back as the mean; other numbers of channels go in
        groups of three, in their order, all with the same mask.

    Args:
        settings: what is hidden, and how.
        device: where the model computes; None for wherever the images are.
        precision: "fp32", "bf16", or "auto": bfloat16 where the hardware multiplies it. Devices agree closely only in
            "fp32".
        compile: compile the network with `torch.compile`, one graph for each number of images and of visible patches.

    Raises:
        MaerestoreError: an unknown precision.

    Example:
        >>> views = MaskedViews(ViewSettings(mask_ratio=0.5, strategy="block"))
        >>> draw = views.draw(2, np.random.default_rng(0))                              # doctest: +SKIP
        >>> views.render(torch.zeros(2, 3, 224, 224, dtype=torch.uint8), draw).shape    # doctest: +SKIP
        torch.Size([2, 3, 224, 224])
    """

    def __init__(
        self,
        settings: ViewSettings,
        device: torch.device | str | None = "cpu",
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise MaerestoreError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.settings = settings
        self.device = None if device is None else torch.device(device)
        self.precision = precision
        self.compile = compile
        self._looked = False

    def grid(self, shape: tuple[int, int] | None = None) -> tuple[int, int]:
        """How an image is cut into patches.

        Args:
            shape: (H, W) in pixels; a square by default.

        Returns:
            patches (down, across).

        Raises:
            MaerestoreError: no such model, or a `size` smaller than a patch of it.
        """
        height, width = self._model_shape(shape or (1, 1))
        patch = config_of(self.settings.model).patch_size
        return height // patch, width // patch

    @outside_graphs
    def draw(self, n: int, rng: np.random.Generator, shape: tuple[int, int] | None = None) -> Draw:
        """Draw what is hidden in n images. Reads the model's config, not its weights.

        Args:
            n: images.
            rng: where the randomness comes from; as many numbers are taken whatever n and the settings are.
            shape: (H, W) of the images; square by default. The aspect ratio decides about the patches.

        Returns:
            n rows, each with patches of its own, and one ratio for all: see `_level`.

        Raises:
            MaerestoreError: no such model, or a `size` smaller than a patch of it.
        """
        one_thread_if_forked()
        level, seed = int(rng.integers(LEVELS)), int(rng.integers(2**63 - 1))
        grid = self.grid(shape)
        generator = torch.Generator().manual_seed(seed)
        scores = SCORES.get(self.settings.strategy, random_scores)
        ratio = np.full(n, self._level(level), np.float32)
        return Draw(ratio, scores(n, grid, generator).numpy())

    @outside_graphs
    def render(self, images: Tensor, draw: Draw) -> Tensor:
        """Make the views.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1]; not modified.
            draw: of N rows, for images of this shape; or of one row, for all images alike.

        Returns:
            new, of the shape, dtype and device of `images`.

        Raises:
            MaerestoreError: `images` is no batch of images, `draw` does not fit it, or there is no such model. Float
                images must be finite and in [0, 1], up to the overshoot of bicubic scaling. On an accelerator, where
                reading values waits for all pending work, only the first batch is checked for that.
        """
        one_thread_if_forked()  # before anything is computed, were it the check
        check_images(images, look=images.device.type == "cpu" or not self._looked)
        self._looked = True
        if self.settings.changes_nothing or not len(images):
            return images.clone()
        shape = (images.shape[2], images.shape[3])
        grid = self.grid(shape)
        if len(draw) == 1 and len(images) > 1:
            draw = draw[np.zeros(len(images), np.int64)]
        if len(draw) != len(images) or draw.noise.shape != (len(images), grid[0] * grid[1]):
            raise MaerestoreError(
                f"draw must be for {len(images)} images of {grid[0]} x {grid[1]} patches, got noise of shape "
                f"{draw.noise.shape}: make it with draw({len(images)}, rng, shape={shape})"
            )
        visible = count_visible(draw.ratio, grid[0] * grid[1])
        parts = [np.flatnonzero(visible == count) for count in np.unique(visible)]
        parts = [rows[start : start + BATCH] for rows in parts for start in range(0, len(rows), BATCH)]
        if len(parts) == 1:
            return self._render_alike(images, draw.noise, int(visible[0]), grid)
        looks = self._looks(images, draw.noise, visible, parts, grid)
        out = torch.empty_like(images)
        for rows in parts:
            ids = torch.from_numpy(rows).to(images.device)
            seen = None if looks is None else looks[ids.to(looks.device)]
            part = self._render_alike(images[ids], draw.noise[rows], int(visible[rows[0]]), grid, seen)
            out = out.index_copy(0, ids, part)
        return out

    def _looks(
        self, images: Tensor, noise: np.ndarray, visible: np.ndarray, parts: list[np.ndarray], grid: tuple[int, int]
    ) -> Tensor | None:
        """What is looked at in images that are computed in parts: (N, L), or None where no attention guides.

        It is asked of all of them before the first view is made: frames of a video share theirs, whatever parts they
        fall into.
        """
        parts = [rows for rows in parts if visible[rows[0]] < noise.shape[1]]
        if not self._guided or not parts:
            return None
        device = images.device if self.device is None else self.device
        model = load(self.settings.model, device)
        looks = torch.zeros(noise.shape, dtype=torch.float32, device=device)
        with torch.no_grad(), autocast(device, bf16_views(self.precision, device)):
            for rows in parts:
                ids = torch.from_numpy(rows)
                pixels = _pixels(model, images[ids.to(images.device)], grid)
                looks[ids.to(device)] = _responses(model, pixels, len(rows))
        return _shared(looks, np.column_stack([visible, noise]))

    def _render_alike(
        self, images: Tensor, noise: np.ndarray, visible: int, grid: tuple[int, int], looks: Tensor | None = None
    ) -> Tensor:
        """Images that keep the same number of patches; `looks` as `_looks` gives it, made here where it is None."""
        if visible == grid[0] * grid[1]:
            return images.clone()
        device = images.device if self.device is None else self.device
        model = load(self.settings.model, device)
        with torch.no_grad(), autocast(device, bf16_views(self.precision, device)):
            pixels = _pixels(model, images, grid)
            scores = torch.from_numpy(np.ascontiguousarray(noise, np.float32)).to(device)
            if self._guided:
                looks = _shared(_responses(model, pixels, len(images)), noise) if looks is None else looks
                scores = attention_scores(looks, scores, "high" if self.settings.strategy == "attention" else "low")
            mask = hide_highest(scores, visible)  # (N, L), 1 = hidden
            groups = len(pixels) // len(images)
            rebuild = compiled_fill() if self.compile else fill
            noises = stand_in(model, pixels, noise)
            pictures = rebuild(model, pixels, mask.repeat_interleave(groups, 0), visible, noises)
            pictures = from_model(pictures, images.shape[1]).to(images.device)
            hidden = hidden_pixels(mask.to(images.device), grid, (images.shape[2], images.shape[3]))
        return paste(images, pictures, hidden, self.settings.blend)

    @property
    def _guided(self) -> bool:
        return self.settings.strategy.startswith("attention")

    def _level(self, level: int) -> float:
        """One of the ratios.

        A batch has one ratio, and a mask for each image. A ratio for each image costs more: rows are then computed in
        groups of equal numbers of visible patches. With five ratios and the bundled model on one core that took 8 %
        longer for 64 images in float32 and 40 % in bfloat16 (padding all to the longest row 33 and 7 %), and on an
        accelerator it is five times the kernels. `render` does take rows of different ratios.
        """
        low, high = self.settings.ratio_range
        return low + (high - low) * level / (LEVELS - 1)

    def _model_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        if not (shape[0] > 0 and shape[1] > 0):
            raise MaerestoreError(f"images must have pixels, got height and width {tuple(shape)}")
        config = config_of(self.settings.model)
        size = self.settings.size or config.image_size
        if size < config.patch_size:
            raise MaerestoreError(f"size must be at least a patch of the model, {config.patch_size} pixels, got {size}")
        return model_shape(shape[0], shape[1], size, config.patch_size)


def count_visible(ratio: np.ndarray, length: int) -> np.ndarray:
    """How many of `length` patches stay visible: (n,) ratios -> (n,) int64; none only where the ratio is 1.

    Example:
        >>> count_visible(np.array([0, 0.4, 0.75, 0.999, 1]), 64).tolist()
        [64, 38, 16, 1, 0]
    """
    kept: np.ndarray = np.rint(length * (1 - ratio.astype(np.float64))).astype(np.int64)
    return np.where(ratio < 1, np.maximum(kept, 1), 0)


def bf16_views(precision: str, device: torch.device) -> bool:
    """Whether views are computed in bfloat16: as `uses_bf16`, and "auto" takes it on CUDA devices that have it.

    A fill has to agree between devices, a view need not.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return uses_bf16(precision, device)


def _pixels(model: MaskedAutoencoder, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images as the model takes them: (N, C, H, W) -> (N * G, C of the model, h, w), normalised, on its device."""
    config = model.config
    shape = (grid[0] * config.patch_size, grid[1] * config.patch_size)
    return model.normalize(to_model(images.detach().to(model.mean.device), shape, config.in_chans))


def _responses(model: MaskedAutoencoder, pixels: Tensor, n: int) -> Tensor:
    """What is looked at in any group of channels of n images, (n, L): their mean, for one mask for all."""
    looks = model.responses(pixels).float()
    return looks.reshape(n, -1, looks.shape[1]).mean(1)


def _shared(looks: Tensor, draws: np.ndarray) -> Tensor:
    """Responses (N, L), the mean where rows of `draws` (N, any) are equal: frames of a video are hidden alike."""
    same = np.unique(draws, axis=0, return_inverse=True)[1].reshape(-1)
    if len(same) == 1 or same.max() + 1 == len(same):
        return looks
    shared = looks.clone()
    for group in range(same.max() + 1):
        rows = torch.from_numpy(np.flatnonzero(same == group)).to(looks.device)
        shared[rows] = looks[rows].mean(0)
    return shared
