from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from maerestore.inpaint.blend import BlendCurve, blend, merge_tiles
from maerestore.inpaint.regions import Region, distance_to_known, find_regions

from .conftest import box_mask


def region_of(mask: np.ndarray) -> Region:
    (region,) = find_regions(mask)
    return region


# --- the curve


def test_a_curve_is_straight_between_its_knots_and_constant_beyond() -> None:
    curve = BlendCurve((2.0, 4.0, 8.0), (0.2, 0.6, 0.4))
    np.testing.assert_allclose(curve(np.array([0, 2, 3, 4, 6, 8, 100])), [0.2, 0.2, 0.4, 0.6, 0.5, 0.4, 0.4])


def test_a_curve_keeps_the_shape_of_what_it_gets() -> None:
    assert BlendCurve()(np.zeros((3, 4))).shape == (3, 4)
    assert float(BlendCurve()(np.array(0.0))) == 0


@pytest.mark.parametrize(
    ("distance", "share"),
    [
        ((), ()),
        ((0.0,), (0.0, 1.0)),
        ((0.0, 1.0), (1.0,)),
        ((1.0, 0.0), (0.0, 1.0)),
        ((0.0, 1.0), (0.0, 1.1)),
        ((0.0, 1.0), (-0.1, 1.0)),
        ((0.0, 1.0), (0.0, float("nan"))),
        ((0.0, float("nan")), (0.0, 1.0)),
        ((0.0, float("inf")), (0.0, 1.0)),
    ],
)
def test_curves_that_make_no_sense_are_refused(distance: tuple[float, ...], share: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        BlendCurve(distance, share)


def test_a_curve_survives_json() -> None:
    import json

    curve = BlendCurve((0, 3, 9), (0, 0.5, 1))
    assert BlendCurve(**json.loads(json.dumps(curve.to_dict()))) == curve


# --- distances


def test_distances_inside_the_photo_are_to_the_nearest_known_pixel() -> None:
    mask = box_mask(60, 80, (10, 20, 40, 65))
    region = region_of(mask)
    exact = distance_transform_edt(mask)[10:40, 20:65]
    np.testing.assert_allclose(distance_to_known(region, (60, 80)), exact, rtol=0.05)


@pytest.mark.parametrize("turns", range(4))
def test_beyond_the_border_nothing_is_known(turns: int) -> None:
    mask = np.ascontiguousarray(np.rot90(box_mask(30, 40, (0, 0, 30, 5)), turns))
    region = region_of(mask)
    distance = np.rot90(distance_to_known(region, (mask.shape[0], mask.shape[1])), -turns)
    np.testing.assert_allclose(distance, np.tile([5, 4, 3, 2, 1], (30, 1)), rtol=0.05)


def test_a_hole_of_most_of_the_photo_is_far_from_what_is_known() -> None:
    mask = np.ones((20, 20), bool)
    mask[-1, -1] = False
    distance = distance_to_known(region_of(mask), (20, 20))
    assert distance[0, 0] == pytest.approx(19 * 2**0.5, rel=0.05)
    assert distance[-1, -1] == 0


# --- tiles


tilings = st.lists(
    st.tuples(st.integers(-20, 20), st.integers(-20, 20), st.integers(8, 60), st.integers(8, 60)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(tilings)
def test_tiles_that_agree_are_returned_as_they_are(corners: list[tuple[int, int, int, int]]) -> None:
    region = region_of(box_mask(100, 100, (20, 30, 70, 70)))
    boxes = [(max(0, 40 + y), max(0, 40 + x), 40 + y + h, 40 + x + w) for y, x, h, w in corners]
    boxes.append((10, 10, 90, 90))
    pictures = [np.full((b[2] - b[0], b[3] - b[1], 3), (0.1, 0.5, 0.9), np.float32) for b in boxes]
    fill, scale = merge_tiles(region, boxes, pictures, [0.5] * len(boxes))
    assert fill.shape == (50, 40, 3)
    np.testing.assert_allclose(fill, np.broadcast_to(np.float32((0.1, 0.5, 0.9)), fill.shape), atol=1e-5)
    np.testing.assert_allclose(scale, 0.5, atol=1e-5)


@pytest.mark.parametrize("box", [(0, 0, 100, 100), (20, 30, 70, 70), (13, 1, 99, 77)])
def test_a_single_tile_is_returned_exactly(box: tuple[int, int, int, int]) -> None:
    region = region_of(box_mask(100, 100, (20, 30, 70, 70)))
    picture = np.random.default_rng(0).random((box[2] - box[0], box[3] - box[1], 3), dtype=np.float32)
    fill, scale = merge_tiles(region, [box], [picture], [0.25])
    np.testing.assert_allclose(fill, picture[20 - box[0] : 70 - box[0], 30 - box[1] : 70 - box[1]], rtol=1e-6)
    np.testing.assert_allclose(scale, 0.25, rtol=1e-6)


def test_tiles_elsewhere_do_not_count() -> None:
    region = region_of(box_mask(100, 100, (20, 30, 40, 50)))
    boxes = [(0, 0, 60, 60), (60, 60, 100, 100)]
    pictures = [np.full((60, 60, 3), 0.3, np.float32), np.full((40, 40, 3), 0.9, np.float32)]
    np.testing.assert_allclose(merge_tiles(region, boxes, pictures, [1.0, 1.0])[0], 0.3, atol=1e-6)


def test_one_tile_passes_into_the_next_without_a_step() -> None:
    region = region_of(box_mask(20, 120, (8, 20, 12, 100)))
    boxes = [(0, 0, 20, 70), (0, 50, 20, 120)]
    pictures = [np.zeros((20, 70, 3), np.float32), np.ones((20, 70, 3), np.float32)]
    row = merge_tiles(region, boxes, pictures, [1.0, 1.0])[0][1, :, 0]
    assert row[0] == 0
    assert row[-1] == 1
    assert (np.diff(row) >= -1e-6).all()
    assert np.diff(row).max() < 0.2


# --- the blend


def picture(value: float) -> np.ndarray:
    return np.full((4, 5, 3), value, np.float32)


def test_the_share_follows_the_curve_in_pixels_of_the_model() -> None:
    distance = np.tile(np.float32([1, 2, 4, 8, 40]), (4, 1))
    scale = np.full((4, 5), 0.5, np.float32)
    out = blend(picture(0), picture(1), distance, scale, BlendCurve((0.0, 4.0), (0.0, 1.0)))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, :, 0], [0.125, 0.25, 0.5, 1, 1])


def test_a_feather_ramps_up_from_the_rim_and_leaves_the_depth_alone() -> None:
    distance = np.tile(np.float32([1, 2, 4, 8, 40]), (4, 1))
    scale = np.ones((4, 5), np.float32)
    out = blend(picture(0), picture(1), distance, scale, BlendCurve((0.0,), (1.0,)), feather=8)
    np.testing.assert_allclose(out[0, :, 0], [1 / 8, 2 / 8, 4 / 8, 1, 1])


def test_no_share_leaves_the_harmonic_fill() -> None:
    ones = np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(blend(picture(0.3), picture(9), ones, ones, BlendCurve((0.0,), (0.0,))), picture(0.3))
