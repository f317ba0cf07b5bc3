"""What a run says about itself: JSON lines, TensorBoard, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maerestore.image.output import atomic_file
from maerestore.train.values import RecipeError


class RunLog:
    """Writes `log.jsonl`, and TensorBoard's events where tensorboard is installed.

    What the log has of later samples than where the run goes on, as after a power cut, is taken out of it.

    Args:
        folder: of the run; None writes nothing, as in all processes but the first.
        samples: where the run goes on.
    """

    def __init__(self, folder: Path | None, samples: int = 0) -> None:
        self.folder = folder
        self.board: Any = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                raise RecipeError(f"{folder}: cannot be made ({err.strerror})") from err
            _take_back(folder / "log.jsonl", samples)
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError:
                return
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=samples + 1)

    def write(self, step: int, samples: int, values: dict[str, Any]) -> None:
        """Add a record: numbers by name."""
        if self.folder is None:
            return
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, "samples": samples, **values}
        with (self.folder / "log.jsonl").open("a") as sink:
            sink.write(json.dumps(record) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, samples)

    def picture(self, samples: int, sheet: Image.Image) -> None:
        """Keep a picture of fills."""
        if self.folder is None:
            return
        sheet.save(self.folder / f"fills-{samples:09d}.jpg", quality=88)
        if self.board is not None:
            self.board.add_image("fills", np.asarray(sheet), samples, dataformats="HWC")

    def close(self) -> None:
        """Flush what is still held back."""
        if self.board is not None:
            self.board.close()


def _take_back(log: Path, samples: int) -> None:
    """Leave no record of later samples in a log, and no line that was cut off."""
    lines = log.read_text().splitlines() if log.is_file() else []
    kept = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["samples"] <= samples:
                kept.append(line + "\n")
    if len(kept) < len(lines):
        with atomic_file(log, overwrite=True) as sink:
            sink.write("".join(kept).encode())


class Progress:
    """On a terminal a bar with images per second and the time left; elsewhere a line now and then, on stderr.

    Args:
        total: samples of the run.
        done: samples seen before.
        hidden: show nothing.
    """

    def __init__(self, total: int, done: int, hidden: bool) -> None:
        from rich import console, progress

        self._hidden = hidden
        self._bar = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            progress.TextColumn("{task.fields[note]}"),
            console=console.Console(stderr=True),
            disable=hidden,
            speed_estimate_period=120,
            refresh_per_second=1,
        )
        self._bar.disable = hidden or not self._bar.console.is_terminal
        self._task = self._bar.add_task("", total=total, completed=done, rate="", note="")
        self._since = time.perf_counter()
        self._start = self._done = done
        self._total = total

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, samples: int) -> None:
        """Count samples."""
        self._done += samples
        self._bar.update(self._task, completed=self._done, rate=f"{self._rate():,.0f} images/s")

    def loss(self, value: float, gpu_gb: float | None = None) -> None:
        """Show the loss at the end of the bar, or in a line with the place in the run; and the most GPU memory used."""
        memory = "" if gpu_gb is None else f", {gpu_gb:.1f} GB of GPU memory at most"
        self._bar.update(self._task, note=f"loss {value:.4f}{memory}")
        if self._bar.disable:
            minutes = (self._total - self._done) / max(1e-9, self._rate()) / 60
            place = f"{self._done:,} of {self._total:,} samples"
            self.line(f"{place}, loss {value:.4f}, {self._rate():,.0f} images/s, {minutes:,.0f} minutes left{memory}")

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if not self._hidden:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _rate(self) -> float:
        return (self._done - self._start) / max(1e-9, time.perf_counter() - self._since)


class Meter:
    """Losses, speed, and the share of the time that a step waits for its data, from one log record to the next.

    Args:
        log_every: samples between two records.
        batch_size: samples of a step.
        step, samples: where the run starts.
        mean: of a tensor over all processes, each of which sees a part of the batch and asks at the same time.
    """

    def __init__(
        self, log_every: int, batch_size: int, step: int, samples: int, mean: Callable[[Tensor], Tensor]
    ) -> None:
        self.batch_size, self.step, self.samples, self.mean = batch_size, step, samples, mean
        self.every = max(1, min(32, log_every // batch_size // 4))  # a timed step waits for the device: not all do
        self.restart()

    def restart(self) -> None:
        """Forget everything: something else took time."""
        self.losses: dict[str, list[Tensor]] = {}
        self.data, self.whole = 0.0, 0.0
        self.mark, self.since = time.perf_counter(), self.samples

    @property
    def timed(self) -> bool:
        """Whether the next step is one to time."""
        return (self.step + 1) % self.every == 0

    def add(self, losses: dict[str, Tensor], seconds: tuple[float, float] | None) -> None:
        """Count a step: its losses; and, where it was timed, the seconds spent on data and on the whole step."""
        self.step, self.samples = self.step + 1, self.samples + self.batch_size
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)
        if seconds is not None:
            self.data, self.whole = self.data + seconds[0], self.whole + seconds[1]

    def check(self) -> dict[str, float]:
        """Stop a run that has gone astray, in all processes; the mean losses since the last time come back.

        Raises:
            RecipeError: a loss that is not finite.
        """
        if not self.losses:
            return {}
        means = self.mean(torch.stack([torch.stack(each).mean().float() for each in self.losses.values()]))
        values = dict(zip(self.losses, means.tolist(), strict=True))
        if not np.isfinite(values["loss"]):
            raise RecipeError(f"the loss became {values['loss']} after {self.samples} samples: lower base_lr")
        return values

    def take(self) -> dict[str, float]:
        """The figures since the last time."""
        values = self.check()
        values["images_per_second"] = (self.samples - self.since) / (time.perf_counter() - self.mark)
        if self.whole:
            values["data_share"] = self.data / self.whole
        self.restart()
        return values
