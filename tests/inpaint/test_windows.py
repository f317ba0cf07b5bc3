from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.inpaint.regions import find_regions
from maerestore.inpaint.windows import plan_windows

from .conftest import box_mask


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


@settings(max_examples=120, deadline=None)
@given(masks())
def test_every_hole_pixel_lies_in_exactly_one_region(mask: np.ndarray) -> None:
    count = np.zeros(mask.shape, int)
    for region in find_regions(mask):
        top, left, bottom, right = region.box
        assert region.mask.shape == (bottom - top, right - left)
        assert region.mask.dtype == np.bool_
        count[top:bottom, left:right] += region.mask
    np.testing.assert_array_equal(count, mask.astype(int))


@settings(max_examples=60, deadline=None)
@given(masks())
def test_a_region_fits_its_box_tightly(mask: np.ndarray) -> None:
    regions = find_regions(mask)
    for region in regions:
        assert region.mask[0].any()
        assert region.mask[-1].any()
        assert region.mask[:, 0].any()
        assert region.mask[:, -1].any()
        assert region.thickness > 0
    assert [region.box for region in regions] == sorted(region.box for region in regions)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_hole_pixels_that_touch_are_filled_together(mask: np.ndarray) -> None:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    owners: dict[int, set[int]] = {label: set() for label in range(1, count)}
    for i, region in enumerate(find_regions(mask)):
        top, left, bottom, right = region.box
        for label in np.unique(labels[top:bottom, left:right][region.mask]):
            owners[int(label)].add(i)
    assert all(len(who) == 1 for who in owners.values())


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
    (region,) = find_regions(box_mask(800, 800, (400, 400, 403, 403)))
    ((top, left, bottom, right),) = plan_windows(region, (800, 800), model_size)
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


def test_a_hole_along_the_border_counts_twice_for_it_is_known_on_one_side_only() -> None:
    (region,) = find_regions(box_mask(400, 400, (0, 0, 400, 20)))
    assert 38 <= region.thickness <= 42


def test_specks_that_lie_apart_are_regions_of_their_own() -> None:
    assert len(find_regions(box_mask(200, 200, (10, 10, 12, 12), (100, 100, 103, 103), (190, 5, 193, 8)))) == 3


def test_no_hole_no_region() -> None:
    assert find_regions(np.zeros((30, 30), bool)) == []
