"""SIGTERM and SIGINT end a training run in order: after its step, and saved."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

EVERY = 16  # steps from one time that processes ask each other to the next


class StopSignals:
    """Notes the signals that come while it is entered; the handlers of before come back.

    Attributes:
        wanted: whether the run is to end.
        number: of the signal; 0 where none came.
    """

    def __init__(self) -> None:
        self.wanted, self.number = False, 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stopping(self, accelerator: Accelerator, step: int) -> bool:
        """Whether the run ends here; several processes ask each other every few steps, so that all end at the same."""
        if accelerator.num_processes == 1:
            return self.wanted
        if step % EVERY:
            return False
        flag = torch.tensor([float(self.wanted)], device=accelerator.device)
        return float(accelerator.reduce(flag, "sum")) > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted, self.number = True, number
