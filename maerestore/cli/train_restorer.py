"""Train the refiner, which makes fills sharp, on an autoencoder; goes on where the run folder's checkpoint left off.

maerestore train-restorer scripts/recipes/restorer-cpu.yaml --data PHOTOS -o runs/restorer --model runs/small
accelerate launch -m maerestore train-restorer scripts/recipes/restorer-gpu.yaml --data PHOTOS -o runs/restorer

The run's model/ holds both networks. If the model named has a refiner of the recipe's sizes, that one is trained on.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from maerestore.cli.flags import MODEL
from maerestore.cli.training import add_training_arguments, train

if TYPE_CHECKING:
    from maerestore.train.restorer import RestorerTrainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_training_arguments(parser)
    parser.add_argument("--model", help=f"autoencoder to refine: {MODEL} (default: the bundled model)")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return train("train-restorer", args, _build)


def _build(args: argparse.Namespace, **settings: Any) -> RestorerTrainer:
    from maerestore.train.recipe_file import load_recipe
    from maerestore.train.restorer import RestorerTrainer
    from maerestore.train.restorer_recipe import RestorerRecipe

    recipe = load_recipe(args.recipe, args.set, RestorerRecipe)
    return RestorerTrainer(recipe, args.data, args.out, init=args.model, **settings)
