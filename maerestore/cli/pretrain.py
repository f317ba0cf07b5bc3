"""Pretrain a masked autoencoder from a recipe; goes on where the run folder's checkpoint left off.

maerestore pretrain scripts/recipes/small-cpu.yaml --data PHOTOS -o runs/small
maerestore pretrain scripts/recipes/mnist.yaml --data torchvision:MNIST -o runs/mnist
maerestore pretrain RECIPE --data 'https://host/shards-{000..099}.tar' -o runs/large --workers 12
accelerate launch -m maerestore pretrain scripts/recipes/default-gpu.yaml --data PHOTOS -o runs/default

PHOTOS is a folder of images or tars, decoded once where it fits into memory (resident_gb in the recipe) and streamed
where it does not; or what scripts/prepare_data.py packed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", type=Path, help="a YAML recipe")
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="a folder of images or tars, a packed folder, WebDataset shards as a URL, or torchvision:NAME[:ROOT]",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="the run folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting of the recipe"
    )
    parser.add_argument(
        "--init", type=Path, help="start from the weights of a model folder, or of another run's checkpoint.pt"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--workers", type=int, help="processes that decode photographs (default: one a core, at most 8)"
    )


def run(args: argparse.Namespace) -> int:
    """Train until the recipe's samples were seen; SIGTERM and Ctrl-C save and stop, with exit code 143 and 130."""
    try:
        import accelerate  # noqa: F401
        import rich  # noqa: F401
        import yaml  # noqa: F401
    except ModuleNotFoundError as err:
        print(f"maerestore pretrain: {err.name} is missing: pip install 'maerestore[train]'", file=sys.stderr)
        return 2
    import torch

    from maerestore.train.pretrain import Pretrainer
    from maerestore.train.recipe import RecipeError, load_recipe

    recipe = load_recipe(args.recipe, args.set)
    if args.threads is not None and args.threads < 1:
        raise RecipeError(f"--threads must be at least 1, got {args.threads}")
    if args.out.exists() and not args.out.is_dir():
        raise RecipeError(f"{args.out}: is a file; a run is written to a folder")
    if args.threads:
        torch.set_num_threads(args.threads)
    workers = min(8, os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 0:
        raise RecipeError(f"--workers must not be negative, got {workers}")
    trainer = Pretrainer(recipe, args.data, args.out, cpu=args.cpu, init=args.init, workers=workers)
    figures = trainer.run()
    for name, value in figures.items():
        print(f"{name} {value:.4f}")
    return 128 + trainer.signal if trainer.signal else 0  # as shells count a program that a signal ended
