"""Files and what they contain, decoded alike."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.features.decode import load_image
from maerestore.image import InputError

RED, BLUE = (200, 0, 0), (0, 0, 200)


def animated(path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(path, save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_animations_and_pages_are_refused_whatever_they_come_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    animated(path)
    for source in (path, path.read_bytes()):
        with pytest.raises(InputError, match=r"has 2 (frames|pages)"):
            load_image(source)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.bmp", "a.jp2", "a.ppm", "a.qoi", "a.jpg"])
def test_contents_are_decoded_as_files_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    try:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    except (KeyError, ValueError):
        pytest.skip("this Pillow does not write it")
    assert (load_image(path) == load_image(path.read_bytes())).all()


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg"])
def test_heic_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    path = tmp_path / name
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    for source in (path, path.read_bytes()):
        with pytest.raises(InputError, match="pip install pillow-heif"):
            load_image(source)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0"])
def test_bad_contents_get_one_line(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^the content ") as caught:
        load_image(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mode", "premultiplied"), [("RGBA", "RGBa"), ("LA", "La")])
def test_white_shows_through_premultiplied_alpha(mode: str, premultiplied: str) -> None:
    straight = Image.new(mode, (2, 2), (100, 100, 100, 128) if mode == "RGBA" else (100, 128))
    expected = load_image(straight)
    assert abs(load_image(straight.convert(premultiplied)).astype(int) - expected).max() <= 1
    assert (expected > 150).all()


def test_a_pil_image_that_was_cut_off_gets_one_line(tmp_path: Path) -> None:
    Image.radial_gradient("L").save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the image is truncated or damaged"):
        load_image(Image.open(tmp_path / "a.jpg"))
