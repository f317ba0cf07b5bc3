"""Pretrain a masked autoencoder from a recipe; goes on where the run folder's checkpoint left off.

python scripts/prepare_data.py PHOTOS -o data/packed --size 160
maerestore pretrain scripts/recipes/small-cpu.yaml --data data/packed -o runs/small
accelerate launch -m maerestore pretrain scripts/recipes/default-gpu.yaml --data data/packed -o runs/default
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", type=Path, help="a YAML recipe")
    parser.add_argument("--data", type=Path, required=True, help="a folder made by scripts/prepare_data.py")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the run folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting of the recipe"
    )
    parser.add_argument(
        "--init", type=Path, help="start from the weights of a model folder, or of another run's checkpoint.pt"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--threads", type=int, help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Train until the recipe's samples were seen; SIGTERM and Ctrl-C save and stop."""
    try:
        import accelerate  # noqa: F401
        import yaml  # noqa: F401
    except ModuleNotFoundError as err:
        print(f"maerestore pretrain: {err.name} is missing: pip install 'maerestore[train]'", file=sys.stderr)
        return 2
    import torch

    from maerestore.train.pretrain import Pretrainer
    from maerestore.train.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.set)
    if args.threads:
        torch.set_num_threads(args.threads)
    figures = Pretrainer(recipe, args.data, args.out, cpu=args.cpu, init=args.init).run()
    for name, value in figures.items():
        print(f"{name} {value:.4f}")
    return 0
