"""The refiner in a fill, and what it shares with known patches."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maerestore.image import InputError, Photo
from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.detail import drawn_from
from maerestore.inpaint.model_window import ModelWindow, at_model_size
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.refine import LIMIT, SMOOTH_LIMIT, refined_fill
from maerestore.inpaint.texture import LEAST, MOST, RAMP, RIM, completed
from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer

from .conftest import box_mask, random_model
from .conftest import textured as photo_of

CONFIG = RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1, 2))


TRUST = BlendCurve((0.0,), (1.0,))  # the model is asked about every hole, however thin
HARMONIC = BlendCurve((0.0,), (0.0,))


def random_refiner(spread: float = 0.05) -> Refiner:
    """A refiner whose weights moved from those that leave the coarse fill as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        refiner = Refiner(CONFIG)
        with torch.no_grad():
            for parameter in refiner.parameters():
                parameter += spread * torch.randn_like(parameter)
    return refiner.eval()


@pytest.fixture(scope="module")
def refining() -> Inpainter:
    """An inpainter with a refiner that changes the fill."""
    return Inpainter(random_model(), TRUST, refiner=random_refiner(), precision="fp32")


MASK = box_mask(70, 90, (20, 30, 48, 60), (60, 0, 64, 40))


def test_only_the_hole_changes_and_what_it_hides_is_not_seen(refining: Inpainter) -> None:
    photo = photo_of(70, 90)
    filled = refining.inpaint(photo, MASK)
    np.testing.assert_array_equal(filled[~MASK], photo[~MASK])
    photo[MASK] = 255 - photo[MASK]
    np.testing.assert_array_equal(refining.inpaint(photo, MASK), filled)


def test_the_refiner_changes_both_fills(refining: Inpainter, inpainter: Inpainter) -> None:
    photo = photo_of(70, 90)
    for sharp in (True, False):
        ours, plain = (each.inpaint(photo, MASK, sharp=sharp)[MASK] for each in (refining, inpainter))
        assert (ours != plain).mean() > 0.5


def test_the_smooth_fill_is_the_refiners_mean_and_the_sharp_one_its_other_picture() -> None:
    photo, mask = photo_of(70, 90), box_mask(70, 90, (20, 30, 24, 60))
    plain, tinted = random_refiner(0), random_refiner(0)
    with torch.no_grad():
        tinted.head.bias.copy_(torch.tensor([0.2] * 3 + [-0.2] * 3))  # mean brighter, sharp darker
    before, after = (
        [Inpainter(random_model(), TRUST, refiner=each).inpaint(photo, mask, sharp=sharp) for sharp in (False, True)]
        for each in (plain, tinted)
    )
    change = [(b.astype(float) - a)[mask].mean() for a, b in zip(before, after, strict=True)]
    # 0.2 in the autoencoder's normalisation is 11.5 of 255, less where a fill was near black or white.
    assert 8 < change[0] < 12
    assert -12 < change[1] < -8


