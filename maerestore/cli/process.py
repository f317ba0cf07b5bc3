"""The command as a process of its own: `maerestore`, or `python -m maerestore`."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from maerestore.cli.main import main

_COLLECT = (100_000, 20, 50)  # new objects, and rounds, after which Python looks for cycles that nothing refers to


def run() -> NoReturn:
    """Run a verb, and end the process with its exit code.

    Loading torch makes a million objects that stay. Python's defaults look through them 1,400 times for some that could
    go, a sixth of that time, and take them apart one by one at the end, for half a second.
    """
    gc.set_threshold(*_COLLECT)
    _open_what_is_closed()
    code = main()
    at_work = [thread for thread in threading.enumerate() if not thread.daemon]  # Python waits for them, not for others
    if "torch" in sys.modules and at_work == [threading.main_thread()]:
        atexit._run_exitfuncs()  # temporary files and child processes go, as at any end of Python
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # `main` has said what there is to say of it
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Give a process that was started without a standard stream (`2>&-`) one that goes nowhere.

    The first file that it opens would take the number of the stream, and with it what libraries in C write there; and
    Python prints to stdout what should go to a stderr that it does not have.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
