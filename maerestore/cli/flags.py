"""Options that several verbs declare, so that each reads the same everywhere."""

from __future__ import annotations

import argparse

from maerestore.cli.values import count

MODEL = "bundled name, folder, file, or org/name[@revision] on the Hub"
ENCODER = f"{MODEL}, or timm:NAME"
PRECISION = "number format of the network (default: auto, which is bf16 where the hardware supports it)"


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda", "mps"],
        help="device to compute on (default: auto, a GPU if there is one)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help=PRECISION)


def add_encoder_flags(parser: argparse.ArgumentParser, default: str | None, default_text: str) -> None:
    """--model, --whiten, --device and --batch-size, of verbs that make features.

    Args:
        parser: of the verb.
        default: of --model.
        default_text: the same, as the help says it.
    """
    parser.add_argument("--model", default=default, help=f"{ENCODER} (default: {default_text})")
    parser.add_argument("--whiten", metavar="FILE", help="apply the whitening in this file to the features")
    add_device(parser)
    parser.add_argument(
        "--batch-size", type=count, default=32, metavar="N", help="images per forward pass (default: 32)"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """--workers, of verbs that decode images."""
    parser.add_argument("--workers", type=count, metavar="N", help="threads that decode images (default: one per core)")
