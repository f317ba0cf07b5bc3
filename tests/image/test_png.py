"""PNG: photographs are deflated fast, drawings well; pixels are exact either way (`test_known_pixels`)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.image import Photo, read_photo, write_photo
from maerestore.image.png import iter_chunks

HEIGHT, WIDTH = 600, 300
FAST, THOROUGH = b"\x78\x01", b"\x78\x9c"  # how a deflated stream of level 1, and of level 6, begins
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def photograph(channels: int) -> np.ndarray:
    """Smooth, with the noise of a sensor."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = 120 + 60 * np.sin(x / 40) + 50 * np.cos(y / 60)
    return (smooth[..., None] + np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, channels))).astype(np.uint8)


def drawing(channels: int) -> np.ndarray:
    """One pattern again and again, as letters are."""
    tile = np.random.default_rng(0).integers(0, 2, (20, 30, channels), dtype=np.uint8) * np.uint8(255)
    return np.tile(tile, (HEIGHT // 20, WIDTH // 30, 1))


def written(samples: np.ndarray, mode: str, bits: int, path: Path) -> tuple[bytes, int]:
    """The beginning of the deflated stream, and the size of the file, which is read back."""
    if bits == 16:
        samples = samples.astype(np.uint16) * 257
    samples = samples[..., 0] if mode == "L" else samples
    write_photo(Photo(samples.copy(), mode, bits), path)
    np.testing.assert_array_equal(read_photo(path).samples, samples)
    data = path.read_bytes()
    pixels = b"".join(content for kind, content in iter_chunks(BytesIO(data), check=True) if kind == b"IDAT")
    return pixels[:2], len(data)


@pytest.mark.parametrize("mode", CHANNELS)
def test_photographs_are_deflated_fast_and_are_hardly_larger(mode: str, tmp_path: Path) -> None:
    samples = photograph(CHANNELS[mode])
    start, size = written(samples, mode, 8, tmp_path / "out.png")
    assert start == FAST
    Image.fromarray(samples.squeeze()).save(tmp_path / "thorough.png")
    assert size < 1.1 * (tmp_path / "thorough.png").stat().st_size


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_repeats_in_drawings_is_found(bits: int, mode: str, tmp_path: Path) -> None:
    start, size = written(drawing(CHANNELS[mode]), mode, bits, tmp_path / "out.png")
    assert start == THOROUGH or (mode, bits) == ("LA", 16)
    assert size < HEIGHT * WIDTH * CHANNELS[mode] / 10


def test_small_photos_are_not_tried(tmp_path: Path) -> None:
    assert written(photograph(3)[:100], "RGB", 8, tmp_path / "out.png")[0] == THOROUGH


def test_noise_of_16_bits_is_deflated_fast(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(30000, 31000, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    write_photo(Photo(deep, "RGB", 16), tmp_path / "out.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "out.png").samples, deep)
    assert b"IDAT" + FAST in (tmp_path / "out.png").read_bytes()
