"""Through the command line, every pixel outside the mask leaves as it came, in every lossless format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from .conftest import HEIGHT, WIDTH, hole, noise, save_mask

Fill = Callable[..., int]


def pil(mode: str, **options: Any) -> Callable[[Path], None]:
    """A writer of random photos by Pillow."""

    def write(path: Path) -> None:
        if mode == "1":
            image = Image.fromarray(noise(channels=None) > 127)
        elif mode == "I;16":
            image = Image.fromarray(deep(None))
        elif mode == "P":
            image = Image.fromarray(noise(channels=None, top=options.get("entries", 40)))
            image.putpalette(noise(1, options.get("entries", 40), 3, seed=1).tobytes(), "RGB")
        else:
            channels = len(Image.new(mode, (1, 1)).getbands())
            image = Image.frombytes(mode, (WIDTH, HEIGHT), noise(channels=channels).tobytes())
        image.save(path, **{key: value for key, value in options.items() if key != "entries"})

    return write


def deep(channels: int | None) -> np.ndarray:
    """Random 16-bit samples."""
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)


def cv(channels: int) -> Callable[[Path], None]:
    return lambda path: None if cv2.imwrite(str(path), deep(channels)) else pytest.fail("not written")


def tiff(samples: Callable[[], np.ndarray], **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, samples(), **options)


PHOTOS: dict[str, tuple[str, Callable[[Path], None]]] = {
    **{f"PNG {mode}": (".png", pil(mode)) for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16")},
    "PNG P with all 256 colours": (".png", pil("P", entries=256)),
    "PNG P of 4 bits": (".png", pil("P", entries=12, bits=4)),
    "PNG P with a transparent colour": (".png", pil("P", transparency=3)),
    "PNG P with alpha": (".png", pil("P", transparency=bytes([0, 90, 180, 255] * 10))),
    "PNG L with a transparent colour": (".png", pil("L", transparency=77)),
    "PNG 16-bit RGB": (".png", cv(3)),
    "PNG 16-bit RGBA": (".png", cv(4)),
    **{f"TIFF {mode}": (".tif", pil(mode)) for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16")},
    "TIFF LZW": (".tiff", pil("RGB", compression="tiff_lzw")),
    "TIFF 16-bit RGB": (".tif", tiff(lambda: deep(3), photometric="rgb")),
    "TIFF 16-bit RGBA": (".tif", tiff(lambda: deep(4), photometric="rgb", extrasamples=["unassalpha"])),
    "TIFF white is zero": (".tif", tiff(lambda: noise(channels=None), photometric="miniswhite")),
    "WebP RGB": (".webp", pil("RGB", lossless=True)),
    "WebP RGBA": (".webp", pil("RGBA", lossless=True, exact=True)),
    "WebP with loss": (".webp", pil("RGB", quality=60)),
    **{f"BMP {mode}": (".bmp", pil(mode)) for mode in ("1", "L", "RGB", "RGBA", "P")},
    "GIF P": (".gif", pil("P")),
    "PPM RGB": (".ppm", pil("RGB")),
    "PGM L": (".pgm", pil("L")),
    "PBM 1": (".pbm", pil("1")),
}


def stored(path: Path) -> np.ndarray:
    """Samples as stored (H, W, C), read by another library where Pillow loses depth."""
    if path.suffix.startswith(".tif"):
        with Image.open(path) as image:
            # tifffile reads LZW only beside imagecodecs, which nothing here needs.
            if image.mode in ("P", "1") or image.info.get("compression") == "tiff_lzw":
                return np.asarray(image).reshape(HEIGHT, WIDTH, -1)
        return tifffile.imread(path).reshape(HEIGHT, WIDTH, -1)
    if path.suffix == ".png":
        array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if array is not None and array.dtype == np.uint16:
            return array.reshape(HEIGHT, WIDTH, -1)
    with Image.open(path) as image:
        return np.asarray(image).reshape(HEIGHT, WIDTH, -1)


def shown(path: Path) -> np.ndarray:
    """(H, W, 4) as a viewer shows it at 8 bits, transparency applied."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("sharp", ["auto", "off"])
