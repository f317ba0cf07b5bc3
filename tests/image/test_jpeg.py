"""JPEG output is compressed as its source was."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from maerestore.image import InputError, Photo, read_photo, write_photo


def picture(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:64, :80]
    array = np.stack([x * 3, y * 4, (x + y) * 2 % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(array).convert(mode)


@pytest.mark.parametrize("quality", [30, 75, 92, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_tables_sampling_and_scans_are_kept(quality: int, subsampling: int, progressive: bool, tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", quality=quality, subsampling=subsampling, progressive=progressive, comment=b"c")
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == subsampling
        assert bool(after.info.get("progressive")) == progressive
        assert after.info["comment"] == b"c"
        difference = np.abs(np.asarray(after).astype(int) - np.asarray(before))
        assert difference.mean() < 1.5


def renumbered(data: bytes, tables: tuple[int, ...], chosen: tuple[int, ...]) -> bytes:
    """A JPEG whose tables 0, 1, ... get the numbers `tables`, and whose components use the tables `chosen`."""
    out, at = bytearray(data), 2
    while out[at + 1] != 0xDA:  # the start of the scan
        (length,) = struct.unpack_from(">H", out, at + 2)
        if out[at + 1] == 0xDB:
            for start in range(at + 4, at + 2 + length, 65):
                out[start] = tables[out[start]]
        elif out[at + 1] in (0xC0, 0xC2):
            for component, number in enumerate(chosen):
                out[at + 12 + 3 * component] = number
        at += 2 + length
    return bytes(out)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("tables", "chosen"), [
    ((0, 1), (0, 1, 1)),
    ((1, 0), (1, 0, 0)),
    ((0, 1), (0, 0, 0)),
    ((0, 1), (1, 1, 0)),
    ((2, 3), (2, 3, 3)),
])  # fmt: skip
def test_each_component_keeps_its_table(
    tables: tuple[int, ...], chosen: tuple[int, ...], progressive: bool, subsampling: int, tmp_path: Path
) -> None:
    picture().save(tmp_path / "in.jpg", quality=60, subsampling=subsampling, progressive=progressive)
    (tmp_path / "in.jpg").write_bytes(renumbered((tmp_path / "in.jpg").read_bytes(), tables, chosen))
    photo = read_photo(tmp_path / "in.jpg")
    mask = np.zeros((64, 80), dtype=bool)
    mask[:8, :8] = True
    write_photo(photo.with_fill(np.zeros((64, 80, 3), np.float32), mask), tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        for old, new in zip(before.layer, after.layer, strict=True):
            assert after.quantization[new[3]] == before.quantization[old[3]]
        same = (np.asarray(after) == np.asarray(before))[32:].all(axis=-1)
    assert same.mean() > 0.97


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_stay_what_they_are(mode: str, tmp_path: Path) -> None:
    picture(mode).save(tmp_path / "in.jpg", quality=90)
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.mode == mode
    mask = np.zeros((64, 80), dtype=bool)
    mask[8:16, 8:16] = True
    write_photo(photo.with_fill(np.zeros((64, 80, 3), dtype=np.float32), mask), tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        assert after.mode == mode
        assert after.quantization == before.quantization
        rgb = np.asarray(after.convert("RGB")).astype(int)
        assert rgb[10:14, 10:14].max() < 12
        assert np.abs(rgb - np.asarray(before.convert("RGB")))[~mask].mean() < 1.5


def test_rgb_coded_jpeg_stays_rgb_coded(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", quality=90, keep_rgb=True)
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        assert [layer[0] for layer in after.layer] == [layer[0] for layer in before.layer] == [82, 71, 66]
        assert np.abs(np.asarray(after).astype(int) - np.asarray(before)).max() < 12


def test_other_formats_become_quality_95_without_subsampling(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.png")
    write_photo(read_photo(tmp_path / "in.png"), tmp_path / "out.jpg")
    picture().save(tmp_path / "reference.jpg", quality=95, subsampling=0)
    with Image.open(tmp_path / "reference.jpg") as expected, Image.open(tmp_path / "out.jpg") as image:
        assert image.quantization == expected.quantization
        assert JpegImagePlugin.get_sampling(image) == 0


def test_quality_can_be_chosen(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", quality=98)
    photo = read_photo(tmp_path / "in.jpg")
    write_photo(photo, tmp_path / "small.jpg", quality=20)
    write_photo(photo, tmp_path / "same.jpg")
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "same.jpg").stat().st_size / 2


def test_iptc_segments_are_kept(tmp_path: Path) -> None:
    segment = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\x00\x00\x00\x00"
    extra = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
    picture().save(tmp_path / "in.jpg", extra=extra)
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes().count(segment) == 1


def test_transparency_is_not_flattened_silently(tmp_path: Path) -> None:
    samples = np.full((4, 4, 4), 255, dtype=np.uint8)
    write_photo(Photo(samples, "RGBA"), tmp_path / "opaque.jpg")
    assert read_photo(tmp_path / "opaque.jpg").mode == "RGB"
    samples = samples.copy()
    samples[0, 0, 3] = 254
    with pytest.raises(InputError, match=r"JPEG cannot hold this photo's transparency: write \.png"):
        write_photo(Photo(samples, "RGBA"), tmp_path / "clear.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opaque.jpg"]


def test_a_side_beyond_the_format_is_refused(tmp_path: Path) -> None:
    long = Photo(np.zeros((1, 65501, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="at most 65500 pixels a side, not 65501x1"):
        write_photo(long, tmp_path / "long.jpg")
    with pytest.raises(InputError, match="at most 16383"):
        write_photo(long, tmp_path / "long.webp")
    write_photo(long, tmp_path / "long.png")


def test_inks_stored_as_brightness_and_colour_are_all_written_as_fine_as_brightness(tmp_path: Path) -> None:
    """Pillow writes inks as they are: the coarse table of colour would be that of two of them."""
    fine, coarse = [2] * 64, [60] * 64
    path = tmp_path / "in.jpg"
    picture("CMYK").save(path, qtables=[fine, coarse, coarse, fine])
    data = bytearray(path.read_bytes())
    data[data.index(b"Adobe") + 11] = 2  # YCCK
    path.write_bytes(data)
    before = read_photo(path)
    write_photo(before, tmp_path / "out.jpg")
    after = read_photo(tmp_path / "out.jpg")
    assert np.abs(after.samples.astype(int) - before.samples).max() <= 6
