"""Images to grids of patches: the aspect stays, and large JPEGs are decoded small."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.features.decode import load_image
from maerestore.features.preprocess import grid_for, to_grid
from maerestore.image import InputError


@pytest.mark.parametrize("shape", [(100, 100), (640, 480), (37, 211), (1, 1), (3, 900), (224, 300)])
def test_a_square_stays_a_square(shape):
    """A disc of a hundredth of the area covers the same share afterwards, as wide as high: nothing is squashed."""
    height, width = shape
    grid = grid_for(height, width, 128, 8)
    assert 0.5 * 256 <= grid[0] * grid[1] <= 2 * 256 or min(grid) == 1
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows]).float()
    out = to_grid(image, grid, 8)
    assert out.shape == (3, grid[0] * 8, grid[1] * 8)
    if min(shape) > 30:  # so many source pixels a step of the output, down and across
        down = (out[0, -1, 0] - out[0, 0, 0]) / (out.shape[1] - 1)
        across = (out[1, 0, -1] - out[1, 0, 0]) / (out.shape[2] - 1)
        assert float(down / across) == pytest.approx(1, rel=0.02)
        cut = 1 - float(down) * out.shape[1] / height, 1 - float(across) * out.shape[2] / width
        assert min(cut) == pytest.approx(0, abs=0.02)
        assert max(cut) < 1 / min(grid) + 0.02  # less than a patch


@pytest.mark.parametrize("shape", [(60_000_000, 1), (1, 60_000_000), (40_000, 3)])
def test_a_thin_strip_is_cut_before_it_is_scaled(shape, monkeypatch):
    grid = grid_for(*shape, 160, 16)
    assert sorted(grid) == [1, 400]
    image = torch.arange(max(shape), dtype=torch.int64).remainder(251).to(torch.uint8).view(1, shape[0], -1)
    image = image.expand(1, *shape) if image.shape[2] != shape[1] else image
    sizes = []
    scale = torch.nn.functional.interpolate

    def interpolate(image, size, **more):
        sizes.append(size)
        return scale(image, size, **more)

    monkeypatch.setattr("torch.nn.functional.interpolate", interpolate)
    out = to_grid(image, grid, 16)
    assert out.shape == (1, grid[0] * 16, grid[1] * 16)
    assert max(size[0] * size[1] for size in sizes) < 2 * out.numel()


def test_what_is_cut_before_it_is_scaled_looks_the_same():
    ramp = torch.linspace(0, 1, 9000).view(1, -1, 1).expand(1, 9000, 3)
    out = to_grid(ramp, (10, 1), 16)
    whole = torch.nn.functional.interpolate(ramp[None], (48_000, 16), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(out, whole[:, 24_000 - 80 : 24_000 + 80], atol=1e-4, rtol=0)


def jpeg(size: tuple[int, int]) -> bytes:
    gradient = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(gradient).save(content, "JPEG", quality=95)
    return content.getvalue()


def test_a_large_jpeg_is_decoded_small_but_large_enough():
    content = jpeg((800, 600))
    assert load_image(content).shape == (600, 800, 3)
    small = load_image(content, at_least=64)
    assert small.shape == (150, 200, 3)
    assert load_image(content, at_least=400).shape == (600, 800, 3)
    whole = np.asarray(Image.fromarray(load_image(content)).resize((200, 150), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - whole).mean() < 2


def test_alpha_orientation_and_depth():
    clear = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    assert (load_image(clear) == 255).all()
    tall = Image.new("RGB", (4, 2))
    tall.putpixel((0, 0), (255, 0, 0))
    exif = tall.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    content = io.BytesIO()
    tall.save(content, "PNG", exif=exif)
    upright = load_image(content.getvalue())
    assert upright.shape == (4, 2, 3)
    assert upright[0, 1].tolist() == [255, 0, 0]
    deep = Image.fromarray(np.array([[0, 65535], [257 * 100, 257 * 7]], dtype=np.uint16))
    assert load_image(deep)[..., 0].tolist() == [[0, 255], [100, 7]]
    palette = Image.new("P", (2, 2))
    palette.putpalette([9, 8, 7] + [0] * 765)
    assert load_image(palette)[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", jpeg((64, 64))[:300], b"GIF89a" + bytes(9)])
def test_damaged_content_is_refused_in_one_line(content):
    with pytest.raises(InputError) as caught:
        load_image(content)
    assert len(str(caught.value).splitlines()) == 1
