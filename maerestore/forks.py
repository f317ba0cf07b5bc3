"""Computing in a forked process, where the threads of the parent are gone.

GNU's OpenMP, which torch computes with, waits for threads that did not survive the fork, for ever, if it had started
them before. Whoever computes here for a user says so first, by `one_thread_if_forked`.
"""

from __future__ import annotations

import os

_first_process = os.getpid()  # `maerestore` imports this module: a process of another number was forked later


def one_thread_if_forked() -> None:
    """In a forked process, compute in one thread from now on.

    DataLoader workers are set to one thread by torch; those of `multiprocessing.Pool` and the like are not. In a
    spawned process nothing changes.
    """
    if is_forked():
        import torch

        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)


def is_forked() -> bool:
    """Whether this process was forked after `maerestore` was imported, or is a forked worker of `multiprocessing`."""
    if os.getpid() != _first_process:
        return True
    import multiprocessing  # not above: `import maerestore` stays light

    if multiprocessing.parent_process() is None:
        return False
    # Imported here first: what the parent computed before the fork is not known.
    method = getattr(multiprocessing.current_process(), "_start_method", None)
    return (method or multiprocessing.get_start_method()) == "fork"
