from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.inpaint import harmonic, multigrid
from maerestore.inpaint.harmonic import harmonic_fill

from .conftest import box_mask, textured

CLOSE = 5e-4  # an eighth of a level of 255


def dense_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The textbook solution: each hole pixel is the mean of the neighbours that lie in the picture."""
    height, width = mask.shape
    out = image.astype(np.float64)
    pixels = np.argwhere(mask)
    number = {tuple(p): i for i, p in enumerate(pixels)}
    matrix, constant = np.zeros((len(pixels), len(pixels))), np.zeros((len(pixels), image.shape[2]))
    for (y, x), i in number.items():
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < height and 0 <= u < width:
                matrix[i, i] += 1
                if (v, u) in number:
                    matrix[i, number[v, u]] -= 1
                else:
                    constant[i] += out[v, u]
    out[mask] = np.linalg.solve(matrix, constant)
    return out


def residual(filled: np.ndarray, mask: np.ndarray) -> float:
    """How far a pixel of the hole is at most from fulfilling its equation."""
    padded = np.pad(filled.astype(np.float64), ((1, 1), (1, 1), (0, 0)), "edge")  # no flow across the border
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return float(np.abs(around - 4 * padded[1:-1, 1:-1])[mask].max())


def random_case(height: int, width: int, seed: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3), dtype=np.float32)
    mask = rng.random((height, width)) < density
    mask[rng.integers(height), rng.integers(width)] = False
    return image, mask


cases = given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.1, 0.5, 0.8, 1.0]),
)


@settings(max_examples=60, deadline=None)
@cases
def test_it_equals_a_dense_solve(height: int, width: int, seed: int, density: float) -> None:
    image, mask = random_case(height, width, seed, density)
    np.testing.assert_allclose(harmonic_fill(image, mask), dense_fill(image, mask), atol=1e-5)


@settings(max_examples=30, deadline=None)
@cases
def test_no_fill_leaves_the_range_of_the_known_pixels(height: int, width: int, seed: int, density: float) -> None:
    image, mask = random_case(height, width, seed, density)
    filled = harmonic_fill(image, mask)
    known = image[~mask]
    assert (filled >= known.min(0) - 1e-5).all()
    assert (filled <= known.max(0) + 1e-5).all()


@pytest.mark.parametrize(
    "box",
    [(5, 6, 15, 20), (0, 6, 9, 20), (11, 6, 20, 20), (5, 0, 15, 9), (5, 20, 15, 30), (0, 0, 8, 8), (12, 22, 20, 30)],
)
def test_a_hole_anywhere_equals_a_dense_solve(box: tuple[int, int, int, int]) -> None:
    image = textured(20, 30).astype(np.float32) / 255
    mask = box_mask(20, 30, box)
    np.testing.assert_allclose(harmonic_fill(image, mask), dense_fill(image, mask), atol=1e-5)


def test_a_linear_gradient_goes_on_exactly() -> None:
    y, x = np.mgrid[:40, :50].astype(np.float32)
    image = np.stack([0.2 + x / 100, 0.1 + y / 80, 0.9 - x / 200 - y / 200], axis=-1)
    mask = box_mask(40, 50, (8, 10, 30, 37), (33, 2, 36, 48))
    np.testing.assert_allclose(harmonic_fill(np.where(mask[..., None], 7, image), mask), image, atol=1e-5)


def test_every_hole_pixel_is_the_mean_of_its_neighbours() -> None:
    mask = box_mask(40, 40, (9, 9, 31, 27), (5, 30, 35, 33))
    filled = harmonic_fill(textured(40, 40).astype(np.float32) / 255, mask)
    mean = (filled[:-2, 1:-1] + filled[2:, 1:-1] + filled[1:-1, :-2] + filled[1:-1, 2:]) / 4
    np.testing.assert_allclose(filled[1:-1, 1:-1][mask[1:-1, 1:-1]], mean[mask[1:-1, 1:-1]], atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).random((24, 24, channels), dtype=np.float32)
    mask = box_mask(24, 24, (5, 5, 19, 19))
    exact = harmonic_fill(image, mask)
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", 20)
    np.testing.assert_allclose(harmonic_fill(image, mask), exact, atol=CLOSE)


@pytest.mark.parametrize(
    "boxes",
    [
        [(20, 30, 100, 130)],
        [(0, 0, 90, 160)],
        [(0, 40, 121, 131)],
        [(60, 3, 64, 158), (10, 80, 110, 83)],
        [(5, 5, 116, 156)],
    ],
    ids=["inside", "most of the photo", "top to bottom", "scratches", "all but the rim"],
)
def test_large_holes_are_solved_closely(
    boxes: list[tuple[int, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = textured(121, 161).astype(np.float32) / 255
    mask = box_mask(121, 161, *boxes)
    exact = harmonic_fill(image, mask)
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", 50)
    close = harmonic_fill(image, mask)
    np.testing.assert_allclose(close, exact, atol=CLOSE)
    np.testing.assert_array_equal(close[~mask], image[~mask])


def snake(height: int, width: int) -> np.ndarray:
    """A hole of three pixels' width that winds through the picture from end to end."""
    mask = np.ones((height, width), bool)
    for row in range(0, height, 4):
        mask[row] = False
        mask[row, 0 if row % 8 else width - 1] = True
    return mask


