"""Texture and chroma of a refined fill, beside those of what surrounds it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maerestore.image import Photo
from maerestore.inpaint import texture, windows
from maerestore.inpaint.detail import find_origins
from maerestore.inpaint.regions import find_regions
from maerestore.inpaint.strength import chroma_energy, chroma_of, energy_of
from maerestore.inpaint.texture import completed, sharpen, without_specks

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
    drawn = completed(gray, find_origins(gray, HOLE, ~HOLE), HOLE, ~HOLE, DEEP)
    assert np.ptp(drawn, axis=2).max() < 1e-6
    assert energy_of(drawn)[HOLE].mean() > 0.5 * energy_of(gray)[~HOLE].mean()


def grainy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (96, 96, 1)).astype(np.float32).repeat(3, axis=2)


def shifted(columns: np.ndarray) -> np.ndarray:
    """Origins of the hole: so many columns to the right."""
    return np.arange(96 * 96).reshape(96, 96) + np.where(HOLE, columns, 0)


def test_patches_of_different_colours_make_no_step() -> None:
    light = np.linspace(0.2, 0.8, 96, dtype=np.float32)[None, :, None].repeat(96, axis=0).repeat(3, axis=2)
    fill = np.where(HOLE[..., None], light, light + grainy())
    left = np.arange(96) < 48
    drawn = completed(fill, shifted(np.where(left, -30, 30)[None]), HOLE, ~HOLE, DEEP)
    assert energy_of(drawn)[HOLE].mean() > 0.5 * energy_of(fill)[~HOLE].mean()
    columns = (drawn - light)[HOLE].reshape(36, 36, 3).mean(axis=(0, 2))
    assert abs(columns[18] - columns[17]) < 0.03  # of .38 between the places that the two are drawn from


def test_the_halo_of_an_edge_that_stays_behind_is_no_texture() -> None:
    fill = np.full((96, 96, 3), 0.2, np.float32) + grainy()
    fill[:, 72:] += 0.6
    fill[HOLE] = 0.2
    drawn = completed(fill, shifted(np.where(np.arange(96) < 48, 24, -20)[None]), HOLE, ~HOLE, DEEP)  # up to 72
    columns = (drawn - 0.2)[HOLE].reshape(36, 36, 3).mean(axis=(0, 2))
    assert abs(columns).max() < 0.02


def test_an_edge_far_from_a_flat_rim_is_no_texture() -> None:
    fill = np.full((96, 96, 3), 0.9, np.float32)
    fill[8:10] = 0.1  # 20 pixels above the hole
    fill[80:] += grainy()[80:]
    rows = np.arange(96)[:, None]
    origins = np.where(HOLE, (rows % 12 + 82) * 96 + np.arange(96)[None], np.arange(96 * 96).reshape(96, 96))
    drawn = completed(fill, origins, HOLE, ~HOLE, DEEP)
    assert abs(drawn - fill)[HOLE].max() < 2 / 255


def test_bars_beside_a_flat_fill_leave_no_crumbs_in_it() -> None:
    photo = np.full((96, 128, 3), 0.5, np.float32) + np.random.default_rng(0).normal(0, 0.004, (96, 128, 1))
    photo = photo.astype(np.float32)
    rows, columns = np.indices((96, 128))
    mast = columns >= 92
    photo[mast & ((rows + columns) % 12 < 2) | mast & ((rows - columns) % 12 < 2)] = 0.1
    hole = box_mask(96, 128, (16, 40, 80, 88))  # four pixels from the bars: they are expected in it, and offered
    truth = photo.copy()
    photo[hole] = 0.5
    distance = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
    drawn = completed(photo, find_origins(photo, hole, ~hole), hole, ~hole, distance)
    assert abs(drawn - 0.5)[hole].max() < 1.5 * abs(truth - 0.5)[hole].max()
    grain = drawn[hole].std() / truth[hole].std()
    assert 0.4 < grain < 1.4  # what the sky has is texture


def test_nothing_known_changes_nothing() -> None:
    fill = noisy(0.1)
    nothing = np.zeros_like(HOLE)
    assert completed(fill, None, HOLE, nothing, DEEP) is fill
    assert without_specks(fill, HOLE, nothing, 1.0, 1.5) is fill


def test_deep_in_a_hole_texture_goes_on_from_block_to_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the block in the middle nothing is known, and the blocks beside it are drawn by then."""
    monkeypatch.setattr(windows, "BLOCK", 64)
    monkeypatch.setattr(texture, "surroundings", lambda region: 24)
    noise = np.random.default_rng(0).normal(0.5, 0.1, (280, 280, 3)).clip(0, 1)
    photo, hole = Photo((255 * noise).astype(np.uint8)), box_mask(280, 280, (44, 44, 236, 236))
    regions = find_regions(hole)
    fill = np.full((192, 192, 3), 0.5, np.float32)
    distance = np.full((192, 192), 40, np.float32)
    ((drawn, _, _),) = sharpen(photo, hole, regions, [(fill, None, None)], 0, None, [distance])
    energy = np.sqrt(energy_of(drawn).reshape(3, 64, 3, 64).mean((1, 3)))
    around = np.delete(energy.ravel(), 4).mean()
    assert around > 0.02
    assert energy[1, 1] == pytest.approx(around, rel=0.4)
