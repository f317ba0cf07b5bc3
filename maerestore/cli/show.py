"""Show what the model makes of a photo: original, masked, reconstruction and composite, side by side.

The photo is scaled to the size that the model was trained at. One row for each mask ratio and seed:

    maerestore show photo.jpg                                        writes photo_show.png
    maerestore show photo.jpg --mask-ratio 0.5 0.75 0.9 --seed 0 1 -o grid.png
    maerestore show photo.jpg --mask mask.png                        free-form holes instead of patches

A model that predicts normalised pixels is given the mean and contrast of each patch, as in the MAE authors' demo.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from maerestore.cli import pictures
from maerestore.cli.flags import MODEL, add_device
from maerestore.cli.values import ratio, seed

# As in maerestore.masking.patches, which loads torch.
_POLICIES = ("random", "block", "grid", "attention", "attention-keep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("photo", type=Path, help="the photo")
    parser.add_argument(
        "-o", "--out", type=Path, help="file or folder to write (default: PHOTO_show.png beside the photo)"
    )
    parser.add_argument(
        "--mask-ratio",
        type=ratio,
        nargs="+",
        metavar="R",
        help="share of the patches to hide, from 0 to 1; one row for each (default: 0.75)",
    )
    parser.add_argument(
        "--seed", type=seed, nargs="+", metavar="N", help="seed of the random mask; one row for each (default: 0)"
    )
    parser.add_argument(
        "--policy",
        choices=_POLICIES,
        help="which patches to hide: random (default), block, grid, those that the class token attends to most "
        "(attention), or all but those (attention-keep)",
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="hide what is white in this image, which has the photo's size"
    )
    parser.add_argument("--resize-mask", action="store_true", help="scale a mask of another size to the photo's size")
    parser.add_argument("--model", help=f"{MODEL} (default: the bundled model)")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="short side that the photo is scaled to (default: the model's)"
    )
    add_device(parser)
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Read, reconstruct, draw, write."""
    start = time.perf_counter()
    # Imported here, and torch only after the files were found good: bad input is answered at once.
    from maerestore.image import InputError, read_mask, read_photo, resolve_output

    given = [name for name in ("mask_ratio", "seed", "policy") if getattr(args, name) is not None]
    if args.mask is not None and given:
        raise InputError(f"--mask says itself what is hidden: leave out --{given[0].replace('_', '-')}")
    inputs = () if args.mask is None else (args.mask,)
    out = resolve_output(args.photo, pictures.target(args.photo, args.out, "show"), args.overwrite, inputs)
    pictures.check_format(out)
    photo = read_photo(args.photo)
    mask = None if args.mask is None else read_mask(args.mask, photo.size, resize=args.resize_mask, photo=photo)

    from maerestore.hub.fetch import resolve_model

    source = resolve_model(args.model)

    from maerestore.device import pick_device
    from maerestore.hub.load import load_autoencoder
    from maerestore.show import show_grid

    model = load_autoencoder(source, need_decoder=True).to(pick_device(args.device))
    grid = show_grid(
        model,
        photo.on_white(),
        mask_ratios=args.mask_ratio or (0.75,),
        seeds=args.seed or (0,),
        policy=args.policy or "random",
        mask=mask,
        size=args.size,
    )
    pictures.write(grid, out, args.overwrite, args.quiet, start)
    return 0
