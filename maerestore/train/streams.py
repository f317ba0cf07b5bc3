"""A corpus too large to hold: photographs are decoded by worker processes while the device trains.

Workers hand over canvases; crops, flips and masks are made on the device, as for a resident corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from maerestore.image.errors import reason_of
from maerestore.train.corpus import Corpus, Layout, permutations
from maerestore.train.packing import HOLD_OUT, DataError, fit, held_out, name_bytes, on_canvas, read_file, tar_images
from maerestore.train.workers import leave_signals_to_the_parent

GIVE_UP = 100  # corrupt files in a row
SHUFFLE_BUFFER = 2000  # encoded samples a worker chooses from
HELD_OUT_SCAN = 2 * HOLD_OUT  # photographs looked at for each one that is wanted of those kept aside

# canvas, (height, width, turned), the names of corrupt files passed over to get there
Item = tuple[np.ndarray, tuple[int, int, int], list[str]]


class StreamedCorpus(Corpus):
    """Photographs that come from a `DataLoader`.

    Args:
        items: gives the dataset of canvases, from a number of samples on.
        kept: canvases of the photographs kept aside, asked for when they are needed.
        device: where crops are made.
        layout: how batches are split; the stream yields one part after the other.
        workers: decoding processes; 0 decodes in this one.
        fingerprint: of the names or addresses.
        description: of what is streamed, for people.
    """

    def __init__(
        self,
        items: Callable[[int], Dataset[Item]],
        kept: Callable[[int], list[Item]],
        device: torch.device,
        layout: Layout,
        workers: int,
        fingerprint: str,
        description: str,
    ) -> None:
        self.description = description
        self.items, self.kept, self.device, self.layout = items, kept, device, layout
        self.workers, self.fingerprint = workers, fingerprint
        self._position = 0
        self._batches: Iterator[tuple[Tensor, Tensor, list[str]]] | None = None
        self._corrupt: set[str] = set()

    @property
    def corrupt(self) -> int:
        return len(self._corrupt)

    def seek(self, samples: int) -> None:
        self._position, self._batches = samples, None

    def close(self) -> None:
        self._batches = None  # now: as the interpreter ends, torch would complain of workers that end first

    def canvases(self, total: int, part: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self._batches is None:
            loader: DataLoader[Any] = DataLoader(
                self.items(self._position),
                batch_size=self.layout.micro,
                drop_last=True,
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=self.device.type == "cuda",
                prefetch_factor=4 if self.workers else None,
                worker_init_fn=leave_signals_to_the_parent,
            )
            self._batches = iter(loader)
        try:
            canvas, sizes, failed = next(self._batches)
        except DataError as err:  # from a worker, with its traceback in the text
            raise DataError(str(err).strip().splitlines()[-1].rpartition("DataError: ")[2]) from None
        self._corrupt.update(failed)
        return canvas.to(self.device, non_blocking=True), sizes.to(self.device, non_blocking=True)

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        kept = self.kept(count) if count else []
        if not kept:
            return torch.zeros(0, 1, 1, 3, dtype=torch.uint8), torch.zeros(0, 3, dtype=torch.int32)
        canvas, sizes, _ = collate(kept)
        return canvas.to(self.device), sizes.to(self.device)


def collate(items: list[Item]) -> tuple[Tensor, Tensor, list[str]]:
    """Stack canvases and sizes; join the lists of corrupt files."""
    canvas = torch.from_numpy(np.stack([item[0] for item in items]))
    sizes = torch.tensor([item[1] for item in items], dtype=torch.int32)
    return canvas, sizes, list(itertools.chain.from_iterable(item[2] for item in items))


def as_canvas(data: bytes, short_side: int) -> tuple[np.ndarray, tuple[int, int, int]] | None:
    """One photo as a canvas with its size, or None if it is corrupt."""
    fitted = fit(data, short_side)
    if fitted is None:
        return None
    pixels, turned = fitted
    return on_canvas(pixels, short_side), (pixels.shape[0], pixels.shape[1], int(turned))


# --- files ------------------------------------------------------------------------------------------------------


class FileItems(IterableDataset[Item]):
    """Files in the order of shuffled epochs; a corrupt one is replaced by the next that is not.

    The order depends on seed and position only: a resumed run goes on where it stopped, and several processes see
    between them what one would.
    """

    def __init__(self, files: list[Path], short_side: int, layout: Layout, seed: int, start: int) -> None:
        self.files, self.short_side, self.layout, self.seed, self.start = files, short_side, layout, seed, start

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for number, batch in enumerate(self._batches()):
            if number % workers == worker:  # DataLoader takes whole batches from its workers in turn
                for index in batch:
                    yield self._item(index)

    def _batches(self) -> Iterator[list[int]]:
        """This process's parts of one batch after the other."""
        order = permutations(len(self.files), self.seed, self.start)
        while True:
            batch = list(itertools.islice(order, self.layout.total))
            for part in self.layout.parts:
                yield batch[part]

    def _item(self, index: int) -> Item:
        failed: list[str] = []
        for step in range(GIVE_UP):
            path = self.files[(index + step) % len(self.files)]
            decoded = as_canvas(read_file(path), self.short_side)
            if decoded is not None:
                return *decoded, failed
            failed.append(str(path))
        raise DataError(f"{GIVE_UP} files in a row cannot be read, the last is {failed[-1]}")


