"""A seed decides what is drawn: two of them give two pictures, one gives the same twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.sampling import HiddenBlocks, seed_of_sample

from .conftest import box_mask, textured

PHOTO, MASK = textured(48, 64), box_mask(48, 64, (10, 16, 34, 48))


@pytest.mark.parametrize(
    "draw",
    [
        lambda inpainter, seed: inpainter.inpaint(PHOTO, MASK, seed=seed),
        lambda inpainter, seed: inpainter.samples(PHOTO, MASK, 2, seed=seed)[0],
        # Smooth fills have no texture that a seed could change: these differ by what the model is shown alone.
        lambda inpainter, seed: inpainter.samples(PHOTO, MASK, 2, sharp=False, seed=seed)[1],
        lambda inpainter, seed: inpainter.confidence(PHOTO, MASK, seed=seed),
    ],
    ids=["fill", "first sample", "second sample, smooth", "confidence"],
)
def test_two_seeds_differ_in_the_hole_only_and_each_repeats_itself(
    draw: Callable[[Any, int], np.ndarray], inpainter: Inpainter
) -> None:
    three, again, four = (draw(inpainter, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(three, again)
    assert (three != four)[MASK].any()
    np.testing.assert_array_equal(three[~MASK], four[~MASK])


def test_a_sharp_sample_searches_for_texture_with_a_seed_of_its_own(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def search(photo: Any, mask: Any, regions: Any, pieces: Any, seed: int, *_: Any) -> Any:
        seeds.append(seed)
        return pieces

    monkeypatch.setattr("maerestore.inpaint.pipeline.sharpen", search)
    for seed in (5, 6):
        inpainter.samples(PHOTO, MASK, 3, seed=seed)
    assert len(set(seeds)) == 6
    assert (seeds[0], seeds[3]) == (5, 6)  # of the ordinary fill
    assert seeds[:3] == [seed_of_sample(5, k) for k in range(3)]


def test_each_sample_of_each_seed_and_window_hides_other_blocks() -> None:
    window = (0, 0, 64, 64)
    choices = [(0, 1, window), (1, 1, window), (0, 2, window), (0, 1, (0, 8, 64, 72))]
    hidden = [HiddenBlocks(seed, sample, 8)(box, (64, 64)) for seed, sample, box in choices]
    assert len({blocks.tobytes() for blocks in hidden}) == len(hidden)
    assert all(blocks.mean() == 0.5 for blocks in hidden)
