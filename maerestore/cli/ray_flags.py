"""What the verbs that can run on a Ray cluster take for it."""

from __future__ import annotations

import argparse

_NAMES = ("ray_address", "ray_workers")


def check_ray_flags(args: argparse.Namespace) -> None:
    """Refuse flags of the cluster where the engine is another.

    Raises:
        InputError: one of them was given without --engine ray.
    """
    from maerestore.image import InputError

    given = [name for name in _NAMES if getattr(args, name) is not None]
    if given and args.engine != "ray":
        raise InputError(f"--{given[0].replace('_', '-')} goes with --engine ray.")
