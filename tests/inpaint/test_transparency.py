"""Photos with transparent pixels: what was erased is visible once filled, and what is not visible is not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.image import Photo
from maerestore.inpaint.opacity import raised_opacities, stays_transparent
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.regions import distance_to_known, find_regions
from maerestore.inpaint.visible import VisiblePhoto, unknown_pixels

from .conftest import box_mask, random_model, textured
from .test_refine import TRUST, random_refiner

HEIGHT, WIDTH = 70, 90
HOLE = box_mask(HEIGHT, WIDTH, (20, 30, 48, 60))


def layer(alpha: np.ndarray | int = 255, seed: int = 0) -> np.ndarray:
    """(H, W, 4) uint8."""
    image = np.concatenate([textured(HEIGHT, WIDTH, seed), np.zeros((HEIGHT, WIDTH, 1), np.uint8)], axis=2)
    image[..., 3] = alpha
    return image


def cut(hole: np.ndarray = HOLE) -> np.ndarray:
    """A photo in which the hole was erased: black and transparent."""
    image = layer()
    image[hole] = 0
    return image


def rgba(image: np.ndarray, **attributes: Any) -> Photo:
    return Photo(image.copy(), "RGBA", **attributes)


def alpha_after(inpainter: Inpainter, image: np.ndarray, mask: np.ndarray, **options: Any) -> np.ndarray:
    """The alpha (H, W) of a fill, after a look at what must hold of every fill."""
    filled = inpainter.inpaint(image, mask, sharp=False, **options)
    if not options:
        np.testing.assert_array_equal(filled[~mask], image[~mask])
    return np.asarray(filled[..., 3])


# --- opacity


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "gray", "tensor", "RGBA", "LA", "P"])
def test_an_erased_hole_is_visible_once_filled(kind: str, inpainter: Inpainter) -> None:
    image: Any = cut()
    if kind == "uint16":
        image = image.astype(np.uint16) * 257
    elif kind.startswith("float"):
        image = (image / 255).astype(kind)
    elif kind == "gray":
        image = image[..., 2:]
    elif kind == "tensor":
        image = torch.from_numpy(image / 255).permute(2, 0, 1)
    elif kind in ("RGBA", "LA"):
        image = Image.fromarray(image).convert(kind)
    elif kind == "P":
        image = Image.fromarray(image[..., :3]).quantize(40)
        indices = np.where(HOLE, 40, np.asarray(image)).astype(np.uint8)
        palette = [*image.getpalette()[:120], 0, 0, 0]
        image = Image.fromarray(indices)
        image.putpalette(palette, "RGB")
        image.info["transparency"] = 40
    filled = inpainter.inpaint(image, HOLE)
    if isinstance(filled, Image.Image):
        assert filled.mode == kind
        image, filled = (np.asarray(picture.convert("RGBA")) for picture in (image, filled))
    elif kind == "tensor":
        image, filled = (np.asarray(tensor.permute(1, 2, 0)) for tensor in (image, filled))
    np.testing.assert_array_equal(filled[~HOLE], image[~HOLE])
    top = np.iinfo(filled.dtype).max if filled.dtype.kind == "u" else 1
    assert (filled[HOLE][:, -1] == top).all()
    assert filled[HOLE][:, 0].mean() > 0.1 * top


def test_a_colour_that_stands_for_transparency_is_painted_over(inpainter: Inpainter) -> None:
    samples = cut()[..., :3].copy()
    photo = Photo(samples, color_key=(0, 0, 0))
    filled, _ = inpainter.fill(photo, HOLE, sharp=False)
    alpha = filled.alpha()
    assert alpha is not None
    assert (alpha == 1).all()
    np.testing.assert_array_equal(filled.samples[~HOLE], samples[~HOLE])


def test_premultiplied_colours_follow_the_new_alpha(inpainter: Inpainter) -> None:
    straight, _ = inpainter.fill(rgba(cut()), HOLE, sharp=False)
    premultiplied, _ = inpainter.fill(rgba(cut(), premultiplied=True), HOLE, sharp=False)
    np.testing.assert_array_equal(premultiplied.samples, straight.samples)


@pytest.mark.parametrize("width", [1, 4, 9])
def test_the_soft_edge_of_an_eraser_does_not_make_the_fill_transparent(width: int, inpainter: Inpainter) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    away = np.hypot(y - 34, x - 45)
    alpha = (255 * np.clip((away - 14) / width + 0.5, 0, 1)).astype(np.uint8)
    mask = alpha < 128  # as a mask is read that is cut out of the photo
    after = alpha_after(inpainter, layer(alpha), mask)
    assert (after[mask] == 255).all()
    if width == 1:
        assert (alpha_after(inpainter, layer(alpha), mask, dilate=2) == 255).all()


@pytest.mark.parametrize(("core", "width"), [(14, 3), (8, 16), (2, 24), (-10, 40)])
def test_all_of_a_soft_edge_becomes_opaque(core: int, width: int, inpainter: Inpainter) -> None:
    """Also where most of the hole was erased by less than half."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    alpha = (255 * np.clip((np.hypot(y - 34, x - 45) - core) / width, 0, 1)).astype(np.uint8)
    cut_soft = Image.fromarray(layer(alpha))
    filled = np.asarray(inpainter.inpaint(cut_soft, cut_soft, sharp=False))
    assert (filled[..., 3] == 255).all()
    np.testing.assert_array_equal(filled[alpha == 255], layer(alpha)[alpha == 255])
    assert not stays_transparent(rgba(layer(alpha)), alpha < 255)
    assert stays_transparent(rgba(layer(alpha)), (alpha < 255) & (x < 50))  # half of it: no soft edge, but an outline


