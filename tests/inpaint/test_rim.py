"""The second look at the rim of a large hole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from maerestore.inpaint import rim
from maerestore.inpaint.arrays import as_canvas
from maerestore.inpaint.model_window import ModelWindow
from maerestore.inpaint.refine import refined_fill
from maerestore.inpaint.rim import FADED, FULL, SMALLER, STEP, TILE, part_of, refined_rim, tent, tiles
from maerestore.inpaint.stages import FillReport, find_scene
from maerestore.inpaint.texture import completed
from maerestore.model.restorer import Restorer

from .conftest import box_mask, random_model
from .conftest import textured as photo_of
from .test_refine import TRUST, random_refiner
from .test_torch_defaults import default_device, default_dtype

SIZE = (200, 260)
TOKENS = torch.randn(1, 16, 5, 7, generator=torch.Generator().manual_seed(0))


def restorer(spread: float = 0.05) -> Restorer:
    return Restorer(random_model(), random_refiner(spread)).eval()


def window_of(box: tuple[int, int, int, int] = (30, 40, 170, 200), size: tuple[int, int] = SIZE) -> ModelWindow:
    image = photo_of(*size).astype(np.float32) / 255
    return ModelWindow((0, 0, *size), image, box_mask(*size, box))


def fill_of(window: ModelWindow) -> np.ndarray:
    """Another picture in the hole."""
    return np.where(window.mask[..., None], 1 - window.image, window.image).astype(np.float32)


def depth(window: ModelWindow) -> np.ndarray:
    return np.asarray(cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5))


@pytest.mark.parametrize("size", [(TILE, TILE), (STEP, 40), (TILE + 1, 3 * STEP), (500, 333)])
def test_every_wanted_pixel_lies_in_a_tile_and_not_at_its_edge(size: tuple[int, int]) -> None:
    boxes = tiles(np.ones(size, bool))
    margin = (TILE - STEP) // 2
    inner = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        assert (bottom - top, right - left) == (min(TILE, size[0]), min(TILE, size[1]))
        rows = slice(top + margin * (top > 0), bottom - margin * (bottom < size[0]))
        inner[rows, left + margin * (left > 0) : right - margin * (right < size[1])] = True
    assert inner.all()
    assert len(set(boxes)) == len(boxes)
    assert not tiles(np.zeros(size, bool))


@pytest.mark.parametrize("size", [(200, 260), (TILE + 1, TILE + 2), (3 * STEP, 100)])
def test_tiles_that_differ_go_over_into_each_other_without_seams(size: tuple[int, int]) -> None:
    drawn, weights = np.zeros(size), np.zeros(size)
    for box in tiles(np.ones(size, bool)):
        value = (sum(box) // 3) % 2  # neighbours differ by 1
        weight = tent(box, size)[..., 0]
        drawn[box[0] : box[2], box[1] : box[3]] += value * weight
        weights[box[0] : box[2], box[1] : box[3]] += weight
    picture = drawn / weights
    assert weights.min() > 0
    for axis in (0, 1):
        assert abs(np.diff(picture, axis=axis)).max() <= 1.5 / (TILE - STEP)


def test_an_untrained_refiner_gives_back_the_fill() -> None:
    window = window_of()
    picture = fill_of(window)
    np.testing.assert_allclose(refined_rim(restorer(0), window, picture, TOKENS), picture, atol=1e-5)


@pytest.mark.parametrize("size", [SIZE, (100, 300), (TILE + 3, TILE)])
@pytest.mark.parametrize("sharp", [True, False])
def test_the_rim_alone_is_drawn_again(sharp: bool, size: tuple[int, int]) -> None:
    window = window_of((20, 40, 85, 110), size)
    picture = fill_of(window)
    before = picture.copy()
    drawn = refined_rim(restorer(), window, picture, TOKENS, sharp=sharp)
    changed, distance = abs(drawn - picture).max(2), depth(window)
    assert (changed[window.mask & (distance <= FULL)] > 1e-4).mean() > 0.9
    assert not changed[distance >= FADED].any()
    assert not changed[~window.mask].any()
    assert 0 <= drawn.min() <= drawn.max() <= 1
    np.testing.assert_array_equal(picture, before)
    assert abs(refined_rim(restorer(), window, picture, TOKENS, sharp=not sharp) - drawn).max() > 1e-3


def test_only_what_the_window_is_looked_at_for_is_drawn_again() -> None:
    window = window_of()
    wanted = window.mask.copy()
    wanted[:, 120:] = False
    picture = fill_of(window)
    whole = refined_rim(restorer(), window, picture, TOKENS)
    part = refined_rim(restorer(), replace(window, wanted=wanted), picture, TOKENS)
    np.testing.assert_array_equal(part[:, 120:], picture[:, 120:])
    np.testing.assert_allclose(part[:, :60], whole[:, :60], atol=1e-5)  # the hole is the same, whatever is wanted of it
    nothing = refined_rim(restorer(), replace(window, wanted=wanted & False), picture, TOKENS)
    np.testing.assert_array_equal(nothing, picture)


def test_tiles_are_told_their_own_tokens_and_at_once_the_same_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, window = restorer(), window_of()
    together = refined_rim(network, window, fill_of(window), TOKENS)
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = network.refiner.register_forward_pre_hook(lambda _, given: told.append((given[0], given[4])))
    monkeypatch.setattr(rim, "AT_ONCE", 1)
    alone = refined_rim(network, window, fill_of(window), TOKENS)
    handle.remove()
    np.testing.assert_allclose(alone, together, atol=1e-4)
    boxes = tiles(window.mask & (depth(window) < FADED))
    assert len(boxes) == len(told) > 2
    for box, (photo, tokens) in zip(boxes, told, strict=True):
        assert torch.equal(tokens, part_of(TOKENS, box, SIZE))
        shown = network.autoencoder.denormalize(photo)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(shown, window.image[box[0] : box[2], box[1] : box[3]], atol=1e-5)


def test_tokens_of_a_part_lie_where_those_of_the_whole_do() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    places = torch.stack([32 * rows + 16, 20 * columns + 10])[None]  # each token says where its middle is
    part = part_of(places, (64, 80, 192, 160), (192, 160))
    assert part.shape == (1, 2, 8, 5)
    torch.testing.assert_close(part[0, 0, :7, 0], 64 + torch.arange(7.0) * 16 + 8)
    assert float(part[0, 0, 7, 0]) == 176  # beyond the last token's middle there is none but that
    torch.testing.assert_close(part[0, 1, 0, :4], 80 + torch.arange(4.0) * 16 + 8)
    rest = part_of(places, (0, 30, 40, 60), (192, 160))  # no multiple of 16: 3 and 2 tokens, evenly spread
    torch.testing.assert_close(rest[0, 1, 0], torch.tensor([37.5, 52.5]))
    torch.testing.assert_close(rest[0, 0, 1:, 0], torch.tensor([20.0, 100 / 3]))
    whole = part_of(places, (0, 0, 96, 128), (96, 128))
    torch.testing.assert_close(whole, places)


@pytest.mark.parametrize(("limit", "again"), [(64, True), (160, True), (210, False), (640, False)])
def test_a_window_that_was_made_much_smaller_gets_it(limit: int, again: bool) -> None:
    network, window = restorer(), window_of()
    sizes: list[tuple[int, ...]] = []
    handle = network.refiner.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    refined_fill(network, [window], 32, TRUST, limit=limit)
    handle.remove()
    assert (SIZE[0] * SIZE[1] / (sizes[0][0] * sizes[0][1]) > SMALLER**2) == again
    assert (len(sizes) > 1) == again
    assert all(size == (TILE, TILE) for size in sizes[1:])


@pytest.mark.parametrize("settings", [{}, {"sharp": False}, {"bf16": True}])
def test_it_is_a_part_of_the_fill_of_each_window(settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    network, windows = restorer(), [window_of(), window_of((60, 20, 150, 190))]
    calls = []

    def note(*arguments: object, **given: bool) -> np.ndarray:
        calls.append((arguments, given))
        return refined_rim(*arguments, **given)  # type: ignore[arg-type]

    monkeypatch.setattr("maerestore.inpaint.refine.refined_rim", note)
    filled = refined_fill(network, windows, 32, TRUST, limit=64, **settings)  # both in one batch
    monkeypatch.setattr("maerestore.inpaint.refine.refined_rim", lambda _, window, picture, *__, **___: picture)
    for window, picture, ((_, asked, before, tokens), given) in zip(windows, filled, calls, strict=True):
        assert asked is window
        assert given == {"bf16": False, "sharp": True} | settings
        alone = refined_fill(network, [window], 32, TRUST, limit=64, **settings)[0]
        np.testing.assert_allclose(before, alone.clip(0, 1), atol=0.02 if "bf16" in settings else 2e-4)
        distance = depth(window)
        assert abs(picture - before)[window.mask & (distance <= FULL)].mean() > 1e-3
        np.testing.assert_array_equal(picture[distance >= FADED], before[distance >= FADED])
        assert tokens.shape[0] == 1
    assert not torch.equal(calls[0][0][3], calls[1][0][3])


@pytest.mark.parametrize("default", [default_dtype, default_device])
def test_it_does_not_depend_on_torchs_defaults(default: Callable[[], AbstractContextManager[None]]) -> None:
    network, window = restorer(), window_of()
    (expected,) = refined_fill(network, [window], 32, TRUST, limit=64)
    with default():
        np.testing.assert_array_equal(refined_fill(network, [window], 32, TRUST, limit=64)[0], expected)


def test_what_is_added_from_known_patches_is_finer_near_the_rim() -> None:
    hole = box_mask(96, 192, (8, 8, 88, 88))
    rng = np.random.default_rng(0)
    coarse = cv2.GaussianBlur(rng.normal(0, 1, hole.shape), (0, 0), 5.0)
    source = (0.5 + 0.1 * coarse / coarse.std() + rng.normal(0, 0.05, hole.shape)).astype(np.float32)[..., None]
    source = source.repeat(3, 2)
    fill = np.where(hole[..., None], np.float32(0.5), source)
    origins = np.arange(hole.size).reshape(hole.shape) + np.where(hole, 92, 0)  # columns to the right, all known

    def added(distance: float) -> np.ndarray:
        picture = completed(fill, origins, hole, ~hole, np.float32(distance) * hole)
        return np.asarray(cv2.GaussianBlur(picture - fill, (0, 0), 2.0)[24:72, 24:72])

    assert added(FADED).std() > 1.5 * added(FULL).std()


def test_windows_are_told_which_holes_they_are_looked_at_for() -> None:
    mask = box_mask(400, 400, (100, 100, 200, 210), (190, 255, 200, 265))  # one large, one small beside it
    scene = find_scene(as_canvas(photo_of(400, 400)), mask, 0, 32, 8, TRUST, FillReport(), None)
    assert scene is not None
    seen: dict[tuple[int, ...], ModelWindow] = {}

    def see(windows: list[ModelWindow]) -> list[np.ndarray]:
        seen.update((window.box, window) for window in windows)
        return [window.image for window in windows]

    list(scene.map_windows(see))
    large = next(window for window in seen.values() if window.mask.sum() > 110 * 100)  # holds both
    assert large.wanted is not None
    assert large.wanted.sum() == 110 * 100
    assert not (large.wanted & ~large.mask).any()
    assert sum(int(window.wanted.sum()) for window in seen.values() if window.wanted is not None) >= mask.sum()
