"""What processes beside the trainer's own do with signals, and when the trainer is no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def was_killed(process: str) -> str:
    """What to say of a process beside the trainer's own that is no more, such as "a decoding process"."""
    return f"{process} was killed, for want of memory most likely: take fewer --workers"


def leave_signals_to_the_parent(worker: int = 0) -> None:
    """The trainer saves on SIGTERM and Ctrl-C; its workers end when it tells them to, or is no more.

    Terminals and launchers signal a whole group, and torch stops a parent whose worker dies: workers get a group of
    their own. What the parent itself sends them has to work, though.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:  # or this is no worker
        parent.join()
        os._exit(1)
