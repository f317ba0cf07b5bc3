"""Colour conversions, windows, palettes, and what other formats can hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.image import Photo, read_photo, write_photo
from maerestore.image.convert import FORMATS, fit
from maerestore.image.png import pack_bits

from .conftest import LOSSLESS_KINDS, SUFFIX, make_photo

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_rgb_is_what_pillow_converts_to(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (11, 13, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "photo.tif")
    expected = np.asarray(image.convert("RGB")) / np.float32(255)
    rgb = read_photo(tmp_path / "photo.tif").rgb()
    assert (rgb.shape, rgb.dtype) == ((11, 13, 3), np.float32)
    np.testing.assert_allclose(rgb, expected, atol=1.01 / 255 if mode == "CMYK" else 1e-6)


@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
def test_a_window_is_a_crop(file_format: str, mode: str, bits: int) -> None:
    photo = make_photo(file_format, mode, bits, (15, 10))
    np.testing.assert_array_equal(photo.rgb((2, 3, 9, 14)), photo.rgb()[2:9, 3:14])
    whole, part = photo.alpha(), photo.alpha((2, 3, 9, 14))
    assert (whole is None) == (part is None)
    if whole is not None and part is not None:
        np.testing.assert_array_equal(part, whole[2:9, 3:14])
    fill = RNG.random((7, 11, 3), dtype=np.float32)
    mask = RNG.random((7, 11)) < 0.4
    wide_fill = np.zeros((10, 15, 3), dtype=np.float32)
    wide_mask = np.zeros((10, 15), dtype=bool)
    wide_fill[2:9, 3:14], wide_mask[2:9, 3:14] = fill, mask
    by_window = photo.with_fill(fill, mask, (2, 3, 9, 14))
    np.testing.assert_array_equal(by_window.samples, photo.with_fill(wide_fill, wide_mask).samples)


def test_gray_gets_the_luma_of_pillow() -> None:
    colors = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    blank = Photo(np.zeros((40, 40), dtype=np.uint8), "L")
    result = blank.with_fill(colors / np.float32(255), np.ones((40, 40), dtype=bool))
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    assert np.abs(result.samples.astype(int) - expected).max() <= 1
    assert (result.samples == expected).mean() > 0.99


def test_a_photo_is_read_only_and_a_fill_makes_a_new_one() -> None:
    photo = Photo(np.zeros((3, 3, 3), dtype=np.uint8))
    with pytest.raises(ValueError):
        photo.samples[0, 0] = 1
    photo.with_fill(np.ones((3, 3, 3), dtype=np.float32), np.ones((3, 3), dtype=bool))
    assert photo.samples.max() == 0


def test_out_of_range_fill_is_clipped() -> None:
    photo = Photo(np.full((1, 2, 3), 9, dtype=np.uint8))
    fill = np.array([[[-1, 0.5, 2], [3, -3, 1]]], dtype=np.float32)
    assert photo.with_fill(fill, np.ones((1, 2), dtype=bool)).samples.tolist() == [[[0, 128, 255], [255, 0, 255]]]


def test_a_free_palette_slot_takes_a_new_colour_exactly() -> None:
    photo = make_photo("TIFF", "P", 8, (20, 20), entries=10)
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10] = True
    fill = np.zeros((20, 20, 3), dtype=np.float32)
    fill[..., 0] = np.arange(20) / np.float32(255)
    result = photo.with_fill(fill, mask)
    np.testing.assert_allclose(result.rgb()[mask], fill[mask], atol=2.01 / 255)
    np.testing.assert_array_equal(result.rgb()[~mask], photo.rgb()[~mask])


def test_a_full_palette_stays_and_the_nearest_entry_is_taken() -> None:
    palette = np.zeros((2, 4), dtype=np.uint8)
    palette[1], palette[0, 3] = 255, 255
    photo = Photo(np.array([[0, 1, 0, 1]], dtype=np.uint8), "P", 1, palette=palette)
    mask = np.array([[False, False, True, True]])
    fill = np.array([[[0, 0, 0], [0, 0, 0], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3]]], dtype=np.float32)
    result = photo.with_fill(fill, mask)
    assert result.samples.tolist() == [[0, 1, 1, 0]]
    np.testing.assert_array_equal(result.palette, palette)


def test_palette_alpha_stays_per_pixel() -> None:
    palette = np.array([[9, 9, 9, 0], [50, 60, 70, 100], [1, 2, 3, 255]], dtype=np.uint8)
    photo = Photo(np.array([[0, 1, 2]], dtype=np.uint8), "P", 8, palette=palette)
    result = photo.with_fill(np.ones((1, 3, 3), dtype=np.float32), np.ones((1, 3), dtype=bool))
    np.testing.assert_array_equal(result.alpha(), photo.alpha())


@pytest.mark.parametrize("target", list(FORMATS))
@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
def test_conversion_shows_the_same_colours(target: str, file_format: str, mode: str, bits: int) -> None:
    photo = make_photo(file_format, mode, bits, (9, 8))
    transparent = photo.is_transparent()
    if target == "GIF" and (mode in ("RGB", "RGBA", "CMYK", "LA") or transparent):
        return
    if transparent and target in ("JPEG", "PPM"):
        with pytest.raises(ValueError, match="transparency"):
            fit(photo, target)
        return
    result = fit(photo, target)
    assert result.bits in FORMATS[target][result.mode]
    exact = result.bits >= (8 if mode == "P" else bits)
    tolerance = 1e-6 if exact and mode != "CMYK" else 1.01 / 255
    np.testing.assert_allclose(result.rgb(), photo.rgb(), atol=tolerance)
    before, after = photo.alpha(), result.alpha()
    if transparent:
        assert before is not None
        assert after is not None
        np.testing.assert_allclose(after, before, atol=0.51 / 255)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
def test_converted_files_can_be_read(suffix: str, file_format: str, mode: str, bits: int, tmp_path: Path) -> None:
    photo = make_photo(file_format, mode, bits, (9, 8))
    write_photo(photo, tmp_path / f"out{suffix}")
    result = read_photo(tmp_path / f"out{suffix}")
    np.testing.assert_allclose(result.rgb(), photo.rgb(), atol=1.01 / 255)
    assert SUFFIX[result.format] == suffix


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packing_is_undone_by_unpacking(bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (5, 11), dtype=np.uint8)
    unpacked = np.unpackbits(pack_bits(samples, bits), axis=1)[:, : 11 * bits].reshape(5, 11, bits)
    np.testing.assert_array_equal(unpacked @ (1 << np.arange(bits)[::-1]), samples)


def test_the_package_needs_no_torch_and_opens_no_codec_early() -> None:
    code = "import sys, maerestore.image; print(sorted({'torch', 'cv2', 'tifffile'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("inks", [(128, 102, 102, 0), (0, 0, 0, 140), (90, 70, 60, 51), (0, 30, 0, 0)])
def test_a_cmyk_fill_of_a_colour_takes_the_inks_that_the_photo_prints_it_with(
    inks: tuple[int, int, int, int], bits: int
) -> None:
    """Under a press's profile the same colour of other inks is another colour."""
    scale = (2**bits - 1) // 255
    samples = np.full((8, 9, 4), np.array(inks) * scale, dtype=np.uint16 if bits == 16 else np.uint8)
    samples[0] = 0
    mask = np.zeros((8, 9), dtype=bool)
    mask[3:6, 2:7] = True
    photo = Photo(samples.copy(), "CMYK", bits)
    samples[mask] = 99
    filled = Photo(samples, "CMYK", bits).with_fill(photo.rgb(), mask)
    np.testing.assert_allclose(filled.samples[mask], photo.samples[mask], atol=scale)
    np.testing.assert_array_equal(filled.samples[~mask], photo.samples[~mask])


def test_a_cmyk_photo_without_known_pixels_is_separated_with_all_the_black_there_is() -> None:
    photo = Photo(np.zeros((2, 2, 4), dtype=np.uint8), "CMYK")
    filled = photo.with_fill(np.full((2, 2, 3), 0.4, np.float32), np.ones((2, 2), dtype=bool))
    assert (filled.samples == (0, 0, 0, 153)).all()
