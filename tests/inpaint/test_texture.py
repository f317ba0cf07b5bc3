"""Texture and chroma of a refined fill, beside those of what surrounds it."""

from __future__ import annotations

import numpy as np
import pytest

from maerestore.inpaint.strength import chroma_energy, chroma_of
from maerestore.inpaint.texture import completed, without_specks

from .conftest import box_mask, textured

HOLE = box_mask(96, 96, (30, 30, 66, 66))
DEEP = np.where(HOLE, 9.0, 0.0).astype(np.float32)


def noisy(colours: float, seed: int = 0) -> np.ndarray:
    """A textured picture with specks of random colour, of equal brightness, in its hole."""
    picture = textured(96, 96).astype(np.float32) / 255
    noise = chroma_of(np.random.default_rng(seed).normal(0, colours, picture.shape).astype(np.float32))
    picture[HOLE] += noise[HOLE]
    return picture.clip(0, 1)


def strength(picture: np.ndarray, where: np.ndarray, sigma: float) -> float:
    return float(np.sqrt(chroma_energy(chroma_of(picture), sigma)[where].mean()))


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_coloured_specks_become_as_weak_as_the_colours_around(sigma: float) -> None:
    fill = noisy(0.15)
    around = strength(fill, ~box_mask(96, 96, (26, 26, 70, 70)), sigma)
    assert strength(fill, HOLE, sigma) > 3 * around
    assert strength(completed(fill, None, HOLE, ~HOLE, DEEP), HOLE, sigma) < 1.4 * around


def test_brightness_and_what_is_known_stay() -> None:
    fill = noisy(0.05)
    calm = without_specks(fill, HOLE, ~HOLE, 1.0, 1.5)
    np.testing.assert_array_equal(calm[~HOLE], fill[~HOLE])
    assert abs((calm - chroma_of(calm)) - (fill - chroma_of(fill)))[HOLE].max() < 0.02
    assert abs(calm - fill)[HOLE].max() > 0.05


def test_colours_that_are_as_lively_around_the_hole_stay() -> None:
    confetti = np.random.default_rng(1).random((96, 96, 3)).astype(np.float32)
    calm = without_specks(confetti, HOLE, ~HOLE, 1.0, 1.5)
    assert strength(calm, HOLE, 1.0) > 0.9 * strength(confetti, HOLE, 1.0)


def test_a_gray_photo_stays_gray() -> None:
    gray = np.repeat(textured(96, 96).astype(np.float32).mean(-1, keepdims=True) / 255, 3, axis=2)
    drawn = completed(gray, gray, HOLE, ~HOLE, DEEP)
    assert np.ptp(drawn, axis=2).max() < 1e-6


def test_nothing_known_changes_nothing() -> None:
    fill = noisy(0.1)
    nothing = np.zeros_like(HOLE)
    assert completed(fill, None, HOLE, nothing, DEEP) is fill
    assert without_specks(fill, HOLE, nothing, 1.0, 1.5) is fill
