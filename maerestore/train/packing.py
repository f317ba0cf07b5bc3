"""A small corpus, decoded once: folders or tars of photographs to one array that the trainer maps into memory.

A packed folder holds `pixels.npy` (M, S, B, 3) uint8, with short side S and B = 1.5 S; `sizes.npy` (M, 3) int32 with
height, width and whether the photo was turned on its side to fit (portraits are, and are turned back after cropping);
and `index.json` with the names and the hash of the pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from maerestore.errors import MaerestoreError
from maerestore.features.decode import load_image
from maerestore.image.errors import reason_of
from maerestore.image.opening import IMAGE_SUFFIXES
from maerestore.train.workers import leave_signals_to_the_parent, was_killed


class DataError(MaerestoreError):
    """Photographs that are not there or cannot be read."""


ASPECT = 1.5  # of the canvas; a longer photo loses its ends
HOLD_OUT = 64  # one photo in this many is kept aside, by the hash of its name
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)  # of a damaged tar, or of one that is compressed
_HEADER = 128  # bytes of pixels.npy before its pixels, whatever their number
_Result = TypeVar("_Result")
_CHUNK_FILES, _CHUNK_BYTES = 512, 256 * 2**20  # files that are held at a time while workers decode


def held_out(name: str) -> bool:
    """Whether a photo is kept aside for validation: decided by its name alone, so the same in every packing."""
    return zlib.crc32(name_bytes(name)) % HOLD_OUT == 0


def name_bytes(name: str) -> bytes:
    """A file's name as bytes: that of a file of old may be no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def is_tar(path: Path) -> bool:
    """Whether a name is that of a tar; capitals count as well, as for images."""
    return path.suffix.lower() == ".tar"


def list_folder(folder: Path) -> list[Path]:
    """The images and the tars in a folder, recursively and sorted, without hidden ones and those of training runs.

    (A run's folder, which may lie among the photographs, holds pictures of its fills.)
    """
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [each for each in folders if each[0] != "." and not _is_run(here / each)]
        found += [here / name for name in names if name[0] != "."]
    named = (path for path in found if is_tar(path) or path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in named if path.is_file() or path.is_symlink())  # a link to nowhere counts as corrupt


def _is_run(folder: Path) -> bool:
    """Whether a folder is one that a training run writes; killed early, it has no checkpoint yet."""
    return (folder / "checkpoint.pt").exists() or ((folder / "log.jsonl").exists() and any(folder.glob("fills-*.jpg")))


def find_images(sources: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file bytes) of every image in folders (recursive) and tar files, in sorted order.

    Raises:
        DataError: a source that is neither.
    """
    for source in sources:
        if source.is_dir():
            for path in list_folder(source):
                if is_tar(path):
                    yield from find_images([path])
                else:
                    yield path.relative_to(source).as_posix(), read_file(path)
        elif is_tar(source) and source.is_file():
            try:
                with tarfile.open(source) as tar:
                    yield from tar_images(tar)
            except TAR_ERRORS as err:
                raise DataError(f"{source}: not a readable tar file ({reason_of(err)})") from err
        else:
            raise DataError(f"{source}: no such folder or .tar file")


def tar_images(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file bytes) of every image in an open tar, in its order, for packing and for streaming."""
    for member in tar:
        if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
            handle = tar.extractfile(member)
            assert handle is not None  # a regular file always has contents
            yield member.name, handle.read()


