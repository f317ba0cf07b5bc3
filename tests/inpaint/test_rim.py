"""The second look at the rim of a large hole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.coarse import Window
from maerestore.inpaint.refine import SMALLER, refined_fill
from maerestore.inpaint.rim import FADE, RIM, STEP, TILE, part_of, refined_rim, tiles
from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer

from .conftest import box_mask, random_model
from .conftest import textured as photo_of

CONFIG = RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1, 2))
SIZE = (200, 260)


def restorer(spread: float = 0.05) -> Restorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        refiner = Refiner(CONFIG)
        with torch.no_grad():
            for parameter in refiner.parameters():
                parameter += spread * torch.randn_like(parameter)
    return Restorer(random_model(), refiner).eval()


def window_of(box: tuple[int, int, int, int] = (30, 40, 170, 200)) -> Window:
    image = photo_of(*SIZE).astype(np.float32) / 255
    return Window((0, 0, *SIZE), image, box_mask(*SIZE, box))


def fill_of(window: Window) -> np.ndarray:
    """Another picture in the hole."""
    return np.where(window.mask[..., None], 1 - window.image, window.image).astype(np.float32)


TOKENS = torch.randn(1, 16, 5, 7, generator=torch.Generator().manual_seed(0))


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


def test_an_untrained_refiner_gives_back_the_fill() -> None:
    window = window_of()
    picture = fill_of(window)
    drawn = refined_rim(restorer(0), window, picture, TOKENS)
    np.testing.assert_allclose(drawn, picture, atol=1e-5)


@pytest.mark.parametrize("sharp", [True, False])
def test_the_rim_alone_is_drawn_again(sharp: bool) -> None:
    window = window_of()
    picture = fill_of(window)
    drawn = refined_rim(restorer(), window, picture, TOKENS, sharp=sharp)
    distance = cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5)
    changed = abs(drawn - picture).max(2)
    assert (changed[window.mask & (distance <= RIM)] > 1e-4).mean() > 0.9
    assert not changed[distance >= FADE].any()
    assert not changed[~window.mask].any()
    assert 0 <= drawn.min() <= drawn.max() <= 1
    other = refined_rim(restorer(), window, picture, TOKENS, sharp=not sharp)
    assert abs(other - drawn).max() > 1e-3


def test_tiles_leave_no_seams() -> None:
    """Where the refiner adds the same everywhere, the sum of overlapping tiles does too."""
    window, tinted = window_of(), restorer(0)
    with torch.no_grad():
        tinted.refiner.head.bias.fill_(0.1)
    picture = np.full((*SIZE, 3), 0.5, np.float32)
    change = (refined_rim(tinted, window, picture, TOKENS) - picture)[window.mask]
    distance = cv2.distanceTransform(window.mask.astype(np.uint8), cv2.DIST_L2, 5)[window.mask]
    outer = change[distance <= RIM]
    assert outer.min() > 0.01
    np.testing.assert_allclose(outer, np.broadcast_to(outer[:1], outer.shape), atol=1e-5)
    assert (change[(distance > RIM + 1) & (distance < FADE - 1)] < outer[0]).all()


def test_tokens_of_a_part_lie_where_those_of_the_whole_do() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    places = torch.stack([rows, columns])[None] * 32 + 16  # each token says where its middle is
    part = part_of(places, (64, 96, 192, 224), (192, 256))
    assert part.shape == (1, 2, 8, 8)
    expected = torch.arange(8.0) * 16 + 8
    torch.testing.assert_close(part[0, 0, :6, 0], 64 + expected[:6])
    torch.testing.assert_close(part[0, 1, 0], 96 + expected)
    assert float(part[0, 0, 7, 0]) == 176  # beyond the last token's middle there is none but that
    whole = part_of(places, (0, 0, 96, 128), (96, 128))
    torch.testing.assert_close(whole, places)


@pytest.mark.parametrize(("limit", "again"), [(64, True), (160, True), (210, False), (640, False)])
def test_a_window_that_was_made_much_smaller_gets_it(limit: int, again: bool) -> None:
    network, window = restorer(), window_of()
    sizes: list[tuple[int, ...]] = []
    handle = network.refiner.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    (picture,) = refined_fill(network, [window], 32, BlendCurve((0.0,), (1.0,)), limit=limit)
    handle.remove()
    assert (SIZE[0] * SIZE[1] / (sizes[0][0] * sizes[0][1]) > SMALLER**2) == again
    assert (len(sizes) > 1) == again
    assert all(size == (TILE, TILE) for size in sizes[1:])
    assert picture.shape == (*SIZE, 3)