@pytest.mark.parametrize("density", [0.3, 0.6, 0.97, 0.999, None])
def test_a_large_hole_of_any_shape_is_solved_closely(density: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    image = rng.random((100, 121, 3), dtype=np.float32)
    mask = snake(100, 121) if density is None else rng.random((100, 121)) < density
    exact = harmonic_fill(image, mask)
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", 50)
    close = harmonic_fill(image, mask)
    assert residual(close, mask) <= 1.01e-4
    np.testing.assert_allclose(close, exact, atol=CLOSE)


@pytest.mark.parametrize("height", [4, 5, 7, 9])
def test_a_long_strip_that_is_known_at_one_end_only(height: int) -> None:
    image = np.linspace(0.2, 0.6, height, dtype=np.float32)[:, None, None].repeat(25_000, axis=1)
    mask = np.ones(image.shape[:2], bool)
    mask[:, 0] = False
    filled = harmonic_fill(image, mask)
    assert filled.min() >= 0.2 - CLOSE
    assert filled.max() <= 0.6 + CLOSE


def test_a_really_large_hole_is_solved_to_the_tolerance_too() -> None:
    image = np.random.default_rng(0).random((500, 520, 1), dtype=np.float32)
    mask = box_mask(500, 520, (5, 5, 495, 515))
    first, second = harmonic_fill(image, mask), harmonic_fill(image, mask, tolerance=2e-6)
    assert residual(first, mask) <= 1.01e-4
    np.testing.assert_allclose(first, second, atol=CLOSE)


def test_more_steps_than_a_few_are_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", 50)
    monkeypatch.setattr(multigrid, "MAX_ITERATIONS", 12)
    for side in (40, 90, 200):
        image = np.random.default_rng(0).random((side, side, 1), dtype=np.float32)
        mask = box_mask(side, side, (1, 1, side - 1, side))
        assert residual(harmonic_fill(image, mask), mask) <= 1.01e-4


@pytest.mark.parametrize("direct", [harmonic.DIRECT_SIZE, 50])
def test_what_stands_in_the_hole_is_not_read(direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", direct)
    image = textured(60, 60).astype(np.float32) / 255
    mask = box_mask(60, 60, (10, 12, 50, 44))
    other = np.where(mask[..., None], np.float32(np.nan), image)
    np.testing.assert_array_equal(harmonic_fill(image, mask), harmonic_fill(other, mask))


def test_known_pixels_and_the_input_stay() -> None:
    image = textured(30, 30).astype(np.float32) / 255
    before, mask = image.copy(), box_mask(30, 30, (3, 3, 20, 20))
    np.testing.assert_array_equal(harmonic_fill(image, mask)[~mask], before[~mask])
    np.testing.assert_array_equal(image, before)


def test_an_empty_mask_gives_the_picture_back() -> None:
    image = textured(9, 9).astype(np.float32)
    np.testing.assert_array_equal(harmonic_fill(image, np.zeros((9, 9), bool)), image)


def test_no_known_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="no known pixel"):
        harmonic_fill(np.zeros((4, 4, 3), np.float32), np.ones((4, 4), bool))
