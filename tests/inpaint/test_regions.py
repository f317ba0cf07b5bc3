from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.inpaint import regions
from maerestore.inpaint.boxes import slices
from maerestore.inpaint.regions import cut, dilated, distance_to_known, find_regions

from .conftest import box_mask, masks


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


def test_a_hole_along_the_border_counts_twice_for_it_is_known_on_one_side_only() -> None:
    (region,) = find_regions(box_mask(400, 400, (0, 0, 400, 20)))
    assert 38 <= region.thickness <= 42


def test_specks_that_lie_apart_are_regions_of_their_own() -> None:
    assert len(find_regions(box_mask(200, 200, (10, 10, 12, 12), (100, 100, 103, 103), (190, 5, 193, 8)))) == 3


def test_no_hole_no_region() -> None:
    assert find_regions(np.zeros((30, 30), bool)) == []


def test_distances_end_at_the_border_and_at_what_is_unknown_too() -> None:
    mask = box_mask(60, 60, (0, 20, 10, 30))
    (region,) = find_regions(mask)
    distance = distance_to_known(region, (60, 60))
    assert distance.shape == (10, 10)
    assert distance[0, 5] > distance[-1, 5] == 1  # nothing is known above the photo
    unknown = mask | box_mask(60, 60, (10, 20, 14, 30))
    assert distance_to_known(region, (60, 60), unknown)[-1, 5] == 5


def test_a_mask_grows_by_a_disc() -> None:
    mask = box_mask(21, 21, (10, 10, 11, 11))
    rows, columns = np.nonzero(dilated(mask, 4))
    assert ((rows - 10) ** 2 + (columns - 10) ** 2 <= 16).all()
    assert len(rows) == 49
    assert dilated(mask, 0) is mask


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(1, 40))
def test_a_mask_grows_as_it_does_on_the_whole_photo(mask: np.ndarray, pixels: int) -> None:
    known = (~mask).astype(np.uint8)
    whole = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels
    before = mask.copy()
    np.testing.assert_array_equal(dilated(mask, pixels), whole if mask.any() else mask)
    np.testing.assert_array_equal(mask, before)


def test_growing_a_small_hole_looks_at_a_small_part_of_a_large_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    transform = cv2.distanceTransform

    def spy(image: np.ndarray, *options: Any) -> np.ndarray:
        looked_at.append(image.shape)
        return transform(image, *options)

    monkeypatch.setattr(cv2, "distanceTransform", spy)
    assert dilated(box_mask(3000, 4000, (0, 100, 20, 130)), 5).sum() > 600
    assert looked_at == [(25, 40)]


@settings(max_examples=60, deadline=None)
@given(masks())
def test_parts_hold_each_pixel_of_a_hole_once(mask: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "TILE", 16)
        patch.setattr(regions, "REACH", 0.5)
        for region in find_regions(mask):
            parts = cut(region)
            count = np.zeros(mask.shape, int)
            for part in parts:
                count[slices(part.box)] += part.mask
                assert part.thickness == region.thickness
                if part is not region:
                    assert part.whole is region
                    assert max(part.mask.shape) <= 16
            np.testing.assert_array_equal(count[slices(region.box)], region.mask)


def test_only_long_thin_holes_of_large_photos_are_cut() -> None:
    scratch = np.eye(3000, dtype=bool)
    for mask, cuts in ((scratch, True), (scratch[:1000, :1000], False), (np.ones((3000, 3000), bool), False)):
        (region,) = find_regions(mask)
        assert (len(cut(region)) > 1) == cuts
