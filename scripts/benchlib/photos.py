"""The photographs and holes of a benchmark run: the same ones for the same seed, whatever else is run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from maerestore.masking import draw_mask

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


class BenchError(Exception):
    """Something that the user has to put right; its text is one line."""


@dataclass(frozen=True)
class Entry:
    """A photograph of the folder.

    Attributes:
        name: path relative to the folder, with forward slashes; it seeds the photo's masks.
        path: where it lies.
    """

    name: str
    path: Path


def find_photos(folder: Path, limit: int | None = None) -> list[Entry]:
    """List a folder's photos, searched recursively and sorted by name.

    Args:
        folder: where to look.
        limit: at most so many, evenly spread over the list: folders are often sorted by data set.

    Raises:
        BenchError: no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise BenchError(f"no photo folder {folder}")
    entries = [
        Entry(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not entries:
        raise BenchError(f"no photos in {folder} (looked for {', '.join(sorted(SUFFIXES))})")
    return spread(entries, limit)


def spread(entries: list[Entry], limit: int | None) -> list[Entry]:
    """At most `limit` entries, evenly spread, in their order."""
    if limit is None or limit >= len(entries):
        return entries
    return [entries[i] for i in np.linspace(0, len(entries) - 1, limit).round().astype(int)]


def open_photo(entry: Entry) -> Image.Image:
    """Read a photo upright and in RGB.

    Raises:
        BenchError: a file that cannot be read. Leaving it out would change the benchmark without a word.
    """
    try:
        with Image.open(entry.path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise BenchError(f"{entry.path} cannot be read: {err}") from err


def centre_square(photo: Image.Image, size: int) -> np.ndarray:
    """Cut the centre square and resize it (Lanczos): (size, size, 3) uint8."""
    width, height = photo.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cut first: `resize(box=...)` lets pixels from beyond the box into its border.
    square = photo.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def mask_for(seed: int, family: str, name: str, size: int) -> np.ndarray:
    """The hole of a photo: (size, size) bool, True = hole.

    Seeded by what it is for, not by its place in the run: part of the photos or families gets the same holes as all.
    """
    digest = hashlib.sha256(f"{seed}/{family}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    return draw_mask(family, size, rng).astype(bool)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_digest(photos: list[dict[str, object]]) -> str:
    """One SHA-256 for a set of photos, from the names and digests that `bench_inpaint` records."""
    return hashlib.sha256("".join(f"{p['sha256']}  {p['name']}\n" for p in photos).encode()).hexdigest()
