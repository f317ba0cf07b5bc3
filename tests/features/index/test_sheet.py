from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.features.index.sheet import MOST_LINES, TILE, Tile, contact_sheet

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    Image.new("RGB", (320, 160), RED).save(tmp_path / "red.png")
    Image.new("RGB", (16, 16), GREEN).save(tmp_path / "green.png")
    Image.new("RGB", (160, 160), BLUE).save(tmp_path / "blue.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "blue.png", "deep/blue.png")
    (tmp_path / "blue.png").unlink()
    return tmp_path


def has(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels have exactly this colour."""
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


def test_images_of_folders_and_tars_are_drawn_whole(photos: Path) -> None:
    row = [Tile(name, "0.9", str(photos)) for name in ("red.png", "green.png", "shard.tar/deep/blue.png")]
    sheet = contact_sheet([row])
    assert has(sheet, RED) == TILE * TILE // 2  # 320 x 160, scaled and not squashed
    assert has(sheet, GREEN) == 16 * 16  # never enlarged
    assert has(sheet, BLUE) == TILE * TILE


def test_what_is_gone_is_gray(photos: Path) -> None:
    (photos / "text.png").write_text("no image")
    names = ("none.png", "shard.tar/none.png", "none.tar/a.png", "text.png")
    sheets = [contact_sheet([[Tile(name, folder=str(photos))]]) for name in names]
    for sheet in sheets:
        assert has(sheet, (225, 225, 225)) > 0.9 * TILE * TILE


def test_long_rows_go_on_in_the_next_line(photos: Path) -> None:
    tiles = [Tile("green.png", folder=str(photos), framed=i == 0) for i in range(5)]
    one, two = contact_sheet([tiles]), contact_sheet([tiles], across=3)
    assert two.height > 1.8 * one.height
    assert two.width < 0.7 * one.width
    assert has(one, GREEN) == has(two, GREEN) == 5 * 16 * 16
    assert has(contact_sheet([tiles[1:]]), (31, 95, 191)) == 0 < has(one, (31, 95, 191))


def test_long_and_strange_names_fit(photos: Path) -> None:
    plain = contact_sheet([[Tile("a.png", folder=str(photos))]])
    long = contact_sheet([[Tile("x" * 500 + "é\n.png", "0.5", str(photos))]])
    assert long.size == plain.size


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        contact_sheet([[], []])


def test_members_that_begin_with_a_dot_are_found(photos: Path) -> None:
    with tarfile.open(photos / "dot.tar", "w") as tar:  # as `tar cf dot.tar .` writes them
        tar.add(photos / "green.png", "./green.png")
    assert has(contact_sheet([[Tile("dot.tar/./green.png", folder=str(photos))]]), GREEN) == 16 * 16


def test_a_sheet_stays_low_enough_to_be_written(photos: Path) -> None:
    many = [Tile("green.png", folder=str(photos))] * 2 * MOST_LINES
    sheet = contact_sheet([many], across=1)
    assert sheet.height < 65_500  # what a JPEG can have
    assert has(sheet, GREEN) == MOST_LINES * 16 * 16
