"""The threads that torch computes with: they give their core back soon, and a forked process has one.

GNU's OpenMP, which torch computes with, spins while its threads wait for each other; and where it had started them
before a fork, it waits in the forked process for threads that are gone, for ever. Whoever computes here for a user says
`one_thread_if_forked` first.
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


def usable_cpus() -> int:
    """The number of cores that this process may use, which in a container or job may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_briefly() -> None:
    """Let threads that wait for each other give their core back soon; has to happen before torch is loaded.

    By default they spin, and on a machine that is busy with something else too, each operation then waits for the core
    that the spinning holds: a fill took 4 to 13 times longer. Settings of the user's own stay.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"
