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
from typing import TYPE_CHECKING, Any

from maerestore.cli.training import add_training_arguments, train

if TYPE_CHECKING:
    from maerestore.train.pretrain import Pretrainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_training_arguments(parser)
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from the weights of a model (bundled name, folder or org/name[@revision]) or of another run's "
        "checkpoint.pt; image_size may differ",
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return train("pretrain", args, _build)


def _build(args: argparse.Namespace, **settings: Any) -> Pretrainer:
    from maerestore.train.pretrain import Pretrainer
    from maerestore.train.recipe_file import load_recipe

    return Pretrainer(load_recipe(args.recipe, args.set), args.data, args.out, init=args.init, **settings)