def read_file(path: Path) -> bytes:
    """A file's bytes; none where it cannot be read, so that it counts as corrupt."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def decode(data: bytes, at_least: int | None = None) -> np.ndarray | None:
    """Decode one photo: upright, on white where it is transparent; (H, W, 3) uint8, or None if it is corrupt.

    `at_least` is the side in pixels that will do (`maerestore.features.decode.load_image`).
    """
    try:
        return load_image(data, at_least)
    except Exception:  # a damaged file can make a decoder raise anything
        return None


def fit(data: bytes, short_side: int) -> tuple[np.ndarray, bool] | None:
    """Decode one photo and scale it to the short side wanted: ((h, w, 3) uint8, turned), or None if it is corrupt."""
    decoded = decode(data, short_side)
    if decoded is None:
        return None
    image = Image.fromarray(decoded)
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
        DataError: a source that is not there, no image in any, a folder that cannot be written, or a process that
            was killed.
    """
    for source in sources:
        if not source.is_dir() and not (is_tar(source) and source.is_file()):
            raise DataError(f"{source}: no such folder or .tar file")
    out.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    sizes: list[tuple[int, int, int]] = []
    corrupt = 0
    digest = hashlib.sha256()
    bar = tqdm(desc="decoding", unit=" photos", delay=1, disable=None)
    with (
        _PixelFile(out, short_side) as sink,
        bar,
        ProcessPoolExecutor(workers, initializer=leave_signals_to_the_parent) as pool,
    ):
        tasks = ((name, data, short_side) for name, data in find_images(sources))
        for chunk in _chunks(tasks):
            at_once = max(1, min(16, len(chunk) // (2 * workers)))
            for name, fitted in _while_alive(pool.map(_fit_task, chunk, chunksize=at_once)):
                bar.update()
                if fitted is None:
                    corrupt += 1
                    continue
                pixels, turned = fitted
                block = on_canvas(pixels, short_side).tobytes()
                sink.add(block)
                digest.update(block)
                names.append(name)
                sizes.append((pixels.shape[0], pixels.shape[1], int(turned)))
        if not names:
            raise DataError(f"no image in {', '.join(map(str, sources))}")
        sink.finish(len(names))
    with _writing(out):
        np.save(out / "sizes.npy", np.array(sizes, np.int32))
        index = {"short_side": short_side, "corrupt": corrupt, "sha256": digest.hexdigest(), "names": names}
        partial = out / "index.part"
        partial.write_text(json.dumps(index))
        partial.replace(out / "index.json")
    return {"photos": len(names), "corrupt": corrupt}


def _while_alive(results: Iterator[_Result]) -> Iterator[_Result]:
    try:
        yield from results
    except BrokenProcessPool as err:
        raise DataError(was_killed("a decoding process")) from err


def _chunks(items: Iterator[tuple[str, bytes, int]]) -> Iterator[list[tuple[str, bytes, int]]]:
    """Lists of files: no more of them, and not much more of their bytes, than may be held in memory."""
    chunk: list[tuple[str, bytes, int]] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += len(item[1])
        if len(chunk) == _CHUNK_FILES or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


class _PixelFile:
    """`pixels.npy`, written canvas by canvas; its header, which says how many there are, comes last.

    It has another name until it is whole, and is gone if it never is.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path, short_side: int) -> None:
        self.folder, self.shape = folder, (short_side, int(short_side * ASPECT), 3)
        self.partial = folder / "pixels.part"
        with _writing(folder):
            self.file = self.partial.open("wb")
            self.file.write(bytes(_HEADER))

    def __enter__(self) -> _PixelFile:
        return self

    def add(self, block: bytes) -> None:
        """Append the bytes of one canvas."""
        with _writing(self.folder):
            self.file.write(block)

    def finish(self, count: int) -> None:
        """Fill in how many there are; the file takes its name."""
        with _writing(self.folder):
            self.file.seek(0)
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
            np.lib.format.write_array_header_1_0(self.file, header)
            assert self.file.tell() == _HEADER  # NumPy pads it to that
            self.file.close()
            # What an earlier packing says of its pixels must not be read with these: the index comes last again.
            (self.folder / "index.json").unlink(missing_ok=True)
            self.partial.replace(self.folder / "pixels.npy")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what is still to be written may not fit either
            self.file.close()
        self.partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DataError(f"{folder}: cannot be written ({err.strerror})") from err
