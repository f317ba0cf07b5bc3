"""A picture of what a model does: original, masked, reconstruction and composite side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maerestore.hub.errors import ModelError
from maerestore.image import InputError
from maerestore.inpaint.arrays import as_canvas
from maerestore.inpaint.masks import as_mask
from maerestore.masking.patches import draw_patch_masks
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.hiding import fixed_noise
from maerestore.sheet import draw_sheet

COLUMNS = ("original", "masked", "reconstruction", "composite")

_MOST_PATCHES = 16384  # the cost of attention grows with the square of their number
_NORMALISED = "This model predicts normalised pixels: each patch is given the mean and contrast of the photo's own."


@dataclass(frozen=True, eq=False)
class ShowRow:
    """One way of hiding a photo, and what the model makes of it.

    Attributes:
        label: lines that say what was hidden.
        hidden: (H, W) bool, True where the model did not see the photo.
        original: (H, W, C) float32 in [0, 1], as the model gets it; C is the model's.
        masked: the same with the hidden pixels gray.
        reconstruction: every pixel as the decoder predicts it, clipped to [0, 1].
        composite: the original with the hidden pixels from the reconstruction.
    """

    label: tuple[str, ...]
    hidden: np.ndarray
    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    composite: np.ndarray


def show_arrays(
    model: MaskedAutoencoder,
    image: Any,
    mask_ratios: Sequence[float] = (0.75,),
    seeds: Sequence[int] = (0,),
    policy: str = "random",
    mask: Any = None,
    size: int | None = None,
) -> list[ShowRow]:
    """Hide parts of an image and reconstruct it, once for each ratio and seed.

    Where the model predicts normalised pixels, each patch gets mean and variance from the image itself, as in the
    authors' demonstration.

    Args:
        model: with a decoder, in eval mode, on its device.
        image: PIL image, NumPy (H, W[, C]) uint8, uint16 or float in [0, 1], or a (C, H, W) tensor. Its short side is
            scaled to `size`, then both sides are cut, evenly, to multiples of the patch size.
        mask_ratios: shares of the patches to hide, in [0, 1].
        seeds: of the masks; the same on every device.
        policy: of `maerestore.masking.patches.POLICIES`.
        mask: free-form holes of the image's size, as for `Inpainter.inpaint` (True or white = hidden); one row then,
            without ratio, seed or policy. A model without `mask_embed` cannot take a patch of which it knows a part,
            so it hides every patch that the mask touches.
        size: short side in pixels; the default is the model's own.

    Returns:
        a row for each pair of ratio and seed, ratios first.

    Raises:
        ModelError: the model has no decoder.
        InputError: no image, a size that does not fit, or an image too long for the model.
        ValueError: a ratio or policy that does not fit.
    """
    if not model.config.has_decoder:
        raise ModelError("this model holds an encoder only: it gives features, and cannot reconstruct")
    canvas = as_canvas(image)
    pixels = fit_image(torch.from_numpy(canvas.rgb()), model.config, size)
    if mask is not None:
        hole = torch.from_numpy(as_mask(mask, canvas.size, canvas))
        return [_masked_row(model, pixels, _fit_mask(hole, model.config, size))]
    return [
        _patches_row(model, pixels, ratio, seed, policy)
        for ratio in dict.fromkeys(mask_ratios)
        for seed in dict.fromkeys(seeds)
    ]


def show_grid(
    model: MaskedAutoencoder,
    image: Any,
    mask_ratios: Sequence[float] = (0.75,),
    seeds: Sequence[int] = (0,),
    policy: str = "random",
    mask: Any = None,
    size: int | None = None,
) -> Image.Image:
    """The rows of `show_arrays` as one labelled RGB picture; arguments and errors as there.

    Example:
        >>> config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
        ...                    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
        >>> grid = show_grid(MaskedAutoencoder(config), Image.new("RGB", (40, 32)), mask_ratios=(0.5, 0.75))
        >>> grid.mode, grid.width > 4 * 40, grid.height > 2 * 32
        ('RGB', True, True)
    """
    rows = show_arrays(model, image, mask_ratios, seeds, policy, mask, size)
    return draw_grid(rows, _NORMALISED if model.config.norm_pix_loss else "")


def draw_grid(rows: Sequence[ShowRow], note: str = "") -> Image.Image:
    """Put rows of equal size under each other, with their labels, and a note below."""
    return draw_sheet(COLUMNS, [(row.label, [getattr(row, name) for name in COLUMNS]) for row in rows], note)


def fit_image(rgb: Tensor, config: MAEConfig, size: int | None = None) -> Tensor:
    """An image as the model takes it, not yet normalised.

    Args:
        rgb: (H, W, 3) float in [0, 1].
        config: of the model; gray models get the mean of the channels, as in training.
        size: short side in pixels; the default is `config.image_size`.

    Returns:
        (1, C, h, w) float32 in [0, 1], h and w multiples of the patch size.

    Raises:
        InputError: a size smaller than a patch, or more patches than can be computed.
    """
    x = rgb.float().permute(2, 0, 1)[None]
    if config.in_chans == 1:
        x = x.mean(1, keepdim=True)
    scaled, box = _geometry(rgb.shape[0], rgb.shape[1], config, size)
    if scaled != tuple(x.shape[2:]):
        x = F.interpolate(x, scaled, mode="bicubic", antialias=True).clamp(0, 1)
    return x[..., box[0] : box[2], box[1] : box[3]].contiguous()


def _fit_mask(hole: Tensor, config: MAEConfig, size: int | None) -> Tensor:
    """(H, W) bool -> (1, 1, h, w) float, 1 = hidden, for the image that `fit_image` gives."""
    scaled, box = _geometry(hole.shape[0], hole.shape[1], config, size)
    share = F.interpolate(hole[None, None].float(), scaled, mode="area")[..., box[0] : box[2], box[1] : box[3]]
    mostly = share >= 0.5
    return (mostly if mostly.any() else share > 0).float()  # a thin line is better shown thick than not at all


def _geometry(
    height: int, width: int, config: MAEConfig, size: int | None
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """What to scale to, and the (top, left, bottom, right) to cut out of that."""
    p, short = config.patch_size, config.image_size if size is None else size
    if short < p:
        raise InputError(f"size {short} is smaller than a patch of this model: give at least {p}")
    scale = short / min(height, width)
    scaled = round(height * scale), round(width * scale)
    rows, columns = scaled[0] // p, scaled[1] // p
    if rows * columns > _MOST_PATCHES:
        raise InputError(
            f"the image would have {rows} x {columns} patches, more than {_MOST_PATCHES}: "
            "give a smaller size, or cut the image"
        )
    top, left = (scaled[0] - rows * p) // 2, (scaled[1] - columns * p) // 2
    return scaled, (top, left, top + rows * p, left + columns * p)


@torch.inference_mode()
def _patches_row(model: MaskedAutoencoder, pixels: Tensor, ratio: float, seed: int, policy: str) -> ShowRow:
    p = model.config.patch_size
    grid = pixels.shape[2] // p, pixels.shape[3] // p
    images = model.normalize(pixels.to(model.mean.device))
    responses = model.responses(images).cpu() if policy.startswith("attention") else None
    removed = draw_patch_masks(policy, 1, grid, ratio, torch.Generator().manual_seed(seed), responses)
    hidden = F.interpolate(removed.reshape(1, 1, *grid), scale_factor=float(p))
    label = (f"{100 * ratio:g} % hidden", f"seed {seed}", *(() if policy == "random" else policy.split("-", 1)))
    shown = model.reconstruct(
        images, mask=removed.to(images.device), hidden_noise=fixed_noise(images, model.config.hidden)
    )
    return _row(model, pixels, hidden, shown, label)


@torch.inference_mode()
def _masked_row(model: MaskedAutoencoder, pixels: Tensor, hole: Tensor) -> ShowRow:
    if not model.config.mask_embed:
        touched = F.max_pool2d(hole, model.config.patch_size)
        hole = F.interpolate(touched, scale_factor=float(model.config.patch_size))
    images = model.normalize(pixels.to(model.mean.device))
    shown = model.reconstruct(
        images, pixel_mask=hole.to(images.device), hidden_noise=fixed_noise(images, model.config.hidden)
    )
    return _row(model, pixels, hole, shown, ("mask", f"{100 * float(hole.mean()):.0f} % hidden"))


def _row(model: MaskedAutoencoder, pixels: Tensor, hidden: Tensor, shown: Tensor, label: tuple[str, ...]) -> ShowRow:
    """pixels (1, C, H, W) in [0, 1], hidden (1, 1, H, W), shown (1, C, H, W) normalised."""
    picture = model.denormalize(shown).clamp(0, 1).cpu()

    def array(x: Tensor) -> np.ndarray:
        return np.asarray(x[0].permute(1, 2, 0).contiguous().numpy(), dtype=np.float32)

    return ShowRow(
        label=label,
        hidden=(hidden[0, 0] > 0).cpu().numpy(),
        original=array(pixels),
        masked=array(torch.where(hidden > 0, 0.5, pixels)),
        reconstruction=array(picture),
        composite=array(torch.where(hidden > 0, picture, pixels)),
    )
