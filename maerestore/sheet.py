"""Pictures side by side in labelled rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEGIBLE = 224  # pixels that the short side of a panel is enlarged to, about
_LONGEST = 2048  # and the most that the long side is
_GAP, _TEXT = 8, 16  # pixels
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def draw_sheet(
    columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[np.ndarray]]], note: str = ""
) -> Image.Image:
    """Panels in labelled rows and columns.

    Small panels are enlarged by a whole factor, each pixel to a square.

    Args:
        columns: what stands above each.
        rows: the lines of a row's label, and its panels, one for each column: (H, W, 1 or 3) float in [0, 1].
        note: a line below.

    Example:
        >>> panel = np.zeros((100, 120, 3), np.float32)
        >>> draw_sheet(("before", "after"), [(("one",), [panel, panel])]).mode
        'RGB'
    """
    height, width = rows[0][1][0].shape[:2]
    factor = max(1, min(round(_LEGIBLE / min(height, width)), _LONGEST // max(height, width)))
    panel = width * factor, height * factor
    font = ImageFont.load_default(_TEXT)
    line = _TEXT + 4
    gutter = round(max(font.getlength(text) for label, _ in rows for text in label)) + _GAP
    left = [_GAP + gutter + i * (panel[0] + _GAP) for i in range(len(columns))]
    top = [_GAP + line + _GAP // 2 + i * (panel[1] + _GAP) for i in range(len(rows))]
    size = left[-1] + panel[0] + _GAP, top[-1] + panel[1] + _GAP + (line + _GAP // 2 if note else 0)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, name in zip(left, columns, strict=True):
        draw.text((x + panel[0] / 2, _GAP + line / 2), name, _INK, font, anchor="mm")
    for y, (label, panels) in zip(top, rows, strict=True):
        first = y + panel[1] / 2 - line * (len(label) - 1) / 2
        for i, text in enumerate(label):
            draw.text((_GAP + gutter - _GAP, first + i * line), text, _INK, font, anchor="rm")
        for x, array in zip(left, panels, strict=True):
            sheet.paste(_picture(array).resize(panel, Image.Resampling.NEAREST), (x, y))
    if note:
        small = ImageFont.load_default(_TEXT - 3)
        draw.text((left[0], size[1] - _GAP - line / 2), note, _INK, small, anchor="lm")
    return sheet


def _picture(array: np.ndarray) -> Image.Image:
    levels = (array * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels)
