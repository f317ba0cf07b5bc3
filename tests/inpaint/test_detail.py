from __future__ import annotations

import numpy as np
import pytest

from maerestore.inpaint import detail
from maerestore.inpaint.detail import synthesize
from maerestore.inpaint.regions import find_regions
from maerestore.inpaint.strength import texture_strength
from maerestore.inpaint.windows import plan_blocks

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


def test_what_is_smooth_around_the_hole_stays_smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two dark places the smooth one is drawn from, though the rough one has the very colour of the fill."""
    photo = np.full((96, 96, 3), 0.5, np.float32)
    photo[:20] = np.random.default_rng(0).choice([0.08, 0.32], (20, 96, 1))  # rough, 0.2 in the mean
    photo[-24:] = 0.25
    hole = np.zeros((96, 96), bool)
    hole[40:64, 30:60] = True
    photo[hole] = 0.2

    def roughness() -> float:
        return float(np.abs(np.diff(synthesize(photo, hole, ~hole)[40:64, 30:60], axis=1)).mean())

    assert roughness() < 0.02
    monkeypatch.setattr(detail, "STRENGTH", 0.0)
    assert roughness() > 0.05


def test_strength_is_told_by_what_is_known_and_continued_into_the_hole() -> None:
    photo = np.full((64, 96, 3), 0.5, np.float32)
    photo[:, :48] += np.random.default_rng(0).normal(0, 0.1, (64, 48, 1)).astype(np.float32)
    hole = np.zeros((64, 96), bool)
    hole[16:48, 8:88] = True
    photo[hole] = 0.9 * (np.indices((64, 96)).sum(0) % 2)[hole][:, None]  # what lies in the hole tells nothing
    strength = texture_strength(photo, hole, ~hole)
    assert strength.shape == (64, 96)
    assert strength.dtype == np.float32
    known_rough, known_smooth = strength[4:12, 4:40].mean(), strength[4:12, 60:90].max()
    assert 0.05 < known_rough < 0.12
    assert known_smooth < 0.005
    assert strength[24:40, 16:32].mean() == pytest.approx(known_rough, rel=0.3)
    assert strength[24:40, 68:80].mean() < 0.3 * known_rough
    assert not texture_strength(photo, hole, np.zeros_like(hole)).any()
