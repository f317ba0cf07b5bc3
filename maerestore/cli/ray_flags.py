"""What the verbs that can run on a Ray cluster take for it."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator

from maerestore.cli.values import count

_NAMES = ("ray_address", "ray_workers")


def add_ray_flags(parser: argparse._ActionsContainer, engine: str | None) -> None:
    """--engine, --ray-address and --ray-workers.

    Args:
        parser: of the verb, or a group of it.
        engine: default of --engine; None where a verb must tell whether it was given.
    """
    parser.add_argument("--engine", choices=["local", "ray"], default=engine,
                        help="where to compute: local (default) or a Ray cluster")  # fmt: skip
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="address of the cluster (default: Ray on this machine)"
    )
    parser.add_argument("--ray-workers", type=count, metavar="N",
                        help="processes, each with its own model (default: one per GPU, or per CPU)")  # fmt: skip


def check_ray_flags(args: argparse.Namespace) -> None:
    """Refuse flags of the cluster where the engine is another.

    Raises:
        InputError: one of them was given without --engine ray.
    """
    from maerestore.image import InputError

    given = [name for name in _NAMES if getattr(args, name) is not None]
    if given and args.engine != "ray":
        raise InputError(f"--{given[0].replace('_', '-')} goes with --engine ray.")


@contextlib.contextmanager
def stdout_kept(engine: str | None) -> Iterator[None]:
    """A context manager in which nothing but the program's own result gets to stdout.

    A process that is connected to a cluster prints there, from a thread, which tasks the cluster runs again because
    their process was lost; no setting of Ray's turns that off, and a script reads JSON from stdout.

    Args:
        engine: of --engine; with any but "ray" stdout stays as it is.
    """
    if engine != "ray":
        yield
        return
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield
