"""A tiny inpainter for the whole session: its weights are random, so nothing here depends on what was learned."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

SETTINGS: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mask_embed": True,
}  # fmt: skip


def random_model(**settings: Any) -> Any:
    """A model none of whose trained weights is zero."""
    import torch

    from maerestore.model import MAEConfig, MaskedAutoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedAutoencoder(MAEConfig(**{**SETTINGS, **settings}))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="session")
def inpainter() -> Any:
    """An `Inpainter` on a tiny random model that works at 32 px."""
    from maerestore.inpaint.pipeline import Inpainter

    return Inpainter(random_model())


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: a gradient with stripes and noise, so that fills differ from what they replace."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([120 + 60 * np.sin(x / 9), 90 + 60 * np.cos(y / 7), 128 + 40 * np.sin((x + y) / 5)], axis=-1)
    return (base + rng.normal(0, 12, base.shape)).clip(0, 255).astype(np.uint8)


def box_mask(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) bool, True in (top, left, bottom, right) boxes."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@st.composite
def masks(draw: st.DrawFn, largest: int = 150) -> np.ndarray:
    """Boxes, strokes and specks on a photo of any size."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        (y0, y1), (x0, x1) = sorted(rng.integers(0, height, 2)), sorted(rng.integers(0, width, 2))
        canvas[y0 : y1 + 1, x0 : x1 + 1] = 1
    for _ in range(draw(st.integers(0, 3))):
        ends = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(2)]
        cv2.line(canvas, ends[0], ends[1], 1, int(rng.integers(1, 6)))
    canvas[rng.random((height, width)) < draw(st.sampled_from([0, 0, 0.001, 0.05]))] = 1
    return canvas.astype(bool)