@pytest.mark.parametrize("kind", ["glass", "glass with a hole"])
def test_glass_under_a_mask_stays_as_transparent(kind: str, inpainter: Inpainter) -> None:
    alpha = np.where(HOLE, 150, 255)
    if kind == "glass with a hole":
        alpha[32:36, 40:44] = 0
    image = layer(alpha.astype(np.uint8))
    np.testing.assert_array_equal(alpha_after(inpainter, image, HOLE), image[..., 3])


@pytest.mark.parametrize("left", [0, 60])
@pytest.mark.parametrize(("width", "dilate"), [(4, 0), (4, 3), (10, 6)])
def test_a_strip_that_was_erased_is_visible_whatever_its_mask_is_grown_by(
    width: int, dilate: int, left: int, inpainter: Inpainter
) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[20:50, 40 : 40 + width] = left
    assert (alpha_after(inpainter, layer(alpha), alpha < 255, dilate=dilate) == 255).all()


def test_a_fill_is_no_more_opaque_than_its_surroundings(inpainter: Inpainter) -> None:
    shadow = np.broadcast_to(np.linspace(80, 120, WIDTH), (HEIGHT, WIDTH)).astype(np.uint8)
    after = alpha_after(inpainter, layer(np.where(HOLE, 0, shadow)), HOLE)
    assert np.abs(after[HOLE].astype(int) - shadow[HOLE]).max() < 10


def test_a_hole_at_the_border_may_have_been_erased_too(inpainter: Inpainter) -> None:
    corner = box_mask(HEIGHT, WIDTH, (0, 0, 20, 30))
    assert (alpha_after(inpainter, cut(corner), corner) == 255).all()


