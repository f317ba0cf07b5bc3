from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.inpaint.regions import find_regions
from maerestore.inpaint.windows import SMALL, plan_windows, seen_size

from .conftest import box_mask, masks


@settings(max_examples=120, deadline=None)
@given(masks(300), st.sampled_from([8, 32, 64, 224]))
def test_windows_lie_in_the_photo_and_cover_the_hole(mask: np.ndarray, model_size: int) -> None:
    height, width = mask.shape
    for region in find_regions(mask):
        boxes = plan_windows(region, (height, width), model_size)
        assert len(set(boxes)) == len(boxes)
        covered = np.zeros_like(mask)
        for top, left, bottom, right in boxes:
            assert 0 <= top < bottom <= height
            assert 0 <= left < right <= width
            assert bottom - top >= min(model_size, height)
            assert right - left >= min(model_size, width)
            covered[top:bottom, left:right] = True
        top, left, bottom, right = region.box
        assert covered[top:bottom, left:right][region.mask].all()


@pytest.mark.parametrize("model_size", [14, 28, 252, *(s for s in (196, 260))])
def test_windows_are_not_smaller_than_a_model_size_that_is_no_multiple_of_8(model_size: int) -> None:
    (region,) = find_regions(box_mask(800, 800, (400, 400, 440, 403)))
    for top, left, bottom, right in plan_windows(region, (800, 800), model_size):
        assert bottom - top >= model_size
        assert right - left >= model_size


def test_a_compact_hole_gets_one_window_with_known_surroundings() -> None:
    mask = box_mask(900, 1200, (300, 500, 420, 640))
    (region,) = find_regions(mask)
    ((top, left, bottom, right),) = plan_windows(region, mask.shape, 64)
    assert top < 300
    assert left < 500
    assert bottom > 420
    assert right > 640
    assert mask[top:bottom, left:right].mean() < 0.5


@pytest.mark.parametrize(("side", "photo", "window", "seen"), [
    (4, (900, 1200), (128, 128), SMALL),  # a speck: a small window at its own scale
    (32, (900, 1200), (128, 128), SMALL),
    (33, (900, 1200), (256, 256), 256),
    (4, (100, 1200), (100, 128), SMALL),  # in a strip
    (4, (100, 110), (100, 110), 256),  # a small photo is enlarged, as a whole
])  # fmt: skip
def test_a_speck_gets_a_small_window(side: int, photo: tuple[int, int], window: tuple[int, int], seen: int) -> None:
    (region,) = find_regions(box_mask(*photo, (40, 60, 40 + side, 60 + side)))
    (box,) = plan_windows(region, photo, 256)
    assert (box[2] - box[0], box[3] - box[1]) == window
    assert seen_size(box, photo, 256) == seen
    assert box[0] <= 40 - 8  # known surroundings on every side
    assert box[1] <= 60 - 8
    assert box[2] >= 40 + side + 8
    assert box[3] >= 60 + side + 8
    (full,) = plan_windows(region, photo, 224)  # no smaller windows of a model that is hardly larger than they are
    assert min(full[2] - full[0], full[3] - full[1]) >= min(224, *photo)


@pytest.mark.parametrize("upright", [False, True])
def test_a_long_scratch_gets_a_row_of_windows_at_full_resolution(upright: bool) -> None:
    mask = box_mask(900, 1200, (300, 50, 304, 1150))
    mask = np.ascontiguousarray(mask.T) if upright else mask
    (region,) = find_regions(mask)
    boxes = plan_windows(region, (mask.shape[0], mask.shape[1]), 64)
    assert len(boxes) > 10
    assert all((bottom - top, right - left) == (64, 64) for top, left, bottom, right in boxes)


@pytest.mark.parametrize("model_size", [32, 256])
def test_the_number_of_windows_follows_the_hole_and_not_the_photo(model_size: int) -> None:
    counts = []
    for height, width, row, column in ((1224, 1632, 400, 600), (3000, 4000, 1700, 2300)):
        (region,) = find_regions(box_mask(height, width, (row, column, row + 490, column + 490)))
        counts.append(len(plan_windows(region, (height, width), model_size)))
    assert counts == [1, 1]


def test_a_scratch_needs_about_as_many_windows_in_a_larger_photo() -> None:
    counts = []
    for height, width, row, column in ((1224, 1632, 600, 100), (3000, 4000, 1703, 1611)):
        (region,) = find_regions(box_mask(height, width, (row, column, row + 5, column + 1400)))
        counts.append(len(plan_windows(region, (height, width), 256)))
    assert abs(counts[0] - counts[1]) <= 1


def test_specks_share_windows() -> None:
    mask = np.zeros((3000, 4000), bool)
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, 2996, 1500), rng.integers(0, 3996, 1500), strict=True):
        mask[row : row + 4, column : column + 4] = True
    boxes = {box for region in find_regions(mask) for box in plan_windows(region, (3000, 4000), 256)}
    assert len(boxes) < 1250
    seen = sum((bottom - top) * (right - left) for top, left, bottom, right in boxes)
    assert seen < 1.7 * mask.size  # of every pixel on average; a window of its own for each speck would be 2.0


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 153), st.integers(1, 153), st.integers(300, 500), st.integers(300, 700))
def test_around_a_compact_hole_a_window_shows_known_pixels(height: int, width: int, row: int, column: int) -> None:
    (region,) = find_regions(box_mask(1000, 1200, (row, column, row + height, column + width)))
    ((top, left, bottom, right),) = plan_windows(region, (1000, 1200), 256)
    least = (bottom - top) // 8
    assert row - top >= least
    assert column - left >= least
    assert bottom - (row + height) >= least
    assert right - (column + width) >= least
