"""Bad input is refused in one clear line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from maerestore.image import InputError, Photo, read_mask, read_photo, write_photo

from .conftest import LOSSLESS_KINDS, SUFFIX, make_photo

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_photo(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert message.endswith(".")
    with pytest.raises(InputError):
        read_mask(path, (1, 1))
    return message


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")):
        out += struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
    return out


def test_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.png")
    assert "does not exist" in refused(tmp_path / "no folder" / "none.png")


def test_url() -> None:
    for given in ("https://example.com/a.jpg", Path("https://example.com/a.jpg"), Path("ftp://host/a.png")):
        with pytest.raises(InputError, match=r"'(https|ftp)://[a-z./]+' is a URL: download"):
            read_photo(given)
    with pytest.raises(InputError, match="does not exist"):
        read_photo("https/a.jpg")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.png")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "is empty" in refused(tmp_path / "empty.png")


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 5000, b"%PDF-1.4\n", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_an_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(content)
    message = refused(tmp_path / "text.png")
    assert "is not an image" in message
    for known in ("PNG", "JPEG 2000", "AVIF", "QOI", "PSD"):
        assert known in message


@pytest.mark.parametrize("suffix", [".cr2", ".NEF", ".arw", ".dng", ".raf", ".cr3"])
@pytest.mark.parametrize("content", ["samples that no TIFF has", "a preview", "no TIFF"])
def test_camera_raw_has_to_be_developed(content: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    if content == "no TIFF":
        path.write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(99))
    else:
        kind = np.float32 if content.startswith("samples") else np.uint8
        tifffile.imwrite(path, np.zeros((6, 8, 3), kind), photometric="rgb")
    assert refused(path).endswith("is camera RAW, which is not read: develop it to a 16-bit TIFF first.")


def test_what_is_only_called_camera_raw_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "navy").save(tmp_path / "photo.dng", format="JPEG")
    assert read_photo(tmp_path / "photo.dng").size == (8, 6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("file_format", "mode", "bits"),
    [*LOSSLESS_KINDS, ("JPEG", "L", 8), ("JPEG", "RGB", 8), ("JPEG", "CMYK", 8)],
)
def test_truncated_files(file_format: str, mode: str, bits: int, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{SUFFIX[file_format]}"
    write_photo(make_photo(file_format, mode, bits, (64, 48)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    message = refused(path)
    assert "damaged" in message or "is not an image" in message


@pytest.mark.parametrize("bits", [8, 16])
def test_a_damaged_png(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    write_photo(make_photo("PNG", "RGB", bits, (64, 48)), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animations_and_pages(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    path = tmp_path / f"many{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    message = refused(path)
    assert ("3 pages" if suffix == ".tif" else "3 frames and is animated") in message


def test_no_pixels(tmp_path: Path) -> None:
    for width, height in ((0, 5), (5, 0), (0, 0)):
        path = tmp_path / f"{width}x{height}.png"
        path.write_bytes(png_of_size(width, height))
        refused(path)


def test_decompression_bombs(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of_size(60000, 60000))
    limit = Image.MAX_IMAGE_PIXELS
    assert "60000x60000 pixels, over the limit of 200 megapixels" in refused(bomb)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_199_megapixels_are_no_bomb(tmp_path: Path) -> None:
    # The header passes, unlike with Pillow's own limit; the missing data is what is refused.
    (tmp_path / "large.png").write_bytes(png_of_size(19900, 10000))
    assert "truncated or damaged" in refused(tmp_path / "large.png")


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64, np.int16])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_that_are_not_supported(dtype: type, channels: int, tmp_path: Path) -> None:
    array = np.ones((5, 6, channels), dtype=dtype).squeeze()
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "odd.tif", array, photometric=photometric)
    assert "8 or 16 bits" in refused(tmp_path / "odd.tif")


def test_five_channels(tmp_path: Path) -> None:
    array = np.ones((5, 6, 5), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "five.tif", array, photometric="rgb", planarconfig="contig")
    refused(tmp_path / "five.tif")


def test_lab(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    refused(tmp_path / "lab.tif")


def test_heic_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    assert "pip install pillow-heif" in refused(tmp_path / "photo.heic")


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_photo(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        read_photo("nul\0byte.png")
    with pytest.raises(InputError):
        read_photo("x" * 5000)


def test_random_bytes_behind_every_signature(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index, (file_format, mode, bits) in enumerate([*LOSSLESS_KINDS, ("JPEG", "RGB", 8)]):
        path = tmp_path / f"{index}{SUFFIX[file_format]}"
        write_photo(make_photo(file_format, mode, bits, (16, 16)), path)
        head = path.read_bytes()
        for cut in (2, 4, 12, 30):
            path.write_bytes(head[:cut] + rng.bytes(300))
            try:
                read_photo(path)
            except InputError as error:
                assert "\n" not in str(error)


def test_wrong_arguments_of_a_programmer_are_plain_value_errors() -> None:
    photo = Photo(np.zeros((4, 5, 3), dtype=np.uint8))
    mask = np.ones((4, 5), dtype=bool)
    fill = np.zeros((4, 5, 3), dtype=np.float32)
    for bad_fill, bad_mask, window in (
        (fill[:3], mask, None),
        (fill, mask[:3], None),
        (fill, mask.astype(np.uint8), None),
        (fill * np.nan, mask, None),
        (fill, mask, (0, 0, 5, 5)),
    ):
        with pytest.raises(ValueError) as caught:
            photo.with_fill(bad_fill, bad_mask, window)
        assert not isinstance(caught.value, InputError)
    for arguments in ({"mode": "L"}, {"bits": 16}, {"mode": "P"}, {"palette": np.zeros((2, 4), np.uint8)}):
        with pytest.raises(ValueError):
            Photo(photo.samples, **arguments)


def test_reading_from_a_stream_is_not_promised() -> None:
    with pytest.raises(TypeError):
        read_photo(io.BytesIO(b""))  # type: ignore[arg-type]
