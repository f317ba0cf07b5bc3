"""Processes beside the trainer's own end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# A task that lasts in one of the workers, none in the other; then the trainer is killed.
KILLED = """
import os, signal, time
from concurrent.futures import ProcessPoolExecutor
from maerestore.train.workers import leave_signals_to_the_parent
pool = ProcessPoolExecutor(2, initializer=leave_signals_to_the_parent)
list(pool.map(time.sleep, [0.2, 0.2]))
print(*pool._processes, flush=True)
pool.submit(time.sleep, 60)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_workers_end_when_the_trainer_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2
        try:
            trainer.communicate(timeout=10)  # until nobody holds the other end of the pipe
        except subprocess.TimeoutExpired:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            raise
    assert trainer.returncode == -signal.SIGKILL
