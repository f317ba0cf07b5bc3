"""What the training verbs share: arguments, checks, threads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.cli.values import folder_name
from maerestore.threads import usable_cpus

if TYPE_CHECKING:
    from maerestore.train.run import TrainingRun


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a training verb."""
    parser.add_argument("recipe", type=Path, help="YAML file of settings")
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="a folder of images or tars, a packed folder, WebDataset shards as a URL, torchvision:NAME[:ROOT], or "
        "fake[:COUNT] for random pictures",
    )
    parser.add_argument(
        "-o", "--out", type=folder_name, required=True, help="folder for log, checkpoint, pictures and model"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting of the recipe, or a part of one: loss.l1=0.1; may be repeated",
    )
    parser.add_argument("--cpu", action="store_true", help="train on the CPU even if there is a GPU")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads to compute with")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode photographs and draw masks (default: one per core, at most 8)",
    )


def train(verb: str, args: argparse.Namespace, build: Callable[..., TrainingRun[Any, Any]]) -> int:
    """Train until the recipe's samples were seen; SIGTERM, Ctrl-C and a terminal that is closed save and stop.

    The exit code is then that of the signal: 143, 130 and 129.

    Args:
        verb: for messages.
        args: the verb's arguments.
        build: makes the run from the arguments and the keywords `cpu` and `workers`.
    """
    try:
        import accelerate  # noqa: F401
        import rich  # noqa: F401
        import torchvision  # noqa: F401
        import yaml  # noqa: F401
    except ModuleNotFoundError as err:
        print(f"maerestore {verb}: {err.name} is missing: pip install 'maerestore[train]'", file=sys.stderr)
        return 2
    import torch

    from maerestore.train.values import RecipeError

    if not args.data:  # of a script's variable that is not set; it would be the working directory
        raise RecipeError("--data is empty")
    if args.threads is not None and args.threads < 1:
        raise RecipeError(f"--threads must be at least 1, got {args.threads}")
    if args.out.exists() and not args.out.is_dir():
        raise RecipeError(f"{args.out}: is a file; a run is written to a folder")
    if args.threads:
        torch.set_num_threads(args.threads)
    workers = min(8, usable_cpus()) if args.workers is None else args.workers
    if workers < 0:
        raise RecipeError(f"--workers must not be negative, got {workers}")
    run = build(args, cpu=args.cpu, workers=workers)
    for name, value in run.run().items():
        print(f"{name} {value:.4f}")
    return 128 + run.signals.number if run.signals.number else 0  # as shells count a program that a signal ended