def stream_files(
    files: list[Path], root: Path, device: torch.device, short_side: int, layout: Layout, workers: int, seed: int
) -> StreamedCorpus:
    """Photographs of files in a folder; one in 64 is kept aside by the hash of its path there, as when packed."""
    aside = [path for path in files if held_out(path.relative_to(root).as_posix())]
    train = [path for path in files if not held_out(path.relative_to(root).as_posix())]
    if not train:
        raise DataError("no photograph left to train on")

    def kept(count: int) -> list[Item]:
        decoded = (as_canvas(read_file(path), short_side) for path in aside)
        return [(*item, []) for item in itertools.islice((d for d in decoded if d is not None), count)]

    digest = hashlib.sha256(name_bytes("\n".join(f"{path} {path.stat().st_size}" for path in files))).hexdigest()
    return StreamedCorpus(
        lambda start: FileItems(train, short_side, layout, seed, start), kept, device, layout, workers, digest,
        f"{len(train):,} photographs streamed from files, {len(aside):,} more kept aside",
    )  # fmt: skip


# --- WebDataset shards ------------------------------------------------------------------------------------------


class ShardItems(IterableDataset[Item]):
    """Samples of WebDataset shards. Every worker of every process reads shards of its own, where there are enough.

    The order depends on seed, position and the number of workers; after a resume it is another one than it would have
    been, since a tar cannot be entered in the middle.
    """

    def __init__(self, urls: list[str], short_side: int, layout: Layout, seed: int, start: int) -> None:
        self.urls, self.short_side, self.layout, self.seed, self.start = urls, short_side, layout, seed, start

    def __iter__(self) -> Iterator[Item]:
        import webdataset as wds

        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        reader, readers = self.layout.process * workers + worker, self.layout.processes * workers
        rng = random.Random(f"{self.seed} {self.start} {reader}")
        failed: list[str] = []
        found = [0]  # photographs to train on so far
        samples = wds.DataPipeline(
            lambda: images_of(self._shards(reader, readers, found), failed),
            lambda images: _to_train_on(images, found),
            wds.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4, rng=rng),
        )
        for name, data in samples:
            decoded = as_canvas(data, self.short_side)
            if decoded is None:
                failed.append(name)
            else:
                yield *decoded, failed[:]
                failed.clear()
            if len(failed) >= GIVE_UP:
                break
        last = f", the last is {failed[-1]}" if failed else ""
        raise DataError(f"no photograph can be read from {self.urls[0]} and the other shards{last}")

    def _shards(self, reader: int, readers: int, found: list[int]) -> Iterator[str]:
        """Shard after shard, in an order of each epoch's own; ends where all of them hold no photograph."""
        apart = len(self.urls) >= readers
        for epoch in itertools.count():
            found[0] = 0
            seed = f"{self.seed} {self.start} {epoch}" + ("" if apart else f" {reader}")
            order = random.Random(seed).sample(self.urls, len(self.urls))
            yield from order[reader::readers] if apart else order
            if found[0]:
                continue
            for url in order:  # this reader's own may be the damaged ones: it gives up after all of them
                if not found[0]:
                    yield url
            if not found[0]:
                return


def _to_train_on(images: Iterable[tuple[str, bytes]], found: list[int]) -> Iterator[tuple[str, bytes]]:
    """The images that are not kept aside, counted."""
    for name, data in images:
        if not held_out(name):
            found[0] += 1
            yield name, data


def images_of(urls: Iterable[str], failed: list[str]) -> Iterator[tuple[str, bytes]]:
    """Every image in tar shards: (name, file bytes), the same ones under the same names as where they are packed.

    (webdataset's own samples end a name at its first dot, so photographs of one date would become one.)

    Args:
        urls: whatever webdataset opens.
        failed: what went wrong with a shard is added to it; `GIVE_UP` such in a row end the iteration.
    """
    from webdataset.gopen import gopen

    for url in urls:
        try:
            with tarfile.open(fileobj=gopen(url), mode="r|*") as tar:
                for image in tar_images(tar):
                    tar.members = []  # type: ignore[attr-defined] # or it would keep all of them
                    yield image
        except Exception as err:  # a network, a pipe, a damaged tar: each fails in its own way
            failed.append(f"{url}: {reason_of(err)}")
            if len(failed) >= GIVE_UP:
                return


def stream_shards(
    urls: list[str], device: torch.device, short_side: int, layout: Layout, workers: int, seed: int
) -> StreamedCorpus:
    """Photographs of WebDataset shards: local tars, or any URL that webdataset opens.

    Raises:
        DataError: webdataset is not installed.
    """
    try:
        import webdataset  # noqa: F401
    except ModuleNotFoundError as err:
        raise DataError("streaming from tar shards needs webdataset: pip install 'maerestore[train]'") from err

    def kept(count: int) -> list[Item]:
        found: list[Item] = []
        for name, data in itertools.islice(images_of(urls, []), HELD_OUT_SCAN * count):
            decoded = as_canvas(data, short_side) if held_out(name) else None
            if decoded is not None:
                found.append((*decoded, []))
            if len(found) == count:
                break
        return found

    digest = hashlib.sha256(name_bytes("\n".join(urls))).hexdigest()
    return StreamedCorpus(
        lambda start: ShardItems(urls, short_side, layout, seed, start), kept, device, layout, workers, digest,
        f"photographs streamed from {len(urls):,} shards",
    )  # fmt: skip
