"""Write augmented views of a folder's images once, for training loops too slow to make them on the fly.

    maerestore augment photos -n 4 -o views               photos/cats/a.jpg: views/cats/a_1.jpg to a_4.jpg
    maerestore augment photos -n 8 -o views               the same four, and four more
    maerestore augment photo.jpg --grid -o grid.jpg       what the strategies do at several mask ratios, in one picture

Part of an image is hidden and rebuilt by a small masked autoencoder; the rest stays as it is, but for the losses of
JPEG (--format png has none). A view keeps the image's size, mode and metadata, and depends on --seed, the image's path
in the folder and the view's number only. Views that are there are kept: the same command goes on where it was cut off.
Images that cannot be read are skipped and named; the exit code is 1 then, and 2 where nothing could be done.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.augment.settings import STRATEGIES
from maerestore.cli import pictures
from maerestore.cli.flags import MODEL, add_device, add_precision
from maerestore.cli.progress import Bar
from maerestore.cli.values import count, ratio, seed
from maerestore.wording import counted

if TYPE_CHECKING:
    from maerestore.augment.settings import ViewSettings

_FORMATS = ("source", "png")  # as in maerestore.augment.sources, which loads NumPy
_FOLDER_ONLY = {
    "number": "-n",
    "format": "--format",
    "quality": "--quality",
    "batch_size": "--batch-size",
    "json": "--json",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "source", type=Path, metavar="FOLDER", help="folder of images, with subfolders; with --grid a photo"
    )
    parser.add_argument("-o", "--out", type=Path, help="folder for the views; with --grid the picture to write "
                        "(default: PHOTO_views.png beside the photo)")  # fmt: skip
    parser.add_argument("-n", dest="number", type=count, metavar="N", help="views per image (default: 4)")
    parser.add_argument(
        "--grid", action="store_true", help="draw views of one photo: a row per strategy, a column per ratio"
    )
    parser.add_argument(
        "--mask-ratio",
        type=ratio,
        nargs="+",
        metavar="R",
        help="share of the patches to hide, from 0 to 1: a number or a range (default: 0.4 0.75); with --grid one "
        "column each (default: 0.25 0.5 0.75)",
    )
    parser.add_argument(
        "--strategy",
        nargs="+",
        choices=STRATEGIES,
        metavar="NAME",
        help="which patches to hide: random (default), block, grid, those that the class token attends to most "
        "(attention), or all but those (attention-keep); with --grid one row each (default: all)",
    )
    parser.add_argument("--blend", type=ratio, default=1.0, metavar="B",
                        help="weight of the reconstruction in hidden patches (default: 1)")  # fmt: skip
    parser.add_argument(
        "--size", type=count, metavar="PX", help="side length at which the model sees images (default: the model's own)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the random masks (default: 0)")
    parser.add_argument("--format", choices=_FORMATS,
                        help="format of the views: the image's (source, default; JPEG is lossy), or png")  # fmt: skip
    parser.add_argument("--quality", type=count, metavar="Q",
                        help="1 to 100, of JPEG (default: the image's) and WebP (default: lossless)")  # fmt: skip
    parser.add_argument("--batch-size", type=count, metavar="N", help="views per forward pass (default: 32)")
    parser.add_argument("--model", default="augment", help=f"{MODEL} (default: augment)")
    add_device(parser)
    add_precision(parser)
    parser.add_argument("--overwrite", action="store_true", help="with --grid: allow writing over an existing file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the views of a folder, or the picture of a photo's."""
    return _run_grid(args) if args.grid else _run_folder(args)


def _run_folder(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    # Imported here, and torch only after the folders were found good: bad input is answered at once.
    from maerestore.augment.cache import write_views
    from maerestore.augment.sources import plan_views

    settings = _settings_of_folder(args)
    number, file_format = args.number or 4, args.format or "source"
    plan_views(args.source, args.out, number, file_format)

    from maerestore.device import pick_device

    def skip(name: str, reason: str) -> None:
        print(f"maerestore augment: skipped: {reason}", file=sys.stderr)

    device = str(pick_device(args.device))
    with Bar(args.quiet) as bar:
        report = write_views(
            args.source,
            args.out,
            n=number,
            settings=settings,
            seed=args.seed,
            file_format=file_format,
            batch_size=args.batch_size or 32,
            device=device,
            precision=args.precision,
            quality=args.quality,
            progress=functools.partial(bar, "images"),
            skip=skip,
        )
    seconds = time.perf_counter() - start
    if args.json:
        done: dict[str, Any] = {
            "folder": str(args.source),
            "output": str(args.out),
            "images": report.images,
            "views_each": number,
            "written": report.written,
            "present": report.present,
            "skipped": [{"image": name, "reason": reason} for name, reason in report.skipped],
            "settings": settings.to_dict(),
            "seed": args.seed,
            "format": file_format,
            "quality": args.quality,
            "device": device,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(done))
    elif not args.quiet:
        there = f", {counted(report.present, 'was', 'were')} there" if report.present else ""
        left = f", {len(report.skipped)} of {counted(report.images, 'image')} skipped" if report.skipped else ""
        print(f"{args.out}: {counted(report.written, 'view')} written{there}{left} in {seconds:.1f} s")
    if report.skipped and not report.written + report.present:
        return 2
    return 1 if report.skipped else 0


def _settings_of_folder(args: argparse.Namespace) -> ViewSettings:
    """The settings of a folder's views; refuses what is for one photo, or missing."""
    from maerestore.augment.settings import ViewSettings
    from maerestore.image import InputError
    from maerestore.image.errors import quoted

    if args.source.is_file():
        raise InputError(f"{quoted(args.source)} is a file: give a folder, or add --grid for a picture of its views.")
    if args.out is None:
        raise InputError("-o is missing: name the folder that the views go to.")
    if args.overwrite:
        raise InputError(
            "--overwrite goes with --grid: views that are there are kept; choose another folder for others."
        )
    for option in ("mask_ratio", "strategy"):
        most = 2 if option == "mask_ratio" else 1
        if len(getattr(args, option) or ()) > most:
            raise InputError(f"--{option.replace('_', '-')} takes at most {most} without --grid.")
    ratio = args.mask_ratio or (0.4, 0.75)
    return ViewSettings(
        mask_ratio=ratio[0] if len(ratio) == 1 else tuple(ratio),
        strategy=(args.strategy or ["random"])[0],
        blend=args.blend,
        model=args.model,
        size=args.size,
    )


def _run_grid(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    from maerestore.augment.settings import ViewSettings
    from maerestore.image import InputError, read_photo, resolve_output

    for name, option in _FOLDER_ONLY.items():
        if getattr(args, name):
            raise InputError(f"{option} is for a folder's views: leave it out with --grid.")
    out = resolve_output(args.source, pictures.target(args.source, args.out, "views"), args.overwrite)
    pictures.check_format(out)
    photo = read_photo(args.source)
    settings = ViewSettings(blend=args.blend, model=args.model, size=args.size)

    from maerestore.augment.grid import RATIOS, view_grid
    from maerestore.device import pick_device

    grid = view_grid(
        photo.on_white(),
        settings,
        tuple(dict.fromkeys(args.strategy or STRATEGIES)),
        tuple(dict.fromkeys(args.mask_ratio or RATIOS)),
        args.seed,
        pick_device(args.device),
        args.precision,
    )
    pictures.write(grid, out, args.overwrite, args.quiet, start)
    return 0
