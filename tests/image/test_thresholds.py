"""Where one reading of a layer with transparent pixels ends and another begins."""

from __future__ import annotations

import numpy as np
import pytest

from maerestore.image import Photo, erased_hole, mask_of

SIDE = 100  # of the layers: 5100 of their pixels are opaque, the others are not


def layer_of(colors: np.ndarray, opaque_rows: int = 51) -> Photo:
    """Colours (SIDE, SIDE, 3), opaque in the first rows."""
    alpha = np.zeros((SIDE, SIDE, 1), np.uint8)
    alpha[:opaque_rows] = 255
    return Photo(np.concatenate([colors, alpha], -1), "RGBA")


def shuffled(colors: list[tuple[int, int, int]], counts: list[int]) -> np.ndarray:
    """(SIDE, SIDE, 3) whose first pixels have each colour so many times; they fill the opaque rows."""
    pixels = np.zeros((SIDE * SIDE, 3), np.uint8)
    pixels[: sum(counts)] = np.repeat(np.array(colors, np.uint8), counts, axis=0)
    assert sum(counts) == 51 * SIDE
    return pixels.reshape(SIDE, SIDE, 3)


# Colours of several of the 32 levels that are told apart: a few, and as many others as wanted.
FEW = [(250, 20 * i, 40) for i in range(12)]
OTHERS = [(8 * r, 8 * g, 200) for r in range(30) for g in range(30)]


@pytest.mark.parametrize(("number", "drawn"), [(1, True), (8, True), (9, False)])
def test_up_to_eight_colours_are_a_drawing(number: int, drawn: bool) -> None:
    counts = [5100 // number] * number
    counts[0] += 5100 - sum(counts)
    layer = layer_of(shuffled(FEW[:number], counts))
    opaque = layer.samples[..., 3] == 255
    np.testing.assert_array_equal(mask_of(layer), opaque if drawn else ~opaque)


@pytest.mark.parametrize(("others", "drawn"), [(240, True), (270, False)])
def test_so_are_they_with_up_to_a_twentieth_of_others(others: int, drawn: bool) -> None:
    counts = [(5100 - others) // 8] * 8
    counts[0] += 5100 - others - sum(counts)
    layer = layer_of(shuffled(FEW[:8] + OTHERS[:others], counts + [1] * others))
    opaque = layer.samples[..., 3] == 255
    np.testing.assert_array_equal(mask_of(layer), opaque if drawn else ~opaque)


@pytest.mark.parametrize(("blue", "light_alone"), [(184, True), (176, False)])
def test_strokes_with_a_slight_tint_count_as_gray(blue: int, light_alone: bool) -> None:
    colors = np.zeros((SIDE, SIDE, 3), np.uint8)
    colors[:20] = (200, 200, blue)  # 2 of 32 levels away from gray, or 3
    layer = layer_of(colors)
    light = np.zeros((SIDE, SIDE), bool)
    light[: 20 if light_alone else 51] = True
    np.testing.assert_array_equal(mask_of(layer), light)


PAGE = np.full((SIDE, SIDE, 3), 60, np.uint8)
PAGE[::6, 4:70] = 20


def read_as_copy(layer: Photo, opaque_rows: int = 51) -> bool:
    """Whether a layer is taken for the page with a part erased, and not for a drawing on a transparent layer."""
    found = mask_of(layer, Photo(PAGE, "RGB"))
    opaque = np.zeros((SIDE, SIDE), bool)
    opaque[:opaque_rows] = True
    assert (found == opaque).all() or (found == ~opaque).all()
    return bool((found == ~opaque).all())


@pytest.mark.parametrize(("rows", "copy"), [(49, False), (50, False), (51, True)])
def test_a_copy_shows_more_than_half_of_the_photo(rows: int, copy: bool) -> None:
    assert read_as_copy(layer_of(PAGE, rows), rows) == copy


@pytest.mark.parametrize(("levels", "copy"), [(3, True), (4, False)])
def test_an_editor_may_change_a_copy_a_little_everywhere(levels: int, copy: bool) -> None:
    assert read_as_copy(layer_of(PAGE + np.uint8(levels))) == copy


@pytest.mark.parametrize(("pixels", "copy"), [(20, True), (30, False)])
def test_and_more_at_one_pixel_in_two_hundred(pixels: int, copy: bool) -> None:
    colors = PAGE.copy()
    colors[1, :pixels] += 30
    assert read_as_copy(layer_of(colors)) == copy


@pytest.mark.parametrize(("levels", "copy"), [(63, True), (66, False)])
def test_what_differs_by_a_quarter_is_a_stroke_however_small(levels: int, copy: bool) -> None:
    colors = PAGE.copy()
    colors[1, 1] += np.uint8(levels)
    assert read_as_copy(layer_of(colors)) == copy


# --- soft edges


def edge_grows(*stretches: tuple[int, float, float]) -> bool:
    """Whether a hole grows over what follows it to the right: stretches of so many pixels from one alpha to another."""
    row = np.concatenate([np.zeros(20), *(np.linspace(start, end, n) for n, start, end in stretches), np.ones(400)])
    alpha = np.rint(65535 * np.tile(row, (30, 1))).astype(np.uint16)
    found = erased_hole(Photo(np.dstack([np.full_like(alpha, 9000), alpha]), "LA", 16))
    ramp = (alpha >= 32768) & (alpha < 65535)
    assert found[alpha < 32768].all()
    assert not found[alpha == 65535].any()
    assert found[ramp].all() or not found[ramp].any()
    return bool(found[ramp].all())


@pytest.mark.parametrize(("width", "grows"), [(4, True), (60, True), (68, False)])
def test_a_ramp_is_64_pixels_wide_at_most(width: int, grows: bool) -> None:
    assert edge_grows((width, 0.5, 0.985)) == grows


@pytest.mark.parametrize(("tail", "grows"), [(80, True), (100, False)])
def test_its_tail_ends_128_pixels_from_the_hole(tail: int, grows: bool) -> None:
    assert edge_grows((40, 0.5, 0.985), (tail, 0.992, 0.998)) == grows


@pytest.mark.parametrize(("start", "grows"), [(0.5, True), (0.55, True), (0.6, False), (0.7, False)])
def test_a_ramp_rises_about_as_much_as_a_straight_one(start: float, grows: bool) -> None:
    assert edge_grows((30, start, 0.985)) == grows


@pytest.mark.parametrize(("width", "grows"), [(2, True), (5, False)])
def test_of_a_thin_outline_no_rise_is_asked(width: int, grows: bool) -> None:
    assert edge_grows((width, 0.7, 0.7)) == grows