def test_a_thin_hole_needs_no_known_patches(refining: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("patches were searched")

    monkeypatch.setattr("maerestore.inpaint.texture.find_origins", fail)
    photo = photo_of(48, 64)
    refining.inpaint(photo, box_mask(48, 64, (10, 20, 14, 50)))
    with pytest.raises(AssertionError, match="searched"):
        refining.inpaint(photo, box_mask(48, 64, (10, 20, 16, 50)))


def test_the_seed_decides_what_texture_is_added() -> None:
    # Untrained, the refiner leaves a fill that lacks texture; what the random one draws has enough of its own.
    plain = Inpainter(random_model(), BlendCurve((0.0,), (0.3,)), refiner=random_refiner(0), precision="fp32")
    photo = photo_of(70, 90)
    three, again, four = (plain.inpaint(photo, MASK, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(three, again)
    assert (three != four)[MASK].any()


def test_feather_starts_at_the_continuation_of_the_rim(refining: Inpainter) -> None:
    photo = photo_of(48, 64)
    mask = box_mask(48, 64, (10, 20, 14, 50))
    ramped = refining.inpaint(photo, mask, feather=50).astype(int)
    harmonic = Inpainter(random_model(), TRUST, refiner=random_refiner(0), precision="fp32")
    smooth = harmonic.inpaint(photo, mask, feather=50, sharp=False).astype(int)
    assert abs(ramped - smooth)[mask].max() <= 12
    assert abs(refining.inpaint(photo, mask).astype(int) - smooth)[mask].max() > 12


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (9, 9), (33, 130)])
def test_photos_of_any_size(size: tuple[int, int], refining: Inpainter) -> None:
    photo, mask = photo_of(*size), np.zeros(size, bool)
    mask[size[0] // 3 : size[0] // 3 + 5, size[1] // 3 : size[1] // 3 + 20] = True
    mask[0, 0] = False
    filled = refining.inpaint(photo, mask)
    np.testing.assert_array_equal(filled[~mask], photo[~mask])


def test_bf16_agrees_with_fp32(refining: Inpainter) -> None:
    photo = photo_of(70, 90)
    mask = box_mask(70, 90, (20, 30, 24, 70))
    rough = Inpainter(random_model(), TRUST, refiner=random_refiner(), precision="bf16")
    difference = abs(rough.inpaint(photo, mask).astype(int) - refining.inpaint(photo, mask))
    assert 0 < difference[mask].mean() < 2


# --- refined_fill


def _window(height: int, width: int, box: tuple[int, int, int, int]) -> ModelWindow:
    image = photo_of(height, width).astype(np.float32) / 255
    return ModelWindow((0, 0, height, width), image, box_mask(height, width, box))


def test_windows_of_several_sizes_come_back_in_order_at_their_size() -> None:
    restorer = Restorer(random_model(), random_refiner())
    windows = [_window(40, 56, (8, 8, 20, 30)), _window(32, 32, (0, 0, 9, 9)), _window(40, 56, (5, 6, 33, 40))]
    done: list[int] = []
    together = refined_fill(restorer, windows, 32, TRUST, done.append)
    assert sum(done) == 3
    for window, picture in zip(windows, together, strict=True):
        assert picture.shape == window.image.shape
        assert picture.min() >= 0
        assert picture.max() <= 1
        np.testing.assert_allclose(picture, refined_fill(restorer, [window], 32, TRUST)[0], atol=2e-4)


@pytest.mark.parametrize("side", [600, 1333, 1366])
def test_in_a_window_with_hardly_anything_known_the_hole_stays_unknown(side: int) -> None:
    mask = np.ones((side, side), bool)
    mask[[0, -1]] = mask[:, [0, -1]] = False
    _, small = at_model_size(ModelWindow((0, 0, side, side), np.zeros((side, side, 3), np.float32), mask), (384, 384))
    assert small[2:-2, 2:-2].all()
    assert not small.all()


def test_a_window_beyond_the_limit_is_refined_smaller() -> None:
    restorer = Restorer(random_model(), Refiner(CONFIG).eval())
    sizes: list[tuple[int, ...]] = []
    handle = restorer.refiner.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    window = _window(64, 128, (20, 40, 44, 90))
    (picture,) = refined_fill(restorer, [window], 32, HARMONIC, limit=48)
    handle.remove()
    assert sizes[0][0] * sizes[0][1] <= 1.2 * 48**2
    assert picture.shape == (64, 128, 3)
    # Untrained, it gives back what it was given: smaller, and enlarged again.
    assert abs(picture - window.image)[window.mask].mean() < 0.1


@pytest.mark.parametrize(("sharp", "side"), [(True, LIMIT), (False, SMOOTH_LIMIT)])
def test_the_sharp_picture_is_drawn_smaller_than_the_smooth_one(sharp: bool, side: int) -> None:
    """Weave grows in holes larger than a refiner was trained on; the picture without it keeps its own size."""
    restorer = Restorer(random_model(), Refiner(CONFIG).eval())
    sizes: list[tuple[int, ...]] = []
    handle = restorer.refiner.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    refined_fill(restorer, [_window(800, 800, (300, 300, 340, 340))], 32, HARMONIC, sharp=sharp)
    handle.remove()
    assert sizes[0] == (side, side)


def test_the_refiner_starts_from_the_curves_share_of_the_autoencoder() -> None:
    restorer = Restorer(random_model(), Refiner(CONFIG).eval())  # untrained: what it starts from comes back
    window = _window(32, 32, (8, 8, 24, 24))

    def filled(*shares: float) -> np.ndarray:
        curve = BlendCurve(tuple(range(len(shares))), shares)
        return refined_fill(restorer, [window], 32, curve)[0][window.mask]

    harmonic, autoencoder = filled(0.0), filled(1.0)
    np.testing.assert_allclose(harmonic, window.image[window.mask], atol=1e-5)
    np.testing.assert_allclose(filled(0.25), 0.75 * harmonic + 0.25 * autoencoder, atol=1e-4)
    depth = cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5)[window.mask]
    ramp = filled(0.0, 0.0, 1.0)  # none up to a pixel from the rim, all from two on
    np.testing.assert_allclose(ramp[depth <= 1], harmonic[depth <= 1], atol=1e-5)
    np.testing.assert_allclose(ramp[depth >= 2], autoencoder[depth >= 2], atol=1e-4)


def test_what_is_hidden_from_the_autoencoder_changes_the_fill_and_stays_known() -> None:
    restorer = Restorer(random_model(), Refiner(CONFIG).eval())
    window = _window(32, 32, (8, 8, 24, 24))

    def half(box: Any, shape: tuple[int, int]) -> np.ndarray:
        assert box == window.box
        return np.arange(shape[1])[None, :].repeat(shape[0], 0) < shape[1] // 2

    (plain,), (other,) = (refined_fill(restorer, [window], 32, TRUST, hiding=hiding) for hiding in (None, half))
    assert abs(plain - other)[window.mask].max() > 1e-3
    np.testing.assert_allclose(other[~window.mask], window.image[~window.mask], atol=1e-5)


# --- texture


GRAIN = (0.5 + np.random.default_rng(0).normal(0, 0.05, (64, 128, 3))).astype(np.float32)
HOLE = box_mask(64, 128, (16, 16, 48, 48))
ORIGINS = np.arange(HOLE.size).reshape(HOLE.shape) + np.where(HOLE, 56, 0)  # columns to the right, where all is known
DEPTH = cv2.distanceTransform(HOLE.astype(np.uint8), cv2.DIST_C, 3)
FLAT = np.where(HOLE[..., None], np.float32(0.3), GRAIN)  # and of another colour


def test_near_the_rim_nothing_is_added() -> None:
    picture = completed(FLAT, ORIGINS, HOLE, ~HOLE, DEPTH)
    rim = HOLE & (DEPTH <= RIM)
    np.testing.assert_allclose(picture[rim], completed(FLAT, None, HOLE, ~HOLE, DEPTH)[rim], atol=1e-6)
    np.testing.assert_array_equal(picture[~HOLE], FLAT[~HOLE])


def test_further_in_colours_are_the_fills_and_texture_is_drawn() -> None:
    picture, drawn = completed(FLAT, ORIGINS, HOLE, ~HOLE, DEPTH), drawn_from(FLAT, ORIGINS)
    deep = DEPTH > 12
    assert abs(picture[deep].mean() - 0.3) < 0.01
    assert 0.8 * 0.05 < picture[deep].std() < 1.2 * 0.05
    together = np.corrcoef(picture[deep].ravel(), drawn[deep].ravel())[0, 1]
    assert together > 0.95
    between = (DEPTH > RIM) & (DEPTH < RIM + RAMP)
    assert picture[between].std() < picture[deep].std()


def _fine(picture: np.ndarray) -> np.ndarray:
    return picture - cv2.GaussianBlur(picture, (0, 0), 1.5)


@pytest.mark.parametrize(("strength", "share"), [(4.0, LEAST), (1.25, 0.8), (1.0, 1.0), (0.1, 1.0)])
def test_what_is_too_much_is_weakened_and_alone_nothing_becomes_more(strength: float, share: float) -> None:
    fill = np.where(HOLE[..., None], 0.5 + strength * (GRAIN - 0.5), GRAIN).astype(np.float32)
    picture = completed(fill, None, HOLE, ~HOLE, DEPTH)
    np.testing.assert_array_equal(picture[~HOLE], fill[~HOLE])
    inside = cv2.erode(HOLE.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0  # what is around does not reach here
    brightness = [_fine(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY))[inside].std() for x in (picture, fill)]  # not colour
    assert brightness[0] / brightness[1] == pytest.approx(share, rel=0.06)


def test_only_what_is_missing_is_added() -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, GRAIN.shape).astype(np.float32)
    deep = DEPTH > 8
    added = []
    for strength in (0.2, 0.7, 1.2):
        fill = np.where(HOLE[..., None], 0.5 + strength * noise, GRAIN).astype(np.float32)
        picture = completed(fill, ORIGINS, HOLE, ~HOLE, DEPTH)
        added.append(abs(picture - completed(fill, None, HOLE, ~HOLE, DEPTH))[deep].mean())
        assert _fine(picture)[deep].std() == pytest.approx(_fine(GRAIN)[~HOLE].std(), rel=0.25)
    assert added[0] > 1.2 * added[1] > 2 * added[2]


