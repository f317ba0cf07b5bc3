"""Labelled pictures, decoded once: tars of NAME.webp + NAME.cls, or CIFAR-10 where its files are at hand."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .photos import BenchError

TORCHVISION = "torchvision:CIFAR10"
IMAGE_SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}
_TEST = ("val", "test")  # a tar with one of these in its name is for testing
_ROOM = 1.25  # decoded side over the network's: crops have something to choose from


@dataclass(frozen=True)
class Split:
    """Pictures and their classes.

    Attributes:
        images: (N, 3, D, D) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, index: Tensor) -> Split:
        """The rows of `index` (M,) int64."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class LabelledData:
    """A data set.

    Attributes:
        name: of the folder.
        train, test: its two parts; `train` holds more room for crops.
        classes: how many.
        sha256: of pixels and labels, so that results are not mixed up.
    """

    name: str
    train: Split
    test: Split
    classes: int
    sha256: str


def load_data(source: str, side: int) -> LabelledData:
    """Decode a data set to the size that a network of `side` px needs.

    Args:
        source: a folder with tars, those with "val" or "test" in their name for testing and the others for training;
            or "torchvision:CIFAR10[:ROOT]", which is not downloaded (ROOT: data/torchvision).
        side: of the network's input in pixels.

    Raises:
        BenchError: nothing there, or something that cannot be read.
    """
    if source.startswith(TORCHVISION):
        name, parts = "cifar10", _cifar10(source)
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise BenchError(f"no data folder {folder}")
        name, parts = folder.resolve().name, _from_tars(folder)
    train = _decode(parts[0], round(side * _ROOM))
    test = _decode(parts[1], side)
    if not len(train) or not len(test):
        raise BenchError(f"{source}: needs tars of NAME.webp and NAME.cls for training, and some for testing "
                         "(with val or test in their name)")  # fmt: skip
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    missing = sorted(set(range(classes)) - set(train.labels.tolist()))
    if missing:
        raise BenchError(f"{source}: no training picture of class {missing[0]}")
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return LabelledData(name, train, test, classes, digest.hexdigest())


def _from_tars(folder: Path) -> list[Iterator[tuple[Image.Image, int]]]:
    tars = sorted(folder.glob("*.tar"))
    test = [tar for tar in tars if any(word in tar.name for word in _TEST)]
    return [_pairs([tar for tar in tars if tar not in test]), _pairs(test)]


def _pairs(tars: list[Path]) -> Iterator[tuple[Image.Image, int]]:
    """(picture, class) of each NAME.webp + NAME.cls, in the order of the names."""
    for path in tars:
        images: dict[str, bytes] = {}
        labels: dict[str, bytes] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    handle = tar.extractfile(member)
                    stem, dot, suffix = member.name.rpartition(".")
                    if handle is not None and suffix.lower() == "cls":
                        labels[stem] = handle.read()
                    elif handle is not None and dot + suffix.lower() in IMAGE_SUFFIXES:
                        images[stem] = handle.read()
        except (tarfile.TarError, OSError) as err:
            raise BenchError(f"{path}: not a readable tar file ({err})") from err
        for stem in sorted(images):
            text = labels.get(stem, b"").decode("ascii", "replace").strip()
            if not text.isdigit():
                raise BenchError(f"{path}: {stem}.cls is missing or no class index")
            try:
                yield Image.open(io.BytesIO(images[stem])).convert("RGB"), int(text)
            except OSError as err:
                raise BenchError(f"{path}: {stem} cannot be read ({err})") from err


def _cifar10(source: str) -> list[Iterator[tuple[Image.Image, int]]]:
    from torchvision.datasets import CIFAR10

    root = source.removeprefix(TORCHVISION).removeprefix(":") or "data/torchvision"
    try:
        return [iter(CIFAR10(root, train=train)) for train in (True, False)]
    except RuntimeError as err:
        raise BenchError(f"{source}: CIFAR-10 is not in {root}; torchvision can download it there") from err


def _decode(pairs: Iterator[tuple[Image.Image, int]], side: int) -> Split:
    """Centre squares, Lanczos."""
    images, labels = [], []
    for image, label in pairs:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + short, top + short))
        images.append(np.asarray(square).transpose(2, 0, 1))
        labels.append(label)
    stacked = np.stack(images) if images else np.zeros((0, 3, side, side), np.uint8)
    return Split(torch.from_numpy(stacked.copy()), torch.tensor(labels, dtype=torch.int64))


def balanced(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows of a subset that holds each class alike: `share` of it, at least one.

    Args:
        labels: (N,) int64.
        share: in (0, 1]; at 1 all rows, in their order.
        seed: of the choice.

    Returns:
        (M,) int64, sorted.
    """
    if share == 1:
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        count = max(1, round(share * len(rows)))
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def hold_out(data: LabelledData, share: float) -> LabelledData:
    """Test on a share of the training part instead, balanced by class: for choosing settings, the test part unseen."""
    rows = balanced(data.train.labels, share, seed=1_000_003)
    kept = torch.ones(len(data.train), dtype=torch.bool)
    kept[rows] = False
    held, side = data.train.part(rows), data.test.images.shape[-1]
    small = F.interpolate(held.images.float(), (side, side), mode="bilinear", antialias=True)
    test = Split(small.round().clamp(0, 255).to(torch.uint8), held.labels)
    return LabelledData(
        f"{data.name} (held out)", data.train.part(kept.nonzero()[:, 0]), test, data.classes, data.sha256
    )


class Batches:
    """An endless stream of training batches, cropped at random and flipped: the same for every method.

    Everything is drawn from a generator of its own, so that runs with one seed differ in the augmentation alone.

    Args:
        split: the training part.
        batch_size: rows of a batch; shuffled passes follow each other without a gap.
        side: of the crops in pixels.
        seed: of order, crops and flips.
        scale: (low, high) share of the picture's area that a crop takes; aspect is 3/4 to 4/3.
    """

    def __init__(self, split: Split, batch_size: int, side: int, seed: int, scale: tuple[float, float]) -> None:
        self.split, self.batch_size, self.side, self.scale = split, batch_size, side, scale
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (N, 3, S, S) uint8 and labels (N,) int64."""
        while True:
            while len(self.order) < self.batch_size:
                more = torch.randperm(len(self.split), generator=self.generator)
                self.order = torch.cat([self.order, more])
            rows, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
            yield self._crop(self.split.images[rows]), self.split.labels[rows]

    def _crop(self, images: Tensor) -> Tensor:
        n = len(images)
        area, aspect, y, x, flip = torch.rand(5, n, generator=self.generator)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        aspect = torch.exp((2 * aspect - 1) * np.log(4 / 3))
        height = (area / aspect).sqrt().clamp(max=1)  # shares of the side
        width = (area * aspect).sqrt().clamp(max=1)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = torch.where(flip < 0.5, -width, width)
        theta[:, 1, 1] = height
        theta[:, 0, 2] = (2 * x - 1) * (1 - width)
        theta[:, 1, 2] = (2 * y - 1) * (1 - height)
        grid = F.affine_grid(theta, [n, 3, self.side, self.side], align_corners=False)
        out = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return out.round_().clamp_(0, 255).to(torch.uint8)
