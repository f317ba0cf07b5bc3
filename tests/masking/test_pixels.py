from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from maerestore.masking import COVERAGE, FAMILIES, TRAINING, draw_many, draw_mask, rim
from maerestore.masking.pixels import draw_each

ALL = [*FAMILIES, *TRAINING]


def draw(family, size, seed):
    return draw_mask(family, size, np.random.default_rng(seed))


def same_hole(family, seed):
    """Overlap (intersection over union) of one seed's holes at 256 and 512 px."""
    small, large = draw(family, 256, seed), draw(family, 512, seed)
    small = small.repeat(2, 0).repeat(2, 1)
    return float((small & large).sum() / (small | large).sum())


def test_every_family_states_its_coverage():
    assert set(COVERAGE) == set(ALL)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("size", [64, 160])
def test_coverage_stays_in_the_range_of_the_family(family, size):
    low, high = COVERAGE[family]
    shares = [draw(family, size, seed).mean() for seed in range(15)]
    # Judged at one size, drawn at another: thin lines are rounded to whole pixels.
    assert low - 0.03 <= min(shares)
    assert max(shares) <= high + 0.03


@pytest.mark.parametrize(
    "family",
    ALL,
)  # fmt: skip
def test_coverage_stays_in_range_on_wide_pictures(family):
    low, high = COVERAGE[family]
    shares = [draw(family, (40, 160), seed).mean() for seed in range(30)]
    # Judged at one size, drawn at another: thin lines are rounded to whole pixels.
    assert low - 0.03 <= min(shares)
    assert max(shares) <= high + 0.03


@pytest.mark.parametrize("family", ALL)
def test_a_mask_is_bytes_of_zero_and_one_in_the_size_asked(family):
    for size, shape in [(48, (48, 48)), ((40, 72), (40, 72)), ((72, 40), (72, 40))]:
        mask = draw(family, size, 1)
        assert mask.shape == shape
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("family", ALL)
def test_the_seed_decides_the_mask(family):
    assert np.array_equal(draw(family, 64, 7), draw(family, 64, 7))
    if family != "centre":
        assert not np.array_equal(draw(family, 64, 7), draw(family, 64, 8))


@pytest.mark.parametrize(
    ("family", "least"),
    [
        ("thin", 0.75),
        ("medium", 0.93),
        ("thick", 0.95),
        ("strokes", 0.93),
        ("boxes", 0.95),
        ("centre", 1.0),
        ("blobs", 0.9),
    ],
)
def test_a_seed_gives_the_same_hole_at_twice_the_resolution(family, least):
    assert np.median([same_hole(family, seed) for seed in range(11)]) >= least


def test_borderline_coverage_does_not_change_the_hole_with_the_resolution():
    assert min(same_hole("thin", seed) for seed in range(25)) > 0.5


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("size", [1, 4, 9, 16, (16, 200), (3, 5)])
def test_tiny_pictures_do_not_crash(family, size):
    shape = (size, size) if isinstance(size, int) else size
    for seed in range(2):
        assert draw(family, size, seed).shape == shape


@pytest.mark.parametrize("family", ALL)
def test_a_mask_of_sixteen_pixels_has_a_hole(family):
    assert all(0 < draw(family, 16, seed).mean() < 1 for seed in range(20))


def test_the_centre_square_is_half_a_side():
    mask = draw("centre", (8, 12), 0)
    expected = np.zeros((8, 12), np.uint8)
    expected[2:6, 3:9] = 1
    assert np.array_equal(mask, expected)


def test_boxes_keep_off_the_border():
    margin = round(20 * 128 / 512)
    for seed in range(15):
        mask = draw("boxes", 128, seed)
        mask[margin:-margin, margin:-margin] = 0
        assert not mask.any()


def test_an_unknown_family_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'scratches'.*thin.*blobs"):
        draw("scratches", 32, 0)


def test_the_rim_is_known_and_within_its_width():
    mask = np.zeros((21, 21), np.uint8)
    mask[10, 10] = 1
    border = rim(mask, 3)
    assert border.dtype == np.uint8
    assert border[10, 10] == 0
    y, x = np.nonzero(border)
    distance = np.hypot(y - 10, x - 10)
    assert distance.max() <= 3.5
    assert border[10, 13] == border[7, 10] == border[10, 7] == border[13, 10] == 1
    assert border[10, 14] == 0


def test_a_rim_of_no_width_is_empty_and_a_picture_without_hole_has_none():
    assert not rim(draw("thick", 32, 0), 0).any()
    assert not rim(np.zeros((8, 8), np.uint8), 3).any()
    assert not rim(np.ones((8, 8), np.uint8), 3).any()


def test_many_masks_come_from_the_families_by_weight():
    masks = draw_many({"centre": 3.0, "thin": 1.0}, 60, 32, seed=0)
    assert masks.shape == (60, 32, 32)
    assert masks.dtype == np.uint8
    centre = draw("centre", 32, 0)
    share = np.mean([np.array_equal(mask, centre) for mask in masks])
    assert 0.55 < share < 0.95


def test_many_masks_repeat_with_the_seed_in_any_number_of_processes():
    first = draw_many({"thick": 1.0, "thin": 1.0}, 70, 32, 5)
    assert np.array_equal(first, draw_many({"thick": 1.0, "thin": 1.0}, 70, 32, 5))
    with ProcessPoolExecutor(2) as pool:
        assert np.array_equal(first, np.stack(list(draw_each({"thick": 1.0, "thin": 1.0}, 70, 32, 5, pool=pool))))
    assert not np.array_equal(first, draw_many({"thick": 1.0, "thin": 1.0}, 70, 32, 6))


def test_many_masks_mark_their_rims_where_asked():
    plain = draw_many({"thick": 1.0, "thin": 1.0}, 6, 32, 5)
    for hole, marked in zip(plain, draw_many({"thick": 1.0, "thin": 1.0}, 6, 32, 5, rim_width=2), strict=True):
        assert np.array_equal(marked, hole + 2 * rim(hole, 2))