@pytest.mark.parametrize("kind", PHOTOS)
def test_every_pixel_outside_the_mask_is_identical(kind: str, sharp: str, fill: Fill, tmp_path: Path) -> None:
    suffix, write = PHOTOS[kind]
    photo, out = tmp_path / f"photo{suffix}", tmp_path / f"photo_filled{suffix}"
    write(photo)
    original, mask = photo.read_bytes(), hole()
    save_mask(tmp_path / "mask.png", mask)
    assert fill(photo, tmp_path / "mask.png", "--quiet", "--sharp", sharp) == 0
    assert photo.read_bytes() == original
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mask.png", photo.name, out.name])

    before, after = stored(photo), stored(out)
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    np.testing.assert_array_equal(shown(out)[~mask], shown(photo)[~mask])
    np.testing.assert_array_equal(shown(out)[mask][:, 3], shown(photo)[mask][:, 3])
    with Image.open(photo) as first, Image.open(out) as second:
        assert (second.mode, second.size, second.format) == (first.mode, first.size, first.format)
    differs = (shown(photo) != shown(out)).any(-1) | (before != after).any(-1)
    assert differs[mask].mean() > 0.2


@pytest.mark.parametrize("sharp", ["auto", "off"])
def test_a_jpeg_keeps_its_tables_and_stays_close(sharp: str, fill: Fill, tmp_path: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([x * 4, y * 5, 255 - x * 2], axis=-1).clip(0, 255).astype(np.uint8)
    photo, out, mask = tmp_path / "photo.jpg", tmp_path / "photo_filled.jpg", hole()
    Image.fromarray(smooth).save(photo, quality=71, subsampling=2, progressive=True, dpi=(300, 300))
    assert fill(photo, save_mask(tmp_path / "mask.png", mask), "--quiet", "--sharp", sharp) == 0
    with Image.open(photo) as first, Image.open(out) as second:
        assert second.format == "JPEG"
        assert second.size == first.size
        assert second.quantization == first.quantization  # type: ignore[attr-defined]
        assert second.info["dpi"] == first.info["dpi"]
        assert bool(second.info.get("progressive")) is bool(first.info.get("progressive"))
        before, after = np.asarray(first).astype(int), np.asarray(second).astype(int)
    # Compression spreads the fill over the blocks that it touches (16 px with halved chroma), and no further.
    y0, x0 = np.arange(HEIGHT) // 16, np.arange(WIDTH) // 16
    blocks = {(int(a), int(b)) for a, b in zip(y0[np.nonzero(mask)[0]], x0[np.nonzero(mask)[1]], strict=True)}
    away = np.array([[(int(a), int(b)) not in blocks for b in x0] for a in y0])
    assert np.abs(before - after)[away].mean() < 1.5


def test_a_jpeg_written_as_png_keeps_the_pixels_it_was_decoded_to(fill: Fill, tmp_path: Path) -> None:
    photo, out, mask = tmp_path / "photo.jpg", tmp_path / "out.png", hole()
    Image.fromarray(noise()).save(photo, quality=80)
    assert fill(photo, save_mask(tmp_path / "mask.png", mask), "-o", out, "--quiet") == 0
    np.testing.assert_array_equal(stored(out)[~mask], stored(photo)[~mask])


def test_the_colour_profile_and_resolution_travel_along(fill: Fill, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = tmp_path / "photo.png"
    Image.fromarray(noise()).save(photo, icc_profile=profile, dpi=(300, 300))
    assert fill(photo, save_mask(tmp_path / "mask.png", hole()), "--quiet") == 0
    with Image.open(tmp_path / "photo_filled.png") as image:
        assert image.info["icc_profile"] == profile
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("size", [(2, 1), (1, 9), (3, 3), (20, 20), (7, 70), (65, 31)])
def test_photos_of_any_size(size: tuple[int, int], fill: Fill, tmp_path: Path) -> None:
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[height // 2 :, width // 2 :] = True
    mask[0, 0] = False
    pixels = noise(height, width)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert fill(tmp_path / "photo.png", save_mask(tmp_path / "mask.png", mask), "--quiet") == 0
    with Image.open(tmp_path / "photo_filled.png") as image:
        assert image.size == size
        np.testing.assert_array_equal(np.asarray(image)[~mask], pixels[~mask])
