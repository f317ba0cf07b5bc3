"""Which sample comes first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maerestore.inpaint import sampling
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.sampling import penalty, ranked

from .conftest import box_mask, textured

HOLE = box_mask(32, 32, (8, 8, 24, 24))
SCENE: Any = SimpleNamespace(regions=[SimpleNamespace(mask=HOLE)])
GUESS = np.full((32, 32, 3), 0.5, np.float32)


def sample(shift: float, grain: float = 0.0) -> Any:
    """The guess, brighter by `shift`, with noise."""
    noise = np.random.default_rng(0).normal(0, grain, GUESS.shape)
    return [((GUESS + shift + noise).astype(np.float32), HOLE, (0, 0, 32, 32))]


def test_the_ordinary_fill_comes_first_and_then_who_is_next_to_its_colours() -> None:
    shifts = [0.4, 0.3, -0.1, 0.2, 0.05]
    assert ranked(SCENE, [GUESS], [sample(shift) for shift in shifts]) == [0, 4, 2, 3, 1]


def test_the_penalty_is_the_mean_difference_of_colours_whatever_their_texture() -> None:
    assert penalty(SCENE, [GUESS], sample(0.2)) == pytest.approx(0.2, abs=1e-4)
    assert penalty(SCENE, [GUESS], sample(0.0, grain=0.2)) < 0.05  # its mean absolute deviation is 0.16


def test_samples_come_in_the_order_of_their_penalty(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, mask = textured(48, 64), box_mask(48, 64, (10, 16, 34, 48))
    as_drawn: list[Any] = []

    def measure(scene: Any, smooth: Any, pieces: Any) -> float:
        as_drawn.append(pieces[0][0].copy())
        return -float(len(as_drawn))

    monkeypatch.setattr(sampling, "penalty", measure)
    ordinary, *others = inpainter.samples(photo, mask, 3, sharp=False)
    # The one that was drawn last has the least penalty here.
    box = np.s_[10:34, 16:48]
    for found, drawn in zip(others, reversed(as_drawn), strict=True):
        assert abs(found[box].astype(float) - 255 * drawn).max() < 1
    np.testing.assert_array_equal(ordinary, inpainter.inpaint(photo, mask, sharp=False))
