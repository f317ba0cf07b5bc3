from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from maerestore.image import InputError, Photo, read_photo
from maerestore.inpaint.arrays import FloatImage, as_canvas
from maerestore.inpaint.pipeline import Inpainter

from .conftest import box_mask, textured

HEIGHT, WIDTH = 40, 60
HOLE = box_mask(HEIGHT, WIDTH, (12, 20, 28, 50))
KEYS: dict[str, Any] = {"1": 0, "L": 7, "RGB": (1, 2, 3), "I;16": 700}


def keyed(mode: str) -> Image.Image:
    """A picture whose right half, over which the hole reaches, is of the transparent colour."""
    key = KEYS[mode]
    if mode == "I;16":
        samples = textured(HEIGHT, WIDTH)[..., 0].astype(np.uint16) * 257 + 1000
        samples[:, 30:] = key
        image = Image.fromarray(samples)
    else:
        image = Image.fromarray(textured(HEIGHT, WIDTH)).convert(mode)
        image.paste(key, (30, 0, WIDTH, HEIGHT))
    assert image.mode == mode
    image.info["transparency"] = key
    return image


@pytest.mark.parametrize("mode", KEYS)
def test_the_transparent_colour_of_a_pil_image_is_that_of_its_file(mode: str, tmp_path: Any) -> None:
    image = keyed(mode)
    image.save(tmp_path / "in.png", transparency=image.info["transparency"])
    stored = read_photo(tmp_path / "in.png")
    with Image.open(tmp_path / "in.png") as opened:
        for canvas in (as_canvas(image), as_canvas(opened)):
            assert isinstance(canvas, Photo)
            assert canvas.color_key == stored.color_key
            np.testing.assert_array_equal(canvas.alpha(), stored.alpha())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_is_neither_filled_nor_seen(mode: str, inpainter: Inpainter) -> None:
    image = keyed(mode)
    filled = inpainter.inpaint(image, HOLE)
    before, after = (np.asarray(picture.convert("RGBA")) for picture in (image, filled))
    assert filled.info["transparency"] == KEYS[mode]
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    other = np.array(image)
    other[:, 30:] = 255
    white = Image.fromarray(other)
    white.info["transparency"] = 255 if mode == "L" else (255, 255, 255)
    left = HOLE & (np.arange(WIDTH) < 30)
    np.testing.assert_array_equal(np.asarray(inpainter.inpaint(white, HOLE))[left], np.asarray(filled)[left])


@pytest.mark.parametrize("key", [b"\0\1", (1, 2), "red", 3.5, None, (None, 1, 2), (1.5, 2, 3)])
def test_what_is_no_colour_is_no_transparent_one(key: object) -> None:
    image = Image.new("RGB", (4, 3))
    image.info["transparency"] = key
    canvas = as_canvas(image)
    assert isinstance(canvas, Photo)
    assert canvas.color_key is None


def png_of(path: Path, bits: int, kind: int, samples: np.ndarray, key: tuple[int, ...]) -> None:
    """Write a PNG of a depth that Pillow does not write, with a transparent colour."""
    height, width = samples.shape[:2]
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        places = np.arange(8 - bits, -1, -bits)
        rows = (samples.reshape(height, -1, 8 // bits) << places).sum(axis=2).astype(np.uint8)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">LLBBBBB", width, height, bits, kind, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(key)}H", *key)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ):
        data += struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))
    path.write_bytes(data)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_a_transparent_colour_has_the_scale_of_the_samples(bits: int, tmp_path: Path, inpainter: Inpainter) -> None:
    key = (2,) if bits < 16 else (2 << 8, 700, 40000)
    samples = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, len(key)))
    samples[:, 30:] = key
    png_of(tmp_path / "in.png", bits, 0 if bits < 16 else 2, samples, key)
    opaque = (samples != key).any(axis=2)
    assert (read_photo(tmp_path / "in.png").alpha() == opaque).all()
    with Image.open(tmp_path / "in.png") as image:
        assert image.mode == ("L" if bits < 16 else "RGB")
        for state in ("opened", "loaded", "copied"):
            canvas = as_canvas(image.copy() if state == "copied" else image)
            assert isinstance(canvas, Photo)
            np.testing.assert_array_equal(canvas.alpha(), opaque, err_msg=state)
        filled = inpainter.inpaint(image, HOLE, sharp=False)
    assert (np.asarray(filled.convert("RGBA"))[..., 3] == 255 * opaque)[~HOLE].all()