def cut_out() -> np.ndarray:
    """Alpha of a disc with a soft outline, on nothing."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (255 * np.clip(30.5 - np.hypot(y - 35, x - 45), 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("box", [(30, 60, 45, 90), (0, 30, 20, 60), (20, 30, 48, 60), (0, 0, 30, 30)])
def test_a_cut_out_keeps_its_outline(box: tuple[int, int, int, int], inpainter: Inpainter) -> None:
    image = layer(cut_out())
    np.testing.assert_array_equal(alpha_after(inpainter, image, box_mask(HEIGHT, WIDTH, box)), image[..., 3])


def test_a_hole_erased_inside_a_cut_out_is_filled_within_the_outline(inpainter: Inpainter) -> None:
    small = box_mask(HEIGHT, WIDTH, (28, 38, 44, 54))
    after = alpha_after(inpainter, layer(np.where(small, 0, cut_out())), small)
    np.testing.assert_array_equal(after, cut_out())


@pytest.mark.parametrize("level", [30, 90, 200])
def test_what_is_half_transparent_keeps_its_alpha(level: int, inpainter: Inpainter) -> None:
    smoke = np.random.default_rng(0).integers(0, level, (HEIGHT, WIDTH))
    image = layer(smoke)
    np.testing.assert_array_equal(alpha_after(inpainter, image, HOLE), image[..., 3])


def test_alpha_of_every_value_keeps_each(inpainter: Inpainter) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    holes = np.zeros((HEIGHT, WIDTH), bool)
    for y, x in np.ndindex(6, 8):  # small ones, a few of which have much that is nearly transparent by chance
        holes[11 * y + 2 : 11 * y + 9, 11 * x + 2 : 11 * x + 10] = True
    np.testing.assert_array_equal(alpha_after(inpainter, layer(alpha), holes), alpha)


def test_whether_the_result_is_opaque_is_known_beforehand() -> None:
    half = layer(np.where(HOLE, 0, 255))
    assert not stays_transparent(rgba(layer()), HOLE)
    assert not stays_transparent(rgba(cut()), HOLE)
    assert not stays_transparent(Photo(textured(HEIGHT, WIDTH)), HOLE)
    assert stays_transparent(rgba(half), np.roll(HOLE, 9, 0))
    assert stays_transparent(rgba(layer(np.where(HOLE, 100, 255))), HOLE) is False
    assert stays_transparent(rgba(layer(np.where(HOLE, 150, 255))), HOLE)
    assert stays_transparent(rgba(layer(cut_out())), HOLE)


def test_all_samples_are_visible(inpainter: Inpainter) -> None:
    for filled in inpainter.samples(cut(), HOLE, 2, sharp=False):
        assert (filled[..., 3] == 255).all()


def test_where_nothing_is_erased_no_opacity_is_made() -> None:
    photo = rgba(layer())
    assert raised_opacities(photo, HOLE, find_regions(HOLE)) == [None]
    assert unknown_pixels(photo, HOLE) is HOLE


# --- colours

BACKGROUNDS = {
    "beside": box_mask(HEIGHT, WIDTH, (0, 60, HEIGHT, WIDTH)),
    "around": ~box_mask(HEIGHT, WIDTH, (16, 26, 52, 64)),
    "far": box_mask(HEIGHT, WIDTH, (0, 0, HEIGHT, 12)),
    "all but a corner": ~HOLE & ~box_mask(HEIGHT, WIDTH, (62, 0, HEIGHT, 12)),
    "specks": np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.2,
}


@pytest.fixture(scope="module", params=["smooth", "sharp", "refined"])
def fill(request: pytest.FixtureRequest) -> Any:
    """fill(image, mask) by each of the ways that an image may take."""
    refiner = random_refiner() if request.param == "refined" else None
    inpainter = Inpainter(random_model(), TRUST, refiner=refiner, precision="fp32")
    return lambda image, mask: inpainter.inpaint(image, mask, sharp=request.param != "smooth")


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_colours_under_transparent_pixels_are_not_seen(background: str, fill: Any) -> None:
    clear = BACKGROUNDS[background]
    first = layer(np.where(clear, 0, 255))
    second = first.copy()
    first[clear, :3] = 0
    second[clear, :3] = np.random.default_rng(1).integers(0, 256, (int(clear.sum()), 3))
    one, two = fill(first, HOLE), fill(second, HOLE)
    np.testing.assert_array_equal(one[HOLE], two[HOLE])
    np.testing.assert_array_equal(one[~HOLE], first[~HOLE])
    np.testing.assert_array_equal(two[~HOLE], second[~HOLE])


def test_the_fill_has_the_colours_of_what_is_visible(inpainter: Inpainter) -> None:
    image = np.full((HEIGHT, WIDTH, 4), (40, 150, 60, 255), np.uint8)
    image[:, 61:] = 0
    plain = Inpainter(inpainter.model, precision="fp32")
    plain.curve = type(plain.curve)((0.0,), (0.0,))
    np.testing.assert_array_equal(plain.inpaint(image, HOLE), image)


def test_confidence_does_not_see_them_either(inpainter: Inpainter) -> None:
    clear = BACKGROUNDS["beside"]
    first = layer(np.where(clear, 0, 255))
    second = first.copy()
    second[clear, :3] = 0
    sure = inpainter.confidence(first, HOLE)
    np.testing.assert_array_equal(sure, inpainter.confidence(second, HOLE))
    assert (sure[~HOLE] == 1).all()
    assert (sure[HOLE] < 1).all()


def test_where_nothing_is_visible_colours_are_all_there_is(inpainter: Inpainter) -> None:
    image = layer(0)
    filled = inpainter.inpaint(image, HOLE, sharp=False)
    np.testing.assert_array_equal(filled[..., 3], image[..., 3])
    np.testing.assert_array_equal(filled[..., :3], inpainter.inpaint(image[..., :3].copy(), HOLE, sharp=False))


def test_an_opaque_layer_is_filled_as_a_photo_without_alpha(inpainter: Inpainter) -> None:
    filled = inpainter.inpaint(layer(), HOLE)
    np.testing.assert_array_equal(filled[..., :3], inpainter.inpaint(layer()[..., :3].copy(), HOLE))


@pytest.mark.parametrize("box", [(0, 0, HEIGHT, WIDTH), (0, 70, 9, 75), (3, 5, 40, 80)])
def test_the_visible_photo_shows_visible_colours_only(box: tuple[int, int, int, int]) -> None:
    clear = BACKGROUNDS["beside"]
    image = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    image[clear] = 0
    image[~clear, :3] = (40, 150, 60)
    unknown = unknown_pixels(rgba(image), HOLE)
    np.testing.assert_array_equal(unknown, HOLE | clear)
    seen = VisiblePhoto(rgba(image), HOLE, unknown).rgb(box)
    assert seen.shape == (box[2] - box[0], box[3] - box[1], 3)
    np.testing.assert_allclose(seen, np.broadcast_to(np.float32([40, 150, 60]) / 255, seen.shape), atol=1e-5)


def test_far_from_all_that_is_visible_the_nearest_colours_are_seen() -> None:
    image = np.zeros((203, 1601, 4), np.uint8)
    image[:, :90] = (200, 40, 20, 255)
    image[:, -90:] = (20, 40, 200, 255)
    mask = np.zeros((203, 1601), bool)
    mask[50:60, 300:310] = mask[150:160, 1300:1310] = True
    reads = []

    class Counted(Photo):
        def rgb(self, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
            reads.append(window)
            return super().rgb(window)

    photo = Counted(image, "RGBA")
    seen = VisiblePhoto(photo, mask, unknown_pixels(photo, mask))
    for left, colour in ((280, (200, 40, 20)), (1280, (20, 40, 200))):
        around = seen.rgb((40, left, 170, left + 40))
        np.testing.assert_allclose(around[0, 0], np.float32(colour) / 255, atol=0.1)
    assert sum(window == (0, 0, 203, 1601) for window in reads) == 1  # the whole of it only once


def test_distances_are_to_visible_pixels() -> None:
    (region,) = find_regions(HOLE)
    plain = distance_to_known(region, (HEIGHT, WIDTH))
    right = distance_to_known(region, (HEIGHT, WIDTH), HOLE | BACKGROUNDS["beside"])
    np.testing.assert_array_equal(distance_to_known(region, (HEIGHT, WIDTH), HOLE), plain)
    np.testing.assert_array_equal(right[:, :10], plain[:, :10])
    assert plain[14, -1] == 1
    assert right[14, -1] > 13


def test_far_from_all_that_is_known_nothing_overflows() -> None:
    image = np.full((300, 40, 4), 120, np.uint8)
    image[60:240, :, 3] = 0
    hole = box_mask(300, 40, (140, 10, 160, 30))
    refining = Inpainter(random_model(), TRUST, refiner=random_refiner(), precision="fp32")
    with np.errstate(all="raise"):
        filled = refining.inpaint(image, hole)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
