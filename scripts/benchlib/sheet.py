"""The contact sheet: a row per photo and family; photo, masked photo and each method side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchlib.photos import BenchError

HOLE_COLOR = (255, 0, 255)  # seldom seen in photographs
GAP = 4
HEADER = 22
MAX_SIDE = 65500  # JPEG's limit in pixels


@dataclass
class Sheet:
    """Collects rows of pictures, all of one size.

    Args:
        columns: the labels.
    """

    columns: list[str]
    rows: list[tuple[str, list[np.ndarray]]] = field(default_factory=list)

    def add(self, label: str, photo: np.ndarray, mask: np.ndarray, fills: list[np.ndarray]) -> None:
        """Add a row: (H, W, 3) uint8 pictures, and the hole (H, W) bool."""
        masked = photo.copy()
        masked[mask] = HOLE_COLOR
        self.rows.append((label, [photo, masked, *fills]))

    def save(self, path: Path) -> None:
        """Write a JPEG; rows beyond the format's height are left out."""
        if not self.rows:
            raise BenchError("no photo of the sheet was filled: they are too small")
        height, width = self.rows[0][1][0].shape[:2]
        rows = self.rows[: (MAX_SIDE - HEADER) // (height + GAP)]
        sheet = Image.new(
            "RGB", (HEADER + len(self.columns) * (width + GAP), HEADER + len(rows) * (height + GAP)), "white"
        )
        for i, title in enumerate(self.columns):
            sheet.paste(_text(title, width), (HEADER + i * (width + GAP), 0))
        for j, (label, pictures) in enumerate(rows):
            top = HEADER + j * (height + GAP)
            sheet.paste(_text(label, height).rotate(90, expand=True), (0, top))
            for i, picture in enumerate(pictures):
                sheet.paste(Image.fromarray(picture), (HEADER + i * (width + GAP), top))
        sheet.save(path, "JPEG", quality=93, subsampling=0)


def _text(text: str, width: int) -> Image.Image:
    """Text in the middle of a white strip, smaller where it would not fit."""
    strip = Image.new("RGB", (width, HEADER), "white")
    draw = ImageDraw.Draw(strip)
    size = 14
    while size > 7 and draw.textlength(text, font=ImageFont.load_default(size)) > width - 4:
        size -= 1
    draw.text((width / 2, HEADER / 2), text, fill="black", font=ImageFont.load_default(size), anchor="mm")
    return strip
