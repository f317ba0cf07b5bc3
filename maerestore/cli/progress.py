"""The progress bar of verbs that take their time."""

from __future__ import annotations

import sys
import threading
import time

_AFTER = 1.0  # seconds


class Bar:
    """A progress bar that appears once the work has taken a second, where stderr is a terminal.

    It is drawn anew each second, whether anything is reported or not: a part of the work may take a minute.

    Args:
        quiet: none at all.
    """

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self.tqdm, self.hidden = tqdm, quiet or not sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.stage = ""
        self.start = time.monotonic()
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep_showing, daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self.lock:
            if stage != self.stage:
                self._begin(stage, total)
            assert self.bar is not None
            self.bar.update(done - self.bar.n)

    def tell(self, text: str) -> None:
        """Print a line on stderr, above the bar."""
        self.tqdm.write(text, file=sys.stderr)

    def _begin(self, stage: str, total: int | None) -> None:
        """Replace the bar by that of another stage; without a total it says for how long there was none."""
        if self.bar is not None:
            self.bar.close()
        self.stage = stage
        self.bar = self.tqdm(
            total=total,
            desc=stage,
            bar_format="{desc}: {elapsed}" if total is None else None,
            delay=max(0.0, self.start + _AFTER - time.monotonic()),
            leave=False,
            disable=self.hidden,
            file=sys.stderr,
        )

    def _keep_showing(self) -> None:
        while not self.ended.wait(_AFTER):
            with self.lock:
                if self.bar is None or self.bar.n == self.bar.total:  # what comes next has not yet reported
                    self._begin("working", None)
                assert self.bar is not None
                self.bar.delay = 0  # it is shown, so that it is taken away in the end
                self.bar.refresh()

    def __enter__(self) -> Bar:
        if not self.hidden:
            self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        if not self.hidden:
            self.thread.join()
        if self.bar is not None:
            self.bar.close()
