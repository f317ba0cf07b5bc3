"""Convert a model to another layout: transformers' ViTMAE, this package's own, or the whole fill as an ONNX file.

MODEL is what `--model` takes elsewhere: a folder or file of this package, Meta (.pth), transformers or timm, "default",
or org/name[@revision] on the Hub. The options that state a model's settings serve files that do not say them.

    maerestore export default vit-mae --format transformers --drop-mask-embed
    maerestore export mae_visualize_vit_base.pth mae-base --format maerestore
    maerestore export runs/tuned encoder --format maerestore --encoder-only --dtype float16
    maerestore export default fill.onnx --format onnx

The ONNX file takes `image` (1, 3, H, W) uint8 RGB and `mask` (1, 1, H, W) uint8, not 0 = hole, of any size, and gives
`filled` (1, 3, H, W) uint8. It fills one window around all holes, by the autoencoder and the refiner; the texture from
the photo's known patches, which `maerestore inpaint` adds, is not in it.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from maerestore.cli.flags import MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("model", help=MODEL)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, created if needed; onnx: a file")
    parser.add_argument(
        "--format", required=True, choices=["transformers", "maerestore", "onnx"], help="layout to write"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "float16", "bfloat16"],
        help="number format of the weights (default: float32; onnx: float32 only)",
    )
    parser.add_argument(
        "--side",
        type=int,
        metavar="N",
        help="onnx: side of the square window that is filled, in pixels, a multiple of the model's image size "
        "(default: 512, or the next such multiple)",
    )
    parser.add_argument(
        "--drop-mask-embed",
        action="store_true",
        help="transformers: drop the weights for partly known patches, which that layout cannot hold",
    )
    parser.add_argument("--encoder-only", action="store_true",
                        help="leave out decoder and refiner: enough for features, at half the size")  # fmt: skip
    parser.add_argument("--num-heads", type=int, metavar="N", help="attention heads of the encoder")
    parser.add_argument("--decoder-num-heads", type=int, metavar="N", help="attention heads of the decoder")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="image size of the position table, where the file has none"
    )
    parser.add_argument(
        "--norm-pix-loss",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the model predicts pixels normalised by patch",
    )
    parser.add_argument(
        "--mean", type=float, nargs="+", metavar="X", help="mean of the training images per channel, in [0, 1]"
    )
    parser.add_argument("--std", type=float, nargs="+", metavar="X", help="standard deviation per channel, in [0, 1]")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing model or file")


def run(args: argparse.Namespace) -> int:
    """Load, convert, write."""
    return _write_onnx(args) if args.format == "onnx" else _write_model(args)


def _write_model(args: argparse.Namespace) -> int:
    from maerestore.hub.errors import ModelError
    from maerestore.hub.fetch import resolve_model
    from maerestore.hub.files import CONFIG_NAME, HEAD_NAME, PREPROCESSOR_NAME, REFINER_NAME, WEIGHTS_NAME

    if args.side is not None:
        raise ModelError("--side is for --format onnx")
    if (args.out / HEAD_NAME).exists():
        raise ModelError(f"{args.out}: holds a classifier, whose config would be lost: give another folder")
    if not args.overwrite and any((args.out / name).exists() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        raise ModelError(f"{args.out}: holds a model already; pass --overwrite to replace it")
    if args.drop_mask_embed and args.format != "transformers":
        raise ModelError("--drop-mask-embed is for --format transformers: this package's own layout keeps them")
    source = resolve_model(args.model)
    names = ("num_heads", "decoder_num_heads", "image_size", "norm_pix_loss", "mean", "std")
    settings: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}

    import torch

    from maerestore.hub.config import read_notes
    from maerestore.hub.export import encoder_of, export_transformers
    from maerestore.hub.load import load_autoencoder
    from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_networks

    model = load_autoencoder(source, **settings)
    model = encoder_of(model) if args.encoder_only else model
    dtype: torch.dtype = getattr(torch, args.dtype)
    refiner = None
    if args.format == "transformers":
        export_transformers(model, args.out, dtype=dtype, drop_mask_embed=args.drop_mask_embed)
    else:
        notes = read_notes(source)
        refiner, facts = (None, None) if args.encoder_only else (load_refiner(source), read_refiner_notes(source))
        save_networks(
            model,
            args.out,
            refiner=refiner,
            fill=None if args.encoder_only else notes.get("fill"),
            training=notes.get("training"),
            refiner_training=facts,
            dtype=dtype,
        )
    if args.overwrite:
        _tidy(args.out, {PREPROCESSOR_NAME} if args.format == "transformers" else {REFINER_NAME} if refiner else set())
    kind = "an autoencoder" if model.config.has_decoder else "an encoder"
    print(f"{args.out}: {kind} with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights, {args.format}")
    return 0


def _tidy(folder: Path, written: set[str]) -> None:
    """Remove what is left of a model that was there before, and would go along with this one."""
    from maerestore.errors import MaerestoreWarning
    from maerestore.hub.errors import ModelError
    from maerestore.hub.files import CARD_NAME, PREPROCESSOR_NAME, REFINER_NAME

    try:
        for name in {PREPROCESSOR_NAME, REFINER_NAME} - written:
            (folder / name).unlink(missing_ok=True)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err
    if (folder / CARD_NAME).exists():
        message = f"{folder / CARD_NAME} is kept: see that it tells of the new model"
        warnings.warn(message, MaerestoreWarning, stacklevel=2)


def _write_onnx(args: argparse.Namespace) -> int:
    from maerestore.hub.errors import ModelError
    from maerestore.image.output import check_target

    stated = ("num_heads", "decoder_num_heads", "image_size", "norm_pix_loss", "mean", "std")
    given = [name for name in stated if getattr(args, name) is not None]
    given += ["dtype"] if args.dtype != "float32" else []
    given += [name for name in ("drop_mask_embed", "encoder_only") if getattr(args, name)]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise ModelError(f"{option} is not for --format onnx: export to --format maerestore first, then that to onnx")

    from maerestore.inpaint.onnx_file import export_onnx, require_packages

    require_packages()
    check_target(args.out, args.overwrite)

    from maerestore.inpaint.pipeline import Inpainter

    inpainter = Inpainter.from_pretrained(args.model, device="cpu", precision="fp32")
    size = export_onnx(inpainter, args.out, args.side, args.overwrite)
    print(f"{args.out}: the fill as ONNX, {size / 1e6:.0f} MB, checked under onnxruntime")
    return 0
