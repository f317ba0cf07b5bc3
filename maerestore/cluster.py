"""Running work on the processes and machines of a Ray cluster, without the output of Ray."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from maerestore.errors import MaerestoreError
from maerestore.threads import usable_cpus, wait_briefly

__all__ = ["Share", "check_ray", "nodes_of", "ray_cluster", "run_actors", "share_of"]

_STORE = 256 << 20  # bytes of shared memory that a Ray of our own takes: only results pass through it
_NOISY = ("ray", "ray.data")
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of the C++ part, which writes to stderr
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's own is 15: on a busy machine its actors would wait for all other work
}


class Share:
    """The resources of each actor.

    Attributes:
        actors: number of actors.
        cpus: CPUs that Ray reserves for each.
        gpus: GPUs that Ray reserves for each: 1, a fraction of 1, or 0.
        threads: number of threads that each may use.
    """

    def __init__(self, actors: int, cpus: float, gpus: float) -> None:
        self.actors, self.cpus, self.gpus = actors, cpus, gpus
        self.threads = max(1, int(cpus))


def check_ray() -> None:
    """Raise MaerestoreError if Ray, pyarrow or pandas is missing, without importing them."""
    import importlib.util

    for name in ("ray", "pyarrow", "pandas"):
        if importlib.util.find_spec(name) is None:
            raise MaerestoreError(f"the engine ray needs {name}: pip install 'maerestore[ray]'")


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[Any]:
    """A context manager that connects to a cluster, or starts Ray on this machine, and yields the module ray.

    If this process is connected already, that connection is used, and is not closed.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT"; None for RAY_ADDRESS, or else for this machine.

    Raises:
        MaerestoreError: Ray is missing, or cannot be reached or started.
    """
    check_ray()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    ours = not ray.is_initialized()
    if ours:
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if where == "local":
            quiet |= {"include_dashboard": False, "object_store_memory": _STORE, "num_cpus": usable_cpus()}
        try:
            with _silence():
                ray.init(address=where, **quiet)
        except Exception as error:  # it has many: no such host, versions that differ, ports, memory
            with suppress(Exception):
                ray.shutdown()
            raise MaerestoreError(f"no Ray at {where!r} ({_first_line(error)})") from None
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        import ray.data

        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield ray
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if ours:
            ray.shutdown()


def share_of(nodes: Sequence[dict[str, float]], device: str, workers: int | None = None) -> Share:
    """Divide the machines of a cluster among actors.

    Args:
        nodes: for each machine, its resources "CPU" and "GPU" as Ray reports them.
        device: GPUs are used for "cuda", and for "auto" if there are any; otherwise CPUs.
        workers: number of actors, at least 1; None for one per GPU, or else one per CPU.

    Raises:
        MaerestoreError: device "cuda" on a cluster without GPUs, or a cluster without CPUs.

    Example:
        >>> share = share_of([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], "auto")
        >>> share.actors, share.gpus, share.threads
        (4, 1.0, 8)
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device == "cuda" and not gpus:
        raise MaerestoreError("device 'cuda': the Ray cluster has no GPU; use --device cpu", "device='cpu'")
    if gpus and device in ("auto", "cuda"):
        homes = [node for node in nodes if node.get("GPU", 0) >= 1]
        each = -(-(workers or gpus) // gpus)  # actors on one GPU
        cpus = min(node.get("CPU", 0.0) / int(node["GPU"]) / each for node in homes)
        return Share(workers or gpus, float(int(cpus)) if cpus >= 1 else cpus, 1 / each)
    homes = [node for node in nodes if node.get("CPU", 0) >= 1]
    if not homes:
        raise MaerestoreError("the Ray cluster has no CPU to work with")
    total = sum(int(node["CPU"]) for node in homes)
    actors = workers or total
    if actors > total:
        return Share(actors, total / actors, 0)
    # An actor lives on one machine: each machine holds as many as its CPUs allow.
    cpus = next(
        c for c in range(total // actors, 0, -1) if c == 1 or sum(int(node["CPU"]) // c for node in homes) >= actors
    )
    return Share(actors, float(cpus), 0)


def run_actors(
    ray: Any, work: Callable[..., Any], arguments: dict[str, Any], tasks: Sequence[Any], share: Share
) -> Iterator[Any]:
    """Run tasks on actors, as one stage of Ray Data.

    Args:
        ray: the module that `ray_cluster` yielded.
        work: a class, of which each actor makes one instance and calls it with one task after the other. Its module
            must be importable in the actors.
        arguments: keyword arguments for `work`.
        tasks: objects that can be pickled; a task whose machine is lost is run again on another.
        share: the resources of each actor.

    Yields:
        the results of the calls, in the order in which tasks finish.

    Raises:
        MaerestoreError: `work` raised it, or the actors cannot be kept alive.
        RuntimeError: `work` raised another error; the message is its traceback.
    """
    data, context = ray.data, ray.data.DataContext.get_current()
    settings = {"enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in settings if hasattr(context, name)}
    for name in before:
        setattr(context, name, settings[name])
    try:
        actors = {"work": work, "arguments": arguments, "threads": share.threads, "folder": os.getcwd()}
        for rows in _stage(data, actors, tasks, share).iter_batches(
            batch_size=None,
            batch_format="pyarrow",
            prefetch_batches=0,  # or each result waits for the next
        ):
            for told in rows.column("told").to_pylist():
                wrong, result = pickle.loads(told)  # of this program's own: it never was a file
                if wrong is not None:
                    raise wrong(*result)
                yield result
    except ray.exceptions.RayError as error:
        raise MaerestoreError(f"Ray gave up: {_first_line(error)}") from error
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _stage(data: Any, actors: dict[str, Any], tasks: Sequence[Any], share: Share) -> Any:
    # A machine may be lost any number of times; a task that takes its process along four times ends the run.
    takes = inspect.signature(data.Dataset.map_batches).parameters.values()
    limits = {"max_task_retries": 3} if any(taken.kind is taken.VAR_KEYWORD for taken in takes) else {}
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    # Two tasks at most wait at an actor: with more, one that started a second earlier takes the others' share.
    pool = data.ActorPoolStrategy(size=min(share.actors, len(tasks)), max_tasks_in_flight_per_actor=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other way to say the limit
        return data.from_items(rows, override_num_blocks=min(len(rows), 20_000)).map_batches(
            _Actor,
            fn_constructor_kwargs=actors,
            batch_size=1,
            compute=pool,
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
            **limits,
        )


class _Actor:
    """An actor. Errors are returned as results, because Ray would print them at great length."""

    def __init__(self, work: Callable[..., Any], arguments: dict[str, Any], threads: int, folder: str) -> None:
        self.work, self.arguments, self.threads, self.folder = work, arguments, threads, folder
        self.ready: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        [task] = batch["task"]
        told: tuple[type[Exception] | None, Any]
        try:
            if self.ready is None:
                _settle(self.threads, self.folder)
                self.ready = self.work(**self.arguments)
            told = None, self.ready(pickle.loads(task))
        except MaerestoreError as error:
            told = type(error), (error.message, error.in_python)
        except Exception:
            told = RuntimeError, (traceback.format_exc(),)
        return {"told": np.array([pickle.dumps(told)], dtype=object)}


def nodes_of(ray: Any) -> list[dict[str, float]]:
    """The resources of the machines that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _settle(threads: int, folder: str) -> None:
    """Set the number of threads and how they wait, before torch is loaded; and change to the working directory of the
    user, to which paths are relative, if it exists on this machine."""
    with suppress(OSError):
        os.chdir(folder)
    wait_briefly()
    import torch

    torch.set_num_threads(threads)


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what the C++ part of Ray writes to stderr while it starts, which no setting turns off."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
