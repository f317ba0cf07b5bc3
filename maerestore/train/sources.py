"""Open what `--data` names: a packed folder, photographs, tar shards, or a data set of torchvision."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maerestore.image.errors import reason_of
from maerestore.image.opening import IMAGE_SUFFIXES
from maerestore.train.corpus import Corpus, Layout
from maerestore.train.packing import ASPECT, TAR_ERRORS, DataError, is_tar, list_folder, name_bytes, pack
from maerestore.train.resident import ResidentCorpus
from maerestore.train.streams import stream_files, stream_shards

TORCHVISION = "torchvision:"
FAKE = "fake"


def open_corpus(
    source: str,
    device: torch.device,
    short_side: int,
    layout: Layout,
    cache: Path,
    resident_gb: float = 8.0,
    workers: int = 4,
    seed: int = 0,
) -> Corpus:
    """Open photographs to train on.

    Args:
        source: one of

            - a folder that `scripts/prepare_data.py` packed;
            - a folder of images, searched recursively, or of tars of images; or one .tar file;
            - WebDataset shards: "shards/{000..009}.tar", "https://.../{000..009}.tar", "pipe:...";
            - "torchvision:NAME" or "torchvision:NAME:ROOT": MNIST, CIFAR10, ImageFolder, ..., downloaded to ROOT
              (default `data/torchvision`) where it is not there yet;
            - "fake" or "fake:COUNT": random pictures (256), to try a recipe's speed and memory without any data.
        device: where crops are made.
        short_side: to which photographs are scaled, in pixels; packed ones and data sets of small images keep theirs.
        layout: how batches are split over processes.
        cache: folder for what is decoded once.
        resident_gb: how much decoded pixels may take, in 10^9 bytes; more is streamed.
        workers: decoding processes.
        seed: of the order of a stream.

    Raises:
        DataError: nothing there, nothing readable, or an unknown data set.
    """
    if source.startswith(TORCHVISION):
        name, _, root = source.removeprefix(TORCHVISION).partition(":")
        if name == "ImageFolder":
            if not root:
                raise DataError("torchvision:ImageFolder needs its folder: torchvision:ImageFolder:ROOT")
            source = root  # its classes do not matter here
        else:
            return _named(name, Path(root or "data/torchvision"), device, resident_gb)
    path = Path(source)
    if source.partition(":")[0] == FAKE and not path.exists():
        return _fake(source.partition(":")[2] or "256", short_side, device, seed)
    if (path / "pixels.npy").is_file():
        return ResidentCorpus.from_packed(path, device, resident_gb)
    if "://" in source or "{" in source or source.startswith("pipe:"):
        return stream_shards(_expand(source), device, short_side, layout, workers, seed)
    files, tars = _scan(path)
    room = int(resident_gb * 1e9 / (short_side**2 * ASPECT * 3))  # photographs that can be held
    if _count(files, tars, room) <= room:
        return _decode_once(path, files + tars, device, short_side, cache, workers)
    if files and tars:
        raise DataError(f"{source}: holds both images and tars, too many to keep in memory: name one kind")
    if tars:
        return stream_shards([str(tar) for tar in tars], device, short_side, layout, workers, seed)
    return stream_files(files, path, device, short_side, layout, workers, seed)


def _scan(path: Path) -> tuple[list[Path], list[Path]]:
    """The images and the tars of a folder, sorted."""
    if path.is_dir():
        found = [each for each in list_folder(path) if each.is_file()]
    elif is_tar(path) and path.is_file():
        found = [path]
    elif path.is_file():
        raise DataError(f"{path}: is a file: give a folder of images, or a .tar")
    else:
        raise DataError(f"{path}: no such folder or .tar file")
    if not found:
        raise DataError(f"{path}: no image and no tar in there")
    return [p for p in found if not is_tar(p)], [p for p in found if is_tar(p)]


def _count(files: list[Path], tars: list[Path], enough: int) -> int:
    """How many photographs there are; stops counting soon after `enough`."""
    count = len(files)
    for tar in tars:
        if count > enough:
            break
        try:
            with tarfile.open(tar) as archive:
                for member in archive:
                    count += Path(member.name).suffix.lower() in IMAGE_SUFFIXES
                    if count > enough:
                        break
        except TAR_ERRORS as err:
            raise DataError(f"{tar}: not a readable tar file ({reason_of(err)})") from err
    return count


def _decode_once(
    path: Path, found: list[Path], device: torch.device, short_side: int, cache: Path, workers: int
) -> ResidentCorpus:
    listing = "\n".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in found)
    folder = cache / f"packed-{short_side}-{hashlib.sha256(name_bytes(listing)).hexdigest()[:12]}"
    if (folder / "index.json").is_file():  # written last
        with contextlib.suppress(DataError):  # damaged: they are decoded again
            return ResidentCorpus.from_packed(folder, device)
    pack([path], folder, short_side, max(1, workers))
    return ResidentCorpus.from_packed(folder, device)


def _expand(source: str) -> list[str]:
    try:
        import braceexpand
    except ModuleNotFoundError as err:
        raise DataError("WebDataset shards need webdataset: pip install 'maerestore[train]'") from err
    try:
        urls = list(braceexpand.braceexpand(source))
    except ValueError as err:  # UnbalancedBracesError is one
        raise DataError(f"{source}: braces that do not match") from err
    gone = [url for url in urls if "://" not in url and not url.startswith("pipe:") and not Path(url).is_file()]
    if gone:
        raise DataError(f"{gone[0]}: no such shard")
    return urls


def _fake(count: str, short_side: int, device: torch.device, seed: int) -> ResidentCorpus:
    if not count.isdecimal() or int(count) < 1:
        raise DataError(f"fake:{count}: how many random pictures? fake:COUNT")
    pixels = np.random.default_rng(seed).integers(0, 256, (int(count), short_side, short_side, 3), dtype=np.uint8)
    return ResidentCorpus.from_arrays(pixels, FAKE, device)


def _named(name: str, root: Path, device: torch.device, resident_gb: float) -> ResidentCorpus:
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)) or kind is datasets.VisionDataset:
        raise DataError(f"torchvision has no data set {name!r}; MNIST, CIFAR10 and ImageFolder are some it has")
    try:
        dataset = kind(str(root))
    except Exception:  # not there, most likely: each data set says so in its own way
        try:
            dataset = kind(str(root), download=True)
        except Exception as err:  # every data set fails in its own way: no network, a hash, an argument it wants
            raise DataError(f"torchvision:{name}: not in {root}, and cannot be downloaded ({reason_of(err)})") from err
    return ResidentCorpus.from_arrays(_stack(dataset, name, resident_gb * 1e9), name, device)


def _stack(dataset: Any, name: str, limit: float) -> np.ndarray:
    """All images of a data set as one array; gray ones stay gray."""

    def arrays() -> Iterator[np.ndarray]:
        size = 0
        for i in range(len(dataset)):
            image = dataset[i][0]
            if not isinstance(image, Image.Image):
                raise DataError(f"torchvision:{name} holds {type(image).__name__} in place of images")
            array = np.asarray(image)
            size += array.nbytes
            if size > limit:
                raise DataError(f"torchvision:{name} does not fit into resident_gb {limit / 1e9:g}: raise it")
            yield array

    try:
        images = list(arrays())
    except (TypeError, IndexError, KeyError) as err:  # made without images, or indexed in another way
        raise DataError(f"torchvision:{name} gives no images to train on ({reason_of(err)})") from err
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or images[0].dtype != np.uint8:
        raise DataError(f"torchvision:{name} holds images of several sizes: save them as files and give their folder")
    return np.stack(images)
