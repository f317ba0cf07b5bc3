"""The options that decide what a feature is, for all verbs that make features."""

from __future__ import annotations

import argparse
from typing import Any

from maerestore.cli.flags import PRECISION
from maerestore.cli.values import count
from maerestore.features.options import POOLINGS, PRECISIONS, FeatureOptions

_NAMES = ("pooling", "layers", "scales", "size", "no_normalize", "precision")


def add_feature_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them; none has a default here, so that a verb can tell which were given."""
    group = parser.add_argument_group("features")
    group.add_argument("--pooling", type=_pooling, choices=[name for name in POOLINGS if name != "patch"],
                       help="how the patches of an image become one vector (default: mean)")  # fmt: skip
    group.add_argument("--layers", type=int, nargs="+", metavar="L",
                       help="blocks whose output is used: 0 is the first, -1 the last (default: -1)")  # fmt: skip
    group.add_argument("--scales", type=float, nargs="+", metavar="S",
                       help="scales at which an image is seen, as multiples of --size (default: 1)")  # fmt: skip
    group.add_argument("--size", type=count, metavar="PX",
                       help="images are scaled to the area of a square of this side (default: the "
                       "model's own)")  # fmt: skip
    group.add_argument("--no-normalize", action="store_true", default=None, help="do not scale features to length 1")
    group.add_argument("--precision", choices=PRECISIONS, help=PRECISION)


def feature_flags(args: argparse.Namespace) -> list[str]:
    """The flags that were given, as they are typed."""
    return [f"--{name.replace('_', '-')}" for name in _NAMES if getattr(args, name) is not None]


def feature_options(args: argparse.Namespace) -> FeatureOptions:
    """The options: those given, and the defaults."""
    given: dict[str, Any] = {name: getattr(args, name) for name in _NAMES if getattr(args, name) is not None}
    if given.pop("no_normalize", False):
        given["normalize"] = False
    return FeatureOptions(**given)


def _pooling(text: str) -> str:
    if text == "patch":
        raise argparse.ArgumentTypeError("patch gives a grid for each image, which fits no table: use it from Python")
    return text
