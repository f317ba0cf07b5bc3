"""Masks are read as people mean them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw

from maerestore.image import InputError, Photo, mask_is_empty, mask_is_full, mask_of, read_mask

SIZE = (20, 16)
HOLE = np.zeros((16, 20), dtype=bool)
HOLE[4:9, 3:12] = True


def gray(hole: int = 255, rest: int = 0) -> np.ndarray:
    return np.where(HOLE, hole, rest).astype(np.uint8)


def save_and_read(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path)
    return read_mask(path, image.size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".jpg", ".gif"])
def test_white_on_black_in_every_mode(mode: str, suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(gray()).convert(mode)
    try:
        image.save(tmp_path / f"mask{suffix}", quality=60)
    except (OSError, ValueError):
        pytest.skip(f"Pillow does not write {mode} as {suffix}")
    mask = read_mask(tmp_path / f"mask{suffix}", SIZE)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, HOLE)
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask{suffix}", SIZE, white="keep"), ~HOLE)


def test_the_threshold_is_128(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    mask = save_and_read(Image.fromarray(levels), tmp_path / "l.png")
    assert mask[0].tolist() == [level >= 128 for level in range(256)]
    rgb = save_and_read(Image.fromarray(np.stack([levels] * 3, axis=-1)), tmp_path / "rgb.png")
    assert rgb.tolist() == mask.tolist()
    palette = Image.fromarray(levels).convert("P")
    palette.putpalette([value for level in range(256) for value in (level, level, level)])
    assert save_and_read(palette, tmp_path / "p.png").tolist() == mask.tolist()


def test_16_bit_gray_is_cut_at_half_its_range(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 32767, 32768, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), levels)
    assert read_mask(tmp_path / "deep.png", (5, 1)).tolist() == [[False, False, False, True, True]]
    rgb = np.stack([levels] * 3, axis=-1)
    cv2.imwrite(str(tmp_path / "deep.png"), rgb)
    assert read_mask(tmp_path / "deep.png", (5, 1)).tolist() == [[False, False, False, True, True]]


def test_palettes_go_by_colour_and_not_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(HOLE.astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(save_and_read(image, tmp_path / "mask.png"), ~HOLE)


@pytest.mark.parametrize("color", [(255, 255, 255), (255, 0, 0), (0, 0, 0), (128, 128, 128)])
@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
def test_strokes_on_a_transparent_layer(
    color: tuple[int, int, int], background: tuple[int, int, int], tmp_path: Path
) -> None:
    layer = Image.new("RGBA", SIZE, (*background, 0))
    layer.paste((*color, 255), (3, 4, 12, 9))
    np.testing.assert_array_equal(save_and_read(layer, tmp_path / "layer.png"), HOLE)
    np.testing.assert_array_equal(save_and_read(layer, tmp_path / "layer.png", white="keep"), ~HOLE)


def test_soft_strokes_are_cut_at_half_opacity(tmp_path: Path) -> None:
    opacity = np.linspace(0, 255, 20).astype(np.uint8)[None].repeat(16, axis=0)
    layer = np.full((16, 20, 4), 255, dtype=np.uint8)
    layer[..., 3] = opacity
    np.testing.assert_array_equal(save_and_read(Image.fromarray(layer), tmp_path / "soft.png"), opacity >= 128)


def test_strokes_of_several_colours(tmp_path: Path) -> None:
    layer = Image.new("RGBA", SIZE)
    layer.paste((255, 0, 0, 255), (3, 4, 8, 9))
    layer.paste((0, 200, 255, 255), (8, 4, 12, 9))
    np.testing.assert_array_equal(save_and_read(layer, tmp_path / "layer.png"), HOLE)


def test_white_and_black_strokes_on_a_transparent_layer(tmp_path: Path) -> None:
    layer = Image.new("RGBA", SIZE)
    layer.paste((0, 0, 0, 255), (0, 0, 20, 12))
    layer.paste((255, 255, 255, 255), (3, 4, 12, 9))
    np.testing.assert_array_equal(save_and_read(layer, tmp_path / "layer.png"), HOLE)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_photo_with_a_region_erased(mode: str, suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 4), dtype=np.uint8)
    noise[..., 3] = np.where(HOLE, 0, 255)
    image = Image.fromarray(noise).convert(mode)
    if (mode, suffix) == ("LA", ".webp"):
        image = image.convert("RGBA")
    image.save(tmp_path / f"erased{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_mask(tmp_path / f"erased{suffix}", SIZE), HOLE)


def few_colored(kind: str) -> np.ndarray:
    """(64, 80, 3) uint8, in which few colours make up nearly all."""
    rng = np.random.default_rng(0)
    picture = np.zeros((64, 80, 3), dtype=np.uint8)
    if kind == "night":
        picture[rng.random((64, 80)) < 0.02] = 250
    elif kind == "fog":
        picture[:] = 190 + rng.integers(0, 3, (64, 80, 1))
    elif kind == "page":
        picture[:] = 255
        picture[::6, 4:70] = 20
    return picture


@pytest.mark.parametrize("kind", ["night", "fog", "page"])
@pytest.mark.parametrize("editor", [0, 2])
def test_a_copy_of_a_photo_of_few_colours_is_not_taken_for_a_drawing(kind: str, editor: int, tmp_path: Path) -> None:
    picture = few_colored(kind)
    hole = np.zeros((64, 80), dtype=bool)
    hole[20:40, 30:60] = True
    copy = np.where(picture < 128, picture + editor, picture - editor).astype(np.uint8)
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([copy, alpha])).save(tmp_path / "cut.png")
    found = read_mask(tmp_path / "cut.png", (80, 64), photo=Photo(picture, "RGB"))
    np.testing.assert_array_equal(found, hole)
    other = Photo(255 - picture, "RGB")
    assert not np.array_equal(read_mask(tmp_path / "cut.png", (80, 64), photo=other), hole)


def test_a_small_stroke_beside_a_transparent_strip_is_still_the_hole(tmp_path: Path) -> None:
    layer = np.zeros((64, 80, 4), dtype=np.uint8)
    layer[..., 3] = 255
    layer[:, 70:, 3] = 0
    layer[30:33, 30:33, :3] = 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    black = Photo(np.zeros((64, 80, 3), dtype=np.uint8), "RGB")
    found = read_mask(tmp_path / "layer.png", (80, 64), photo=black)
    np.testing.assert_array_equal(found, layer[..., 0] == 255)


def test_white_paint_over_most_of_a_white_page_is_paint(tmp_path: Path) -> None:
    layer = np.full((64, 80, 4), 255, dtype=np.uint8)
    layer[:, 50:, 3] = 0
    Image.fromarray(layer).save(tmp_path / "layer.png")
    page = Photo(few_colored("page"), "RGB")
    np.testing.assert_array_equal(read_mask(tmp_path / "layer.png", (80, 64), photo=page), layer[..., 3] > 0)


def test_strokes_in_the_colour_of_the_photo_are_still_strokes(tmp_path: Path) -> None:
    layer = Image.new("RGBA", SIZE)
    layer.paste((0, 0, 0, 255), (3, 4, 12, 9))
    layer.save(tmp_path / "layer.png")
    black = Photo(np.zeros((16, 20, 3), dtype=np.uint8), "RGB")
    np.testing.assert_array_equal(read_mask(tmp_path / "layer.png", SIZE, photo=black), HOLE)


def test_an_antialiased_drawing_is_still_a_drawing(tmp_path: Path) -> None:
    large = Image.new("RGBA", (800, 640), (255, 255, 255, 0))
    ImageDraw.Draw(large).ellipse((200, 160, 600, 480), fill=(255, 40, 40, 255))
    layer = large.resize((200, 160), Image.Resampling.BICUBIC)
    mask = save_and_read(layer, tmp_path / "layer.png")
    assert mask[80, 100]
    assert not mask[0, 0]
    assert mask.mean() == pytest.approx(np.pi / 4 * 100 * 80 / (200 * 160), rel=0.03)


def test_an_empty_layer_is_an_empty_mask(tmp_path: Path) -> None:
    mask = save_and_read(Image.new("RGBA", SIZE, (255, 255, 255, 0)), tmp_path / "layer.png")
    assert mask_is_empty(mask)


@pytest.mark.parametrize("color", [(255, 0, 0), (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize(("alpha", "share"), [(127, "50 %"), (51, "20 %")])
def test_faint_paint_on_a_transparent_layer_is_refused(
    color: tuple[int, int, int], alpha: int, share: str, tmp_path: Path
) -> None:
    layer = Image.new("RGBA", SIZE)
    layer.paste((*color, alpha), (3, 4, 12, 9))
    for white in ("hole", "keep"):
        with pytest.raises(InputError, match=rf"layer.png': .*the paint is at most {share} opaque"):
            save_and_read(layer, tmp_path / "layer.png", white=white)
    with pytest.raises(InputError, match=f"at most {share} opaque"):
        mask_of(Photo(np.array(layer), "RGBA"))
    layer.putpixel((0, 0), (*color, 128))
    assert save_and_read(layer, tmp_path / "layer.png").sum() == 1


@pytest.mark.parametrize(("pixels", "brightest"), [
    (gray(1), "1 of 255"),
    (np.stack([gray(), gray(0), gray(0)], -1), "76 of 255"),  # red on black
    (np.dstack([gray(90), gray(255, 255)]), "90 of 255"),
    (gray().astype(np.uint16), "255 of 65535"),
])  # fmt: skip
def test_a_mask_that_is_nowhere_white_says_how_bright_it_is(pixels: np.ndarray, brightest: str, tmp_path: Path) -> None:
    for white, aim in (("hole", "filled"), ("keep", "kept")):
        with pytest.raises(InputError, match=rf"the brightest pixel of the mask is {brightest}, .* to be {aim}"):
            save_and_read(Image.fromarray(pixels), tmp_path / "mask.png", white=white)


def test_nearly_opaque_alpha_counts_as_opaque(tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([gray(), np.full((16, 20), 200, dtype=np.uint8)]))
    np.testing.assert_array_equal(save_and_read(image, tmp_path / "la.png"), HOLE)


def test_another_size_names_both_and_the_way_out(tmp_path: Path) -> None:
    Image.fromarray(gray()).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask '.*mask.png' is 20x16 but the photo is 40x30.*--resize-mask"):
        read_mask(tmp_path / "mask.png", (40, 30))


@settings(max_examples=30, deadline=None)
@given(mask=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)), factor=st.integers(1, 4))
def test_resizing_by_a_whole_factor_repeats_pixels(
    mask: np.ndarray, factor: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    Image.fromarray(mask).save(path)
    size = (mask.shape[1] * factor, mask.shape[0] * factor)
    result = read_mask(path, size, resize=True)
    np.testing.assert_array_equal(result, mask.repeat(factor, axis=0).repeat(factor, axis=1))
    large = Image.fromarray(result)
    large.save(path)
    np.testing.assert_array_equal(read_mask(path, mask.shape[::-1], resize=True), mask)


@pytest.mark.parametrize(("size", "warned"), [((40, 32), False), ((43, 33), False), ((32, 40), True)])
def test_a_mask_that_is_stretched_is_pointed_out(size: tuple[int, int], warned: bool, tmp_path: Path) -> None:
    Image.fromarray(gray()).save(tmp_path / "mask.png")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert read_mask(tmp_path / "mask.png", size, resize=True).shape == size[::-1]
    assert [str(one.message).count("of another shape") for one in told] == [1] * warned


@settings(max_examples=30, deadline=None)
@given(samples=arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_gray_masks_are_a_threshold(samples: np.ndarray) -> None:
    np.testing.assert_array_equal(mask_of(Photo(samples.copy(), "L")), samples >= 128)


def test_polarity_has_two_values(tmp_path: Path) -> None:
    Image.fromarray(gray()).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="'hole' or 'keep'"):
        read_mask(tmp_path / "mask.png", SIZE, white="black")  # type: ignore[arg-type]


def test_predicates() -> None:
    assert mask_is_empty(~HOLE & HOLE)
    assert mask_is_full(HOLE | ~HOLE)
    assert not mask_is_empty(HOLE)
    assert not mask_is_full(HOLE)


def test_any_size_when_none_is_asked_for(tmp_path: Path) -> None:
    Image.fromarray(gray()).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", None), HOLE)


@pytest.mark.parametrize("white", ["hole", "keep"])
def test_paint_that_is_too_faint_is_not_said_to_fill(white: Literal["hole", "keep"], tmp_path: Path) -> None:
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[1:3, 1:3] = (255, 0, 0, 100)
    Image.fromarray(layer).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"nothing of the mask counts as painted: .* at most 39 % opaque"):
        read_mask(tmp_path / "mask.png", (4, 4), white=white)
