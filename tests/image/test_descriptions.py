"""What the formats that hold little say beside the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from maerestore.image import read_photo, write_photo
from maerestore.image.metadata import Metadata

from .conftest import make_photo


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_gif_keeps_its_comment(mode: str, tmp_path: Path) -> None:
    photo = replace(make_photo("GIF", mode, 8, (9, 7)), metadata=Metadata(comment=b"by hand"))
    write_photo(photo, tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").info["comment"] == b"by hand"
    write_photo(read_photo(tmp_path / "a.gif"), tmp_path / "b.gif")
    assert Image.open(tmp_path / "b.gif").info["comment"] == b"by hand"


@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("L", 8), ("RGB", 8), ("P", 1), ("P", 4), ("P", 8), ("RGBA", 8)])
def test_a_bmp_keeps_its_resolution(mode: str, bits: int, tmp_path: Path) -> None:
    photo = replace(make_photo("BMP", mode, bits, (9, 7)), metadata=Metadata(dpi=(200.0, 300.0)))
    write_photo(photo, tmp_path / "a.bmp")
    write_photo(read_photo(tmp_path / "a.bmp"), tmp_path / "b.bmp")
    for name in ("a.bmp", "b.bmp"):
        assert Image.open(tmp_path / name).info["dpi"] == pytest.approx((200, 300), abs=0.02)
