"""A contact sheet: a row for each query and its results, with scores and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from maerestore.features.index.pictures import Pictures, decode
from maerestore.features.items import Item
from maerestore.image import InputError

TILE = 160  # side in pixels
MOST_ROWS, MOST_LINES = 100, 300  # a line is 200 pixels high, and a JPEG 65,535 at most
_GAP, _TEXT, _ACROSS = 8, 13, 10
_INK, _PAPER, _FRAME, _NONE = (32, 32, 32), (255, 255, 255), (31, 95, 191), (225, 225, 225)


@dataclass(frozen=True)
class Tile:
    """An image on the sheet.

    Attributes:
        name: of the image, or of a member of a tar ("shard.tar/a.webp").
        caption: text above the name.
        folder: to which the name is relative.
        framed: whether to draw a frame: around the query, or the image to keep.
    """

    name: str
    caption: str = ""
    folder: str = "."
    framed: bool = False


def contact_sheet(rows: Sequence[Sequence[Tile]], across: int = _ACROSS) -> Image.Image:
    """Draw rows of images. Long rows are wrapped, and images that cannot be read are gray.

    Args:
        rows: at least one row with at least one tile; only the first 100 rows and the first 300 lines are drawn.
        across: number of tiles in a line, at least 1.

    Returns:
        an RGB picture.

    Raises:
        InputError: there is no tile.

    Example:
        >>> contact_sheet([[Tile("gone.jpg", "query", framed=True), Tile("gone too.jpg", "0.97")]]).mode
        'RGB'
    """
    rows = [row for row in rows if row][:MOST_ROWS]
    if not rows:
        raise InputError("there is nothing to draw.")
    across = min(across, max(len(row) for row in rows))
    lines = [list(row[i : i + across]) for row in rows for i in range(0, len(row), across)][:MOST_LINES]
    step = TILE + _GAP, TILE + 2 * (_TEXT + 3) + _GAP
    sheet = Image.new("RGB", (_GAP + across * step[0], _GAP + len(lines) * step[1]), _PAPER)
    draw, font, find = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT), Pictures().find
    for j, line in enumerate(lines):
        for i, tile in enumerate(line):
            left, top = _GAP + i * step[0], _GAP + j * step[1]
            picture = _picture(find(tile.name, tile.folder))
            if picture is None:
                draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), _NONE)
                draw.text((left + TILE / 2, top + TILE / 2), "not found", _INK, font, anchor="mm")
            else:
                sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
            if tile.framed:
                draw.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), outline=_FRAME, width=3)
            draw.text((left, top + TILE + 4), tile.caption, _INK, font)
            draw.text((left, top + TILE + 4 + _TEXT + 2), _fitted(tile.name, font), _INK, font)
    return sheet


def _picture(item: Item | None) -> Image.Image | None:
    pixels = decode(item, TILE)
    if pixels is None:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return picture


def _fitted(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name, shortened at its beginning, which says less than its end, to fit under a tile."""
    name = " ".join(name.split())
    if isinstance(font, ImageFont.ImageFont):  # Pillow without FreeType draws ASCII only
        name = name.encode("ascii", "replace").decode()
    if font.getlength(name) <= TILE:
        return name
    while font.getlength("..." + name) > TILE:
        name = name[1:]
    return "..." + name
