"""A small corpus, decoded once: folders or tars of photographs to one array that the trainer maps into memory.

A packed folder holds `pixels.npy` (M, S, B, 3) uint8, with short side S and B = 1.5 S; `sizes.npy` (M, 3) int32 with
height, width and whether the photo was turned on its side to fit (portraits are, and are turned back after cropping);
and `index.json` with the names and the hash of the pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from maerestore.errors import MaerestoreError
from maerestore.train.workers import leave_signals_to_the_parent


class DataError(MaerestoreError):
    """Photographs that are not there or cannot be read."""


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
ASPECT = 1.5  # of the canvas; a longer photo loses its ends
HOLD_OUT = 64  # one photo in this many is kept aside, by the hash of its name


def held_out(name: str) -> bool:
    """Whether a photo is kept aside for validation: decided by its name alone, so the same in every packing."""
    return zlib.crc32(name.encode()) % HOLD_OUT == 0


def find_images(sources: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file bytes) of every image in folders (recursive) and tar files, in sorted order.

    Raises:
        DataError: a source that is neither.
    """
    for source in sources:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | {".tar"}):
                if path.is_dir():
                    continue
                if path.suffix == ".tar":
                    yield from find_images([path])
                else:
                    yield path.relative_to(source).as_posix(), read_file(path)
        elif source.suffix == ".tar" and source.is_file():
            try:
                with tarfile.open(source) as tar:
                    for member in tar:
                        if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                            handle = tar.extractfile(member)
                            assert handle is not None  # a regular file always has contents
                            yield member.name, handle.read()
            except tarfile.TarError as err:
                raise DataError(f"{source}: not a readable tar file ({err})") from err
        else:
            raise DataError(f"{source}: no such folder or .tar file")


def read_file(path: Path) -> bytes:
    """A file's bytes; none where it cannot be read, so that it counts as corrupt."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def fit(data: bytes, short_side: int) -> tuple[np.ndarray, bool] | None:
    """Decode one photo and scale it to the short side wanted: ((h, w, 3) uint8, turned), or None if it is corrupt."""
    try:
        file = Image.open(io.BytesIO(data))
        file.draft(None, (2 * short_side, 2 * short_side))  # JPEG decodes at 1/2, 1/4 or 1/8 where that is enough
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
            image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
        image = image.convert("RGB")
    except Exception:  # a damaged file can make a decoder raise anything
        return None
    if max(image.size) > 64 * min(image.size):  # a line: scaled to the short side it would be enormous
        return None
    scale = short_side / min(image.size)
    size = (max(short_side, round(image.width * scale)), max(short_side, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.asarray(image)
    turned = pixels.shape[0] > pixels.shape[1]
    if turned:
        pixels = pixels.transpose(1, 0, 2)
    surplus = max(0, pixels.shape[1] - int(short_side * ASPECT))
    return pixels[:short_side, surplus // 2 : pixels.shape[1] - (surplus - surplus // 2)], turned


def on_canvas(pixels: np.ndarray, short_side: int) -> np.ndarray:
    """Put a fitted photo at the left of a black canvas: (h, w, 3) -> (S, 1.5 S, 3) uint8."""
    canvas = np.zeros((short_side, int(short_side * ASPECT), 3), np.uint8)
    canvas[:, : pixels.shape[1]] = pixels
    return canvas


def _fit_task(task: tuple[str, bytes, int]) -> tuple[str, tuple[np.ndarray, bool] | None]:
    return task[0], fit(task[1], task[2])


def pack(sources: list[Path], out: Path, short_side: int, workers: int = 1) -> dict[str, int]:
    """Write a packed folder.

    Args:
        sources: folders and tar files.
        out: folder to make.
        short_side: side S in pixels; pack a quarter larger than the crops that will be trained on.
        workers: processes that decode.

    Returns:
        counts: "photos" packed, "corrupt" files left out.

    Raises:
        DataError: a source that is not there, or no image in any.
    """
    for source in sources:
        if not source.is_dir() and not (source.suffix == ".tar" and source.is_file()):
            raise DataError(f"{source}: no such folder or .tar file")
    out.mkdir(parents=True, exist_ok=True)
    long_side = int(short_side * ASPECT)
    names: list[str] = []
    sizes: list[tuple[int, int, int]] = []
    corrupt = 0
    raw = out / "pixels.raw"
    digest = hashlib.sha256()
    bar = tqdm(desc="decoding", unit=" photos", delay=1, disable=None)
    with bar, ProcessPoolExecutor(workers, initializer=leave_signals_to_the_parent) as pool, raw.open("wb") as sink:
        tasks = ((name, data, short_side) for name, data in find_images(sources))
        for batch in _chunks(tasks, 512):
            for name, fitted in pool.map(_fit_task, batch, chunksize=16):
                bar.update()
                if fitted is None:
                    corrupt += 1
                    continue
                pixels, turned = fitted
                block = on_canvas(pixels, short_side).tobytes()
                sink.write(block)
                digest.update(block)
                names.append(name)
                sizes.append((pixels.shape[0], pixels.shape[1], int(turned)))
    if not names:
        raw.unlink()
        raise DataError(f"no image in {', '.join(map(str, sources))}")
    _raw_to_npy(raw, out / "pixels.npy", (len(names), short_side, long_side, 3))
    np.save(out / "sizes.npy", np.array(sizes, np.int32))
    index = {"short_side": short_side, "corrupt": corrupt, "sha256": digest.hexdigest(), "names": names}
    (out / "index.json").write_text(json.dumps(index))
    return {"photos": len(names), "corrupt": corrupt}


def _chunks(items: Iterator[tuple[str, bytes, int]], size: int) -> Iterator[list[tuple[str, bytes, int]]]:
    chunk: list[tuple[str, bytes, int]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _raw_to_npy(raw: Path, target: Path, shape: tuple[int, ...]) -> None:
    """Give a file of pixels an .npy header, without holding the pixels in memory."""
    array = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    source = np.memmap(raw, dtype=np.uint8, mode="r", shape=shape)
    for i in range(0, shape[0], 1024):
        array[i : i + 1024] = source[i : i + 1024]
    array.flush()
    del source
    raw.unlink()