def test_no_more_than_so_much_is_added_of_a_weak_texture() -> None:
    fill = FLAT.copy()
    fill[8:56, 64:110] = 0.5 + 0.1 * (
        GRAIN[8:56, 64:110] - 0.5
    )  # where it is drawn from; the rim tells of a strong one
    picture, drawn = completed(fill, ORIGINS, HOLE, ~HOLE, DEPTH), drawn_from(fill, ORIGINS)
    deep = DEPTH > 10
    assert picture[deep].std() == pytest.approx(MOST * drawn[deep].std(), rel=0.1)


def test_texture_is_as_strong_as_what_is_near() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (64, 128, 1)).astype(np.float32) * np.ones(3, np.float32)
    photo = 0.5 + noise * np.where(np.arange(128) < 64, 0.05, 1.0)[None, :, None].astype(np.float32)  # a sky, a hedge
    hole = box_mask(64, 128, (16, 16, 48, 112))
    hedges = np.where(hole[..., None], 0.5 + 0.8 * noise[:, ::-1], photo).astype(np.float32)
    sky, hedge = np.s_[20:44, 20:40], np.s_[20:44, 90:108]
    coarse = cv2.GaussianBlur(photo, (0, 0), 1.5)  # as a refiner draws it: all but the texture
    flat = np.where(hole[..., None], coarse, photo)
    row, column = np.indices(hole.shape)
    below = (49 + row % 14) * 128 + 66 + column % 60  # all is drawn from the hedge below the hole
    origins = np.where(hole, below, np.arange(hole.size).reshape(hole.shape))
    picture, drawn = completed(flat, origins, hole, ~hole, np.float32(99) * hole), drawn_from(flat, origins)
    assert picture[sky].std() < 0.3 * drawn[sky].std()
    assert picture[hedge].std() > drawn[hedge].std()
    assert completed(hedges, None, hole, ~hole, np.float32(99) * hole)[sky].std() < 0.6 * hedges[sky].std()


