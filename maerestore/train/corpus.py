"""What the trainer needs of its photographs, whether they lie on the device or stream in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maerestore.train.crops import centre_boxes, cut, random_crops


@dataclass(frozen=True)
class Layout:
    """How a batch is split over processes and, where gradients are accumulated, over smaller batches.

    Args:
        total: images of a whole batch.
        processes: how many share it.
        process: which of them this is.
        accumulate: smaller batches one after the other.

    Raises:
        ValueError: a batch that does not split evenly.

    Example:
        >>> Layout(total=8, processes=2, process=1, accumulate=2).parts
        [slice(2, 4, None), slice(6, 8, None)]
    """

    total: int
    processes: int = 1
    process: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.total % (self.processes * self.accumulate):
            raise ValueError(
                f"batch_size {self.total} does not split over {self.processes} process(es) x accumulate "
                f"{self.accumulate}: take a multiple of {self.processes * self.accumulate}"
            )

    @property
    def micro(self) -> int:
        """Images of one part."""
        return self.total // (self.processes * self.accumulate)

    @property
    def parts(self) -> list[slice]:
        """The parts of a batch that are this process's, in their order."""
        starts = [(i * self.processes + self.process) * self.micro for i in range(self.accumulate)]
        return [slice(start, start + self.micro) for start in starts]


class Corpus(ABC):
    """Photographs to train on, and some kept aside.

    Convention:
        Photographs are handed out as canvases (`maerestore.train.crops`). Which ones, and where they are cut, depends
        on the generator (seeded by run and step) or on the position alone. The random numbers of a whole batch are
        drawn in every process, which then takes its part: processes with half a batch each see one whole batch.

    Attributes:
        fingerprint: says in the saved model what it was trained on.
        description: how many photographs there are, and where they are kept; for people.
        device: where crops are made.
    """

    fingerprint: str
    description: str
    device: torch.device

    @abstractmethod
    def canvases(self, total: int, part: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The part of the next batch of `total` photographs: (n, S, B, C) uint8 and (n, 3), on the device."""

    @abstractmethod
    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """At most `count` photographs kept aside, always the same: (n, S, B, C) uint8 and (n, 3)."""

    def seek(self, samples: int) -> None:  # noqa: B027 - most have nothing to do here
        """Go to the place where so many photographs were handed out; nothing to do where a step decides alone."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do here
        """End the processes that decode, where there are such; asked for photographs again, it starts others."""

    @property
    def corrupt(self) -> int:
        """Files that could not be read so far."""
        return 0

    def random_crops(
        self,
        total: int,
        part: slice,
        out: int,
        scale: tuple[float, float],
        generator: torch.Generator,
        flip: bool = True,
        native: bool = False,
    ) -> Tensor:
        """Random crops (`maerestore.train.crops`): (n, C, out, out) float32 in [0, 1], the `part` of a batch."""
        canvas, sizes = self.canvases(total, part, generator)
        return random_crops(canvas, sizes, total, part, out, scale, generator, flip, native=native)

    def centre_crops(self, count: int, out: int) -> Tensor:
        """The middle squares of photographs kept aside: (n, C, out, out) float32 in [0, 1], n at most `count`."""
        canvas, sizes = self.held_out(count)
        flip = torch.zeros(len(canvas), dtype=torch.bool, device=canvas.device)
        return cut(canvas, sizes, centre_boxes(sizes), flip, out)


def permutations(length: int, seed: int, start: int = 0) -> Iterator[int]:
    """An endless order of 0 to length - 1, shuffled anew each time round; `start` skips what was used before."""
    epoch, offset = divmod(start, length)
    while True:
        order = torch.randperm(length, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        yield from order[offset:].tolist()
        epoch, offset = epoch + 1, 0
