"""SIGTERM, SIGINT and the end of its terminal stop a training run in order: after its step, and saved."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

EVERY = 16  # steps from one time that processes ask each other to the next
LAUNCHERS = 3.0  # seconds within which launchers and terminals repeat a signal: it is no further one


class WaitEnded(KeyboardInterrupt):
    """A further signal ended a wait; no `Exception`, which readers of data take for a bad file."""


class StopSignals:
    """Notes the signals that come while it is entered; the handlers of before come back.

    A run ends after its step. Where that waits for data which may never come, a further signal ends the wait.

    SIGHUP, where it is not ignored (nohup), says that the terminal is gone: what is written from there on goes nowhere,
    as it would fail.

    Attributes:
        wanted: whether the run is to end.
        number: of the signal; 0 where none came.
    """

    def __init__(self) -> None:
        self.wanted, self.number = False, 0
        self._previous: dict[int, Any] = {}
        self._terminals: list[int] = []
        self._first, self._waiting = 0.0, False

    def __enter__(self) -> StopSignals:
        numbers = [signal.SIGTERM, signal.SIGINT]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            numbers.append(hangup)
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]  # a dead one is none
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
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

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Where a further signal raises `WaitEnded`."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and self._waiting and time.monotonic() - self._first > LAUNCHERS:
            raise WaitEnded
        if not self.wanted:
            self._first = time.monotonic()
        self.wanted, self.number = True, number
        if number == getattr(signal, "SIGHUP", None):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for fd in self._terminals:
                os.dup2(nowhere, fd)
            os.close(nowhere)
