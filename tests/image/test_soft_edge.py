"""A hole grows over the soft edge that an eraser left, and over nothing else that is half transparent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maerestore.image import Photo, erased_hole, read_mask
from maerestore.image.soft_edge import grown_over_edge

HEIGHT, WIDTH = 240, 320
Y, X = np.mgrid[:HEIGHT, :WIDTH]
AWAY = np.hypot(Y - 110, X - 160)


def outline() -> np.ndarray:
    """(H, W) float32, 1 in a polygon with dents."""
    drawn = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(drawn, [np.array([[80, 60], [220, 50], [200, 150], [150, 110], [100, 180]])], (1.0,))
    return drawn


def brushed(radius: float, hardness: float, flow: float) -> np.ndarray:
    """What strokes of a soft round brush leave."""
    alpha = np.ones((HEIGHT, WIDTH))
    for x, y in zip(np.linspace(60, 250, 70), 120 + 40 * np.sin(np.linspace(0, 6, 70)), strict=True):
        away = np.hypot(Y - y, X - x) / radius
        alpha *= 1 - flow * np.clip((1 - away) / (1 - hardness), 0, 1)
    return alpha


def smoke(sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (HEIGHT, WIDTH))
    noise = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
    return np.asarray(0.5 + 0.2 * noise / noise.std())


def patch(inside: np.ndarray | float, box: tuple[int, int, int, int] = (40, 50, 160, 200)) -> np.ndarray:
    """Opaque but for a box."""
    alpha, (top, left, bottom, right) = np.ones((HEIGHT, WIDTH)), box
    alpha[top:bottom, left:right] = np.broadcast_to(inside, alpha.shape)[top:bottom, left:right]
    return alpha


def cut_out(radius: float, soft: float) -> np.ndarray:
    return np.clip((radius - np.hypot(Y - 120, (X - 160) / 1.35)) / soft, 0, 1)


def glass(soft: float = 0) -> np.ndarray:
    """A small pane of glass with a hole in it."""
    pane = patch(0.6)
    pane[80:110, 100:150] = 0
    return cv2.GaussianBlur(pane, (0, 0), soft) if soft else pane


def photo_of(alpha: np.ndarray, bits: int = 8) -> Photo:
    samples = np.full((*alpha.shape, 2), 90, np.uint16 if bits == 16 else np.uint8)
    samples[..., 1] = np.rint(alpha.clip(0, 1) * (2**bits - 1))
    return Photo(samples, "LA", bits)


EDGES = {
    **{f"straight, {width} px": np.clip((AWAY - 30) / width, 0, 1) for width in (1, 2, 4, 10, 20, 60, 75)},
    **{f"blurred by {sigma}": 1 - cv2.GaussianBlur(outline(), (0, 0), sigma) for sigma in (0.7, 1.5, 4.0, 8.0)},
    **{f"brush {brush}": brushed(*brush) for brush in ((6, 0, 1), (20, 0, 0.5), (20, 0.5, 1), (30, 0.9, 0.3))},
    "faint in the middle too": np.clip(0.3 + (AWAY - 30) / 30, 0, 1),
    "at the border": np.clip((np.hypot(Y - 10, X - 5) - 40) / 20, 0, 1),
}
OTHERS = {
    "glass": glass(),
    "glass, smooth": glass(1),
    **{f"smoke {sigma}": patch(smoke(sigma)) for sigma in (0, 2, 8, 20)},
    **{f"{soft} px outline, radius {radius}": cut_out(radius, soft) for radius in (90, 118) for soft in (2, 12, 30)},
    **{f"throughout {sigma}": np.clip(smoke(sigma), 0, 0.99) for sigma in (0, 8)},
    "throughout, even": np.where(AWAY < 30, 0, np.clip(0.5 + (AWAY - 30) / 60, 0, 0.8)),
    "wide": np.clip((AWAY - 20) / 150, 0, 1),
    "no hole": np.clip(0.5 + AWAY / 60, 0, 1),
    "hard": np.where(AWAY < 30, 0.0, 1.0),
    "opaque": np.ones((HEIGHT, WIDTH)),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", EDGES)
def test_a_hole_grows_over_its_soft_edge(name: str, bits: int) -> None:
    photo = photo_of(EDGES[name], bits)
    np.testing.assert_array_equal(erased_hole(photo), photo.samples[..., 1] < 2**bits - 1)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_half_transparent_for_another_reason_stays(name: str) -> None:
    photo = photo_of(OTHERS[name])
    np.testing.assert_array_equal(erased_hole(photo), photo.samples[..., 1] < 128)


def test_what_stays_does_not_keep_another_hole_from_growing() -> None:
    alpha = np.concatenate([np.clip((AWAY - 30) / 20, 0, 1), glass()])
    expected = np.concatenate([AWAY < 50, glass() < 0.5])
    found = erased_hole(photo_of(alpha))
    assert (found != expected).mean() < 1e-3  # the rim is rounded
    np.testing.assert_array_equal(found[HEIGHT:], expected[HEIGHT:])


def test_a_photo_without_alpha_has_no_edge() -> None:
    hole = np.zeros((4, 5), bool)
    assert grown_over_edge(Photo(np.zeros((4, 5, 3), np.uint8)), hole) is hole


@pytest.mark.parametrize("known", [True, False], ids=["copy of the photo", "other photo"])
def test_the_mask_of_a_copy_with_an_erased_part_grows_over_the_edge(known: bool, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    alpha = np.rint(255 * EDGES["straight, 20 px"]).astype(np.uint8)
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "cut.png")
    for white, expected in (("hole", alpha < 255), ("keep", alpha == 255)):
        found = read_mask(
            tmp_path / "cut.png",
            (WIDTH, HEIGHT),
            white=white,
            photo=Photo(picture.copy()) if known else None,  # type: ignore[arg-type]
        )
        np.testing.assert_array_equal(found, expected)


def test_soft_strokes_of_paint_are_no_erased_hole(tmp_path: Path) -> None:
    layer = np.full((HEIGHT, WIDTH, 4), (255, 0, 0, 255), np.uint8)
    layer[..., 3] = np.rint(255 * EDGES["straight, 20 px"])
    Image.fromarray(layer).save(tmp_path / "layer.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "layer.png", (WIDTH, HEIGHT)), layer[..., 3] >= 128)
