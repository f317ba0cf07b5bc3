from __future__ import annotations

import numpy as np
import pytest

from maerestore.inpaint.detail import synthesize
from maerestore.inpaint.windows import find_regions, plan_blocks

from .conftest import box_mask, textured


def scene(height: int = 90, width: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture with a flat fill in its hole, and the hole."""
    hole = box_mask(height, width, (30, 35, 60, 70))
    image = textured(height, width).astype(np.float32) / 255
    image[hole] = image[~hole].mean(0)
    return image, hole


def test_only_the_hole_is_drawn() -> None:
    image, hole = scene()
    before = image.copy()
    drawn = synthesize(image, hole, ~hole)
    np.testing.assert_array_equal(drawn[~hole], image[~hole])
    np.testing.assert_array_equal(image, before)
    assert (drawn[hole] != image[hole]).any()


def test_the_hole_gets_colours_of_known_pixels_only() -> None:
    image, hole = scene()
    known = ~hole
    known[:, :20] = False  # neither hole nor known: another hole, whose fill is no source
    image[:, :20] = np.random.default_rng(0).random((90, 20, 3))
    palette = {color.tobytes() for color in image[known]}
    assert all(color.tobytes() in palette for color in synthesize(image, hole, known)[hole])


def test_a_seed_fixes_the_result() -> None:
    image, hole = scene()
    np.testing.assert_array_equal(synthesize(image, hole, ~hole, 3), synthesize(image, hole, ~hole, 3))


def test_the_texture_is_as_strong_as_around() -> None:
    image, hole = scene()
    drawn = synthesize(image, hole, ~hole)
    inside, around = (np.abs(np.diff(drawn, axis=1))[part[:, 1:]].mean() for part in (hole, ~hole))
    assert 0.6 * around < inside < 1.4 * around


@pytest.mark.parametrize("shape", [(5, 5), (6, 60), (12, 12), (1, 30)])
def test_too_little_known_leaves_the_smooth_fill(shape: tuple[int, int]) -> None:
    image = textured(*shape).astype(np.float32) / 255
    hole = box_mask(*shape, (0, 0, shape[0], shape[1] - 1))
    np.testing.assert_array_equal(synthesize(image, hole, ~hole), image)


def test_every_hole_pixel_lies_in_exactly_one_block() -> None:
    mask = box_mask(900, 1300, (5, 5, 880, 30), (400, 20, 700, 1290))
    (region,) = find_regions(mask)
    count = np.zeros(mask.shape, int)
    for top, left, bottom, right in plan_blocks(region):
        count[top:bottom, left:right] += 1
    assert (count[mask] == 1).all()
