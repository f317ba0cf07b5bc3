"""The progress bar of verbs that take their time."""

from __future__ import annotations

import sys


class Bar:
    """A progress bar that appears once the work has taken a second, where stderr is a terminal.

    Args:
        quiet: none at all.
    """

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self.tqdm, self.hidden = tqdm, quiet or not sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.__exit__()
            self.stage = stage
            self.bar = self.tqdm(total=total, desc=stage, delay=1, leave=False, disable=self.hidden, file=sys.stderr)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