def test_without_known_surroundings_texture_stays() -> None:
    assert completed(FLAT, ORIGINS, HOLE, np.zeros_like(HOLE), DEPTH) is FLAT


def test_a_refiner_for_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        Inpainter(random_model(decoder_embed_dim=32), refiner=Refiner(CONFIG))


# --- several fills and a confidence map


def test_samples_differ_in_the_hole_only_and_the_first_is_the_ordinary_fill(refining: Inpainter) -> None:
    photo = photo_of(70, 90)
    fills = refining.samples(photo, MASK, 3, seed=5)
    assert len(fills) == 3
    for fill in fills:
        np.testing.assert_array_equal(fill[~MASK], photo[~MASK])
    np.testing.assert_array_equal(fills[0], refining.inpaint(photo, MASK, seed=5))
    assert (fills[0] != fills[1]).any()
    assert (fills[1] != fills[2]).any()
    again = refining.samples(photo, MASK, 3, seed=5)
    for first, second in zip(fills, again, strict=True):
        np.testing.assert_array_equal(first, second)


def test_of_many_samples_of_a_large_photo_one_is_held_at_a_time(inpainter: Inpainter) -> None:
    photo, hole = Photo(np.zeros((2000, 2000, 3), np.uint8)), box_mask(2000, 2000, (5, 5, 8, 8))
    tracemalloc.start()
    try:
        for filled in inpainter.fill_samples(photo, hole, 12)[0]:
            assert filled.size == photo.size
        assert tracemalloc.get_traced_memory()[1] < 5 * photo.samples.nbytes
    finally:
        tracemalloc.stop()


def test_samples_of_an_empty_mask_are_copies(inpainter: Inpainter) -> None:
    photo = photo_of(20, 20)
    fills = inpainter.samples(photo, np.zeros((20, 20), bool), 2)
    assert len(fills) == 2
    for fill in fills:
        np.testing.assert_array_equal(fill, photo)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_a_number_of_samples_that_cannot_be(n: Any, inpainter: Inpainter) -> None:
    with pytest.raises(InputError):
        inpainter.samples(photo_of(20, 20), box_mask(20, 20, (5, 5, 9, 9)), n)


def test_confidence_is_one_where_known_and_falls_with_the_distance(inpainter: Inpainter) -> None:
    photo, mask = photo_of(96, 96), box_mask(96, 96, (24, 24, 72, 72))
    sure = inpainter.confidence(photo, mask)
    assert sure.shape == (96, 96)
    assert sure.dtype == np.float32
    assert (sure[~mask] == 1).all()
    assert (sure[mask] > 0).all()
    assert (sure[mask] < 1).all()
    assert sure[44:52, 44:52].mean() < sure[24:26, 24:72].mean()
    np.testing.assert_array_equal(sure, inpainter.confidence(photo, mask))


def test_confidence_does_not_see_what_the_hole_hides(inpainter: Inpainter) -> None:
    photo, mask = photo_of(48, 64), box_mask(48, 64, (10, 20, 30, 50))
    sure = inpainter.confidence(photo, mask)
    photo[mask] = 255 - photo[mask]
    np.testing.assert_array_equal(inpainter.confidence(photo, mask), sure)


@pytest.mark.parametrize("draws", [1, 0, 2.5])
def test_draws_that_cannot_be(draws: Any, inpainter: Inpainter) -> None:
    with pytest.raises(InputError):
        inpainter.confidence(photo_of(20, 20), box_mask(20, 20, (5, 5, 9, 9)), draws=draws)


def test_confidence_of_an_empty_mask_is_one(inpainter: Inpainter) -> None:
    assert (inpainter.confidence(photo_of(20, 30), np.zeros((20, 30), bool)) == np.ones((20, 30))).all()
