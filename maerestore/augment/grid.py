"""A picture of views: masking strategies down, mask ratios across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from maerestore.augment.core import MaskedViews
from maerestore.augment.settings import STRATEGIES, ViewSettings
from maerestore.sheet import draw_sheet

RATIOS = (0.25, 0.5, 0.75)
SHORT_SIDE = 224  # to which a larger photo is scaled, in pixels


def view_panels(
    rgb: np.ndarray,
    settings: ViewSettings,
    strategies: Sequence[str] = STRATEGIES,
    mask_ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
) -> list[list[np.ndarray]]:
    """One view for each strategy and ratio. A row has one draw, so that more is hidden from left to right.

    Args:
        rgb: (H, W, 3) float32 in [0, 1]; its short side is scaled down to `SHORT_SIDE` where it is longer.
        settings: of the views; strategy and ratio are replaced.
        strategies: of `settings.STRATEGIES`.
        mask_ratios: in [0, 1].
        seed: of the masks.
        device, precision: as for `MaskedViews`.

    Returns:
        a row for each strategy: the image, then its views, (h, w, 3) float32 in [0, 1].

    Raises:
        MaerestoreError: a strategy or a ratio that does not fit.
        ModelError: no such model, or one that cannot reconstruct.
    """
    image = torch.from_numpy(np.ascontiguousarray(rgb)).float().permute(2, 0, 1)[None]
    scale = SHORT_SIDE / min(image.shape[2:])
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.shape[2:])
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
    shape = int(image.shape[2]), int(image.shape[3])
    rows = []
    for strategy in strategies:
        row = [image]
        for ratio in mask_ratios:
            views = MaskedViews(replace(settings, strategy=strategy, mask_ratio=ratio), device, precision)
            row.append(views.render(image, views.draw(1, np.random.default_rng(seed), shape)))
        rows.append([x[0].permute(1, 2, 0).cpu().numpy() for x in row])
    return rows


def view_grid(
    rgb: np.ndarray,
    settings: ViewSettings,
    strategies: Sequence[str] = STRATEGIES,
    mask_ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
) -> Image.Image:
    """The views of `view_panels` as one labelled RGB picture; arguments and errors as there.

    Example:
        >>> settings = ViewSettings(blend=0.8)
        >>> grid = view_grid(np.zeros((40, 50, 3), np.float32), settings, ("random", "block"), (0.5,))  # doctest: +SKIP
        >>> grid.mode, grid.width > 2 * 50, grid.height > 2 * 40                                        # doctest: +SKIP
        ('RGB', True, True)
    """
    panels = view_panels(rgb, settings, strategies, mask_ratios, seed, device, precision)
    columns = ("original", *(f"{100 * ratio:g} % hidden" for ratio in mask_ratios))
    return draw_sheet(columns, [(s.split("-", 1), row) for s, row in zip(strategies, panels, strict=True)])