@pytest.mark.parametrize(("shape", "advice"), [((HEIGHT, WIDTH, 3), "permute"), ((5, HEIGHT, WIDTH), "")])
def test_a_tensor_of_another_layout_is_named_as_it_was_given(shape: tuple[int, ...], advice: str) -> None:
    with pytest.raises(InputError) as caught:
        as_canvas(torch.zeros(shape))
    assert "such as (3, H, W)" in str(caught.value)
    assert f"got {shape}" in str(caught.value)
    assert ("permute" in str(caught.value)) == bool(advice)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_a_pil_animation_is_refused_and_a_frame_of_it_taken(suffix: str, tmp_path: Any, inpainter: Inpainter) -> None:
    frames = [Image.fromarray(textured(HEIGHT, WIDTH, seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"many.{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / f"many.{suffix}") as image:
        with pytest.raises(InputError, match=r"3 frames, .*image\.copy\(\)"):
            inpainter.inpaint(image, HOLE)
        image.seek(1)  # on purpose
        assert inpainter.inpaint(image, HOLE, sharp=False).size == (WIDTH, HEIGHT)
        assert inpainter.inpaint(image.copy(), HOLE, sharp=False).size == (WIDTH, HEIGHT)
    frames[0].save(tmp_path / f"one.{suffix}")
    with Image.open(tmp_path / f"one.{suffix}") as image:
        image.load()
        image.putpixel((0, 0), 0 if image.mode == "P" else (1, 2, 3))
        drawn = image.getpixel((0, 0))
        as_canvas(image)
        assert image.getpixel((0, 0)) == drawn
    as_canvas(image)  # closed


@pytest.mark.parametrize("loaded", [False, True])
def test_a_reduced_page_of_a_tiff_is_no_frame(loaded: bool, tmp_path: Any) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        file.write(textured(HEIGHT, WIDTH), photometric="rgb", compression="zlib", metadata=None)
        file.write(textured(HEIGHT // 2, WIDTH // 2), photometric="rgb", subfiletype=1, metadata=None)
    stored = read_photo(tmp_path / "in.tif").samples.copy()
    with Image.open(tmp_path / "in.tif") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
        if loaded:
            image.putpixel((0, 0), (1, 2, 3))
            stored[0, 0] = (1, 2, 3)
        canvas = as_canvas(image)
        assert isinstance(canvas, Photo)
        np.testing.assert_array_equal(canvas.samples, stored)
        np.testing.assert_array_equal(np.asarray(image), stored)  # what was drawn is still there


def test_the_previews_of_a_camera_are_no_animation(tmp_path: Any) -> None:
    frames = [Image.fromarray(textured(HEIGHT, WIDTH, seed)) for seed in range(2)]
    frames[0].save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "camera.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
        assert as_canvas(image).size == (WIDTH, HEIGHT)


def test_a_mask_painted_at_half_opacity_is_not_taken_for_an_empty_one(inpainter: Inpainter) -> None:
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    layer[HOLE] = (255, 0, 0, 127)
    with pytest.raises(InputError, match="the paint is at most 50 % opaque"):
        inpainter.inpaint(Image.fromarray(textured(HEIGHT, WIDTH)), Image.fromarray(layer))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_colours_of_floats(channels: int) -> None:
    samples = np.random.default_rng(0).random((5, 6, channels))
    rgb = FloatImage(samples).rgb((1, 2, 4, 6))
    assert (rgb.shape, rgb.dtype) == ((3, 4, 3), np.float32)
    for i in range(3):
        np.testing.assert_array_equal(rgb[..., i], samples[1:4, 2:6, i if channels > 2 else 0].astype(np.float32))


def test_a_transparent_colour_of_one_bit_stays_transparent(inpainter: Inpainter) -> None:
    stored = io.BytesIO()
    Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (40, 20))).convert("1").save(stored, "PNG", transparency=1)
    image, hole = Image.open(stored), box_mask(40, 40, (5, 5, 9, 9))
    filled = inpainter.inpaint(image, hole)
    before, after = (np.asarray(each.convert("RGBA"))[..., 3] for each in (image, filled))
    assert (before == 0).any()
    np.testing.assert_array_equal(after[~hole], before[~hole])


def test_a_transparent_index_beyond_the_palette_stays_transparent(inpainter: Inpainter) -> None:
    indices = np.full((20, 20), 3, np.uint8)
    indices[0, :9] = 9
    image = Image.fromarray(indices, mode="P")
    image.putpalette(bytes(range(15)))
    image.info["transparency"] = 9
    filled = inpainter.inpaint(image, box_mask(20, 20, (12, 12, 15, 15)))
    alpha = np.asarray(filled.convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(alpha == 0, indices == 9)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_an_array_of_another_byte_order_is_filled_in_its_own(dtype: str, inpainter: Inpainter) -> None:
    native = np.random.default_rng(0).random((20, 24, 3))
    native = (native * 65535).astype(np.uint16) if dtype == ">u2" else native.astype(np.float32)
    mask = box_mask(20, 24, (6, 6, 12, 12))
    filled = inpainter.inpaint(native.astype(dtype), mask)
    assert filled.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(filled, inpainter.inpaint(native, mask))


def test_what_cannot_be_decoded_is_said_of_images_and_masks(tmp_path: Path, inpainter: Inpainter) -> None:
    """Pillow opens a file that was cut off, and finds out when its pixels are asked for."""
    for name in ("a.png", "a.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the image cannot be decoded"):
        inpainter.inpaint(Image.open(tmp_path / "a.jpg"), HOLE)
    with pytest.raises(InputError, match="the mask cannot be decoded"):
        inpainter.inpaint(Image.new("RGB", (WIDTH, HEIGHT)), Image.open(tmp_path / "a.png"))
    closed = Image.open(tmp_path / "a.jpg")
    closed.close()
    with pytest.raises(InputError, match="the image cannot be decoded"):
        inpainter.inpaint(closed, HOLE)


def test_the_thumbnail_of_a_pil_image_goes_with_what_it_shows(tmp_path: Path, inpainter: Inpainter) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    block = bytearray(exif.tobytes())
    link = block.index(b"Maker") - 4  # to the next directory, which comes at the end
    block[link : link + 4] = struct.pack("<L" if block[6:8] == b"II" else ">L", len(block) - 6)
    order = "<" if block[6:8] == b"II" else ">"
    place = len(block) - 6 + 2 + 2 * 12 + 4
    block += struct.pack(order + "HHHLLHHLLL", 2, 0x201, 4, 1, place, 0x202, 4, 1, 8, 0) + b"THUMBNL!"
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(tmp_path / "a.jpg", exif=bytes(block))
    image = Image.open(tmp_path / "a.jpg")
    assert b"THUMBNL!" in inpainter.inpaint(image, np.zeros_like(HOLE)).info["exif"]
    filled = inpainter.inpaint(image, HOLE).info["exif"]
    assert b"THUMBNL!" not in filled
    assert b"Maker" in filled
    assert b"THUMBNL!" in image.info["exif"]


def test_an_image_of_torchvision_stays_one(inpainter: Inpainter) -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    image = tv_tensors.Image(torch.rand(3, HEIGHT, WIDTH))
    assert type(inpainter.inpaint(image, HOLE)) is tv_tensors.Image
    assert type(inpainter.inpaint(tv_tensors.Image(image[None]), HOLE)) is tv_tensors.Image
    assert type(inpainter.inpaint(image.as_subclass(torch.Tensor), HOLE)) is torch.Tensor


def test_an_error_in_a_batch_names_its_image(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match="image 1 of the batch: the mask covers the whole photo"):
        inpainter.inpaint(torch.rand(2, 3, HEIGHT, WIDTH), [HOLE, np.ones_like(HOLE)])
