"""Convert a model to another layout: transformers' ViTMAE, or this package's own.

MODEL is what `--model` takes elsewhere: a folder or file of this package, Meta (.pth), transformers or timm, "default",
or org/name[@revision] on the Hub. The options that state a model's settings serve files that do not say them.

    maerestore export default vit-mae --format transformers --drop-mask-embed
    maerestore export mae_visualize_vit_base.pth mae-base --format maerestore
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("model", help="bundled name, folder, file of weights, or org/name[@revision]")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER", help="folder to write, made if it is not there")
    parser.add_argument("--format", required=True, choices=["transformers", "maerestore"], help="layout to write")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "float16", "bfloat16"],
        help="of the weights written (default float32)",
    )
    parser.add_argument(
        "--drop-mask-embed",
        action="store_true",
        help="transformers: leave out the weights for partly known patches, which it has no place for",
    )
    parser.add_argument("--num-heads", type=int, metavar="N", help="attention heads of the encoder")
    parser.add_argument("--decoder-num-heads", type=int, metavar="N", help="attention heads of the decoder")
    parser.add_argument("--image-size", type=int, metavar="N", help="side that a missing position table was made for")
    parser.add_argument(
        "--norm-pix-loss",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the model predicts pixels normalised by patch",
    )
    parser.add_argument("--mean", type=float, nargs="+", metavar="X", help="of the images, per channel in [0, 1]")
    parser.add_argument("--std", type=float, nargs="+", metavar="X", help="of the images, per channel in [0, 1]")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over the model in OUT_FOLDER")


def run(args: argparse.Namespace) -> int:
    """Load, convert, write."""
    from maerestore.hub.errors import ModelError
    from maerestore.hub.fetch import resolve_model
    from maerestore.hub.files import CONFIG_NAME, WEIGHTS_NAME

    if not args.overwrite and any((args.folder / name).exists() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        raise ModelError(f"{args.folder}: holds a model already; pass --overwrite to replace it")
    if args.drop_mask_embed and args.format != "transformers":
        raise ModelError("--drop-mask-embed is for --format transformers: this package's own layout keeps them")
    source = resolve_model(args.model)
    names = ("num_heads", "decoder_num_heads", "image_size", "norm_pix_loss", "mean", "std")
    settings: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}

    import torch

    from maerestore.hub.export import export_transformers
    from maerestore.hub.load import load_autoencoder, read_notes
    from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_refiner
    from maerestore.hub.save import save_autoencoder

    model = load_autoencoder(source, **settings)
    dtype: torch.dtype = getattr(torch, args.dtype)
    if args.format == "transformers":
        export_transformers(model, args.folder, dtype=dtype, drop_mask_embed=args.drop_mask_embed)
    else:
        notes, refiner, facts = read_notes(source), load_refiner(source), read_refiner_notes(source)
        save_autoencoder(model, args.folder, notes.get("training"), notes.get("fill"), dtype)
        if refiner is not None:
            save_refiner(refiner, args.folder, facts, dtype)
    kind = "an autoencoder" if model.config.has_decoder else "an encoder"
    print(f"{args.folder}: {kind} with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights, {args.format}")
    return 0
