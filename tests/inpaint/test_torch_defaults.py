"""A program may have set torch's default dtype or device, or autocast, for itself: fills are the same bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.pipeline import Inpainter

from .conftest import box_mask, random_model, textured
from .test_refine import random_refiner

MASK = box_mask(70, 90, (20, 30, 48, 60), (60, 0, 64, 40))


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device() -> Iterator[None]:
    with torch.device("meta"):  # holds no numbers: whatever is made on it by accident fails
        yield


@contextmanager
def mixed_precision() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["refiner", "no refiner"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    refiner = random_refiner() if request.param else None
    Inpainter(random_model(), BlendCurve((0.0,), (0.6,)), smooth=0.5, refiner=refiner).save_pretrained(folder)
    return folder


CALLS: dict[str, Callable[[Inpainter], np.ndarray]] = {
    "sharp": lambda i: i.inpaint(textured(70, 90), MASK),
    "smooth": lambda i: i.inpaint(textured(70, 90), MASK, sharp=False),
    "bfloat16": lambda i: i.inpaint(torch.from_numpy(textured(70, 90)).permute(2, 0, 1), MASK).numpy(),
    "samples": lambda i: np.stack(i.samples(textured(70, 90), MASK, 2)),
    "confidence": lambda i: i.confidence(textured(70, 90), MASK, draws=2),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("default", [default_dtype, default_device, mixed_precision])
def test_fills_do_not_depend_on_them(call: str, default: Callable, saved: Path) -> None:
    precision = "bf16" if call == "bfloat16" else "fp32"
    inpainter = Inpainter.from_pretrained(saved, device="cpu", precision=precision)
    expected = CALLS[call](inpainter)
    with default():
        np.testing.assert_array_equal(CALLS[call](inpainter), expected)
        inside = Inpainter.from_pretrained(saved, device="cpu", precision=precision)
        np.testing.assert_array_equal(CALLS[call](inside), expected)
