"""Fill the masked part of a photo; every other pixel stays as it is.

The mask is white (at least 128) where the photo is to be filled. The result keeps the photo's size, format, bit depth,
colour profile and metadata.

    maerestore inpaint photo.jpg mask.png                  writes photo_filled.jpg
    maerestore inpaint photo.png mask.png -o out.png --dilate 3
    maerestore inpaint photo.png mask.png --samples 3      writes photo_filled_1.png (the best-ranked) to _3
    maerestore inpaint photo.png mask.png --confidence sure.png
    maerestore inpaint --table pairs.csv -o filled         the photo and mask of each row, to filled/PHOTO; existing
                                                           fills are kept, whatever the options (--overwrite)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.cli import inpaint_table
from maerestore.cli.flags import MODEL, add_device, add_precision
from maerestore.cli.progress import Bar
from maerestore.cli.values import seed, whole
from maerestore.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from maerestore.image import Photo
    from maerestore.inpaint.pipeline import Inpainter
    from maerestore.inpaint.stages import FillReport

MOST_SAMPLES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("photo", type=Path, nargs="?", help="the photo")
    parser.add_argument("mask", type=Path, nargs="?", help="the mask: any image of the photo's size")
    # Not as a path, which would lose the slash that says it is a folder.
    parser.add_argument("-o", "--out", help="file or folder to write (default: PHOTO_filled beside the photo)")
    parser.add_argument("--model", help=f"{MODEL} (default: the bundled model)")
    add_device(parser)
    parser.add_argument("--dilate", type=whole, default=0, metavar="N", help="grow the mask by N pixels")
    parser.add_argument(
        "--feather",
        type=whole,
        default=0,
        metavar="N",
        help="blend the fill into its surroundings over the first N pixels inside the hole",
    )
    parser.add_argument(
        "--mask-white",
        default="hole",
        choices=["hole", "keep"],
        help="whether white in the mask is the hole (default) or what to keep",
    )
    parser.add_argument("--resize-mask", action="store_true", help="scale a mask of another size to the photo's size")
    parser.add_argument(
        "--sharp",
        default="auto",
        choices=["auto", "off"],
        help="give the fill the texture of the surroundings (auto), or leave it smooth (off)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the random search for texture (default: 0)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="write N different fills, named _1 (the best-ranked) to _N",
    )
    parser.add_argument(
        "--confidence",
        type=Path,
        metavar="FILE",
        help="also write a gray map of how sure the fill is: white = sure, or known",
    )
    add_precision(parser)
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print what was done as JSON, with the seconds of each stage (refine includes the autoencoder)",
    )
    inpaint_table.add_arguments(parser)
    parser.set_defaults(
        refuse=parser.error, surplus="one photo and its mask are given; many stand in a table: --table FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Read, fill, write."""
    if args.table is not None:
        return inpaint_table.run(args)
    mark = time.perf_counter()
    # Imported here, and torch only after the files were found good: bad input is answered at once.
    from maerestore.image import write_photo

    outs = _outputs(args)
    photo, mask = _read(args, outs[0])
    seconds = {"read": time.perf_counter() - mark}

    mark = time.perf_counter()
    from maerestore.inpaint.pipeline import Inpainter

    inpainter = Inpainter.from_pretrained(args.model, device=args.device, precision=args.precision)
    seconds["load"] = time.perf_counter() - mark
    filled, sure, report = _fill(args, inpainter, photo, mask)
    seconds |= report.seconds

    mark = time.perf_counter()
    for picture, path in zip(filled, outs, strict=True):
        write_photo(picture, path, args.overwrite)
    if sure is not None:
        write_photo(_as_gray(sure), args.confidence, args.overwrite)
    seconds["write"] = time.perf_counter() - mark
    if args.json:
        print(
            json.dumps(
                {
                    "photo": str(args.photo),
                    "mask": str(args.mask),
                    "output": str(outs[0]),
                    "outputs": [str(path) for path in outs],
                    "confidence": None if args.confidence is None else str(args.confidence),
                    "size": list(photo.size),
                    "mode": photo.mode,
                    "holes": report.holes,
                    "pixels_filled": report.pixels,
                    "windows": report.windows,
                    "device": str(inpainter.device),
                    "model": args.model or "default",
                    "seed": args.seed,
                    "precision": "bf16" if inpainter.bf16 else "fp32",
                    "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
                }
            )
        )
    elif not args.quiet:
        holes, pixels = counted(report.holes, "hole"), counted(report.pixels, "pixel")
        written = str(outs[0]) if len(outs) == 1 else f"{outs[0]} to {outs[-1].name}"
        print(f"{written}: {holes} filled ({pixels}) in {sum(seconds.values()):.1f} s")
    return 0


def _read(args: argparse.Namespace, out: Path) -> tuple[Photo, np.ndarray]:
    """The photo and its mask, once it is known that what will be written can be."""
    import numpy as np

    from maerestore.image import check_writable
    from maerestore.inpaint.pair import grown_mask, read_pair, warn_of_losses

    photo, mask = read_pair(args.photo, args.mask, args.mask_white, args.resize_mask)
    mask = grown_mask(photo, mask, out, args.dilate)
    if args.confidence is not None:
        check_writable(_as_gray(np.broadcast_to(np.float32(0), mask.shape)), args.confidence)
    warn_of_losses(photo, out)
    return photo, mask


def _fill(
    args: argparse.Namespace, inpainter: Inpainter, photo: Photo, mask: np.ndarray
) -> tuple[Iterable[Photo], np.ndarray | None, FillReport]:
    """The fills, of which one after the other is made, the confidence map if it is asked for, and what was done."""
    options: dict[str, Any] = {"feather": args.feather, "sharp": args.sharp == "auto", "seed": args.seed}
    sure = None
    with Bar(args.quiet) as bar:
        if args.samples == 1:
            one, report = inpainter.fill(photo, mask, **options, progress=bar)
            filled: Iterable[Photo] = [one]
        else:
            filled, report = inpainter.fill_samples(photo, mask, args.samples, **options, progress=bar)
        if args.confidence is not None:
            sure, asked = inpainter.confidence_of(photo, mask, seed=args.seed, progress=bar)
            report.seconds["confidence"] = sum(asked.seconds.values())
    return filled, sure, report


def _outputs(args: argparse.Namespace) -> list[Path]:
    """Where the fills go, checked, together with the place of the confidence map, before any work is done."""
    from maerestore.image import InputError, resolve_output
    from maerestore.image.errors import quoted, refuse_url
    from maerestore.image.opening import check_file
    from maerestore.image.output import same_file

    if args.photo is None or args.mask is None:
        args.refuse("give a photo and its mask, or --table with the names of many")
    refuse_url(args.photo)  # before its place is looked at, for the fill
    if args.photo.is_dir():
        raise InputError(f"{quoted(args.photo)} is a folder: give one photo, or --table with the names of many.")
    for option in ("engine", "ray_address", "ray_workers"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} goes with --table.")
    if not 1 <= args.samples <= MOST_SAMPLES:
        raise InputError(f"--samples must be from 1 to {MOST_SAMPLES}, got {args.samples}")
    for path in (args.photo, args.mask):  # at first: that an output exists is no matter where nothing can be filled
        check_file(path)
    inputs = (args.mask,)
    if args.samples == 1:
        outs = [resolve_output(args.photo, args.out, args.overwrite, inputs)]
    else:
        # The name itself is not written to: only its numbered kin must be free.
        name = resolve_output(args.photo, args.out, overwrite=True)
        width = len(str(args.samples))
        numbered = [name.with_name(f"{name.stem}_{k:0{width}d}{name.suffix}") for k in range(1, args.samples + 1)]
        outs = [resolve_output(args.photo, path, args.overwrite, inputs) for path in numbered]
    if args.confidence is not None:
        if args.confidence.is_dir():
            raise InputError(f"--confidence {quoted(args.confidence)} is a folder: give a file name in it.")
        if same_file(args.confidence, args.photo):
            raise InputError(f"--confidence {quoted(args.confidence)} is the photo: choose another file.")
        resolve_output(args.photo, args.confidence, args.overwrite, inputs)
        if args.confidence.resolve() in [path.resolve() for path in outs]:
            raise InputError(f"--confidence {quoted(args.confidence)} is where the fill goes: choose another file.")
    return outs


def _as_gray(sure: np.ndarray) -> Photo:
    """A map in [0, 1] as an 8-bit gray image."""
    import numpy as np

    from maerestore.image import Photo

    return Photo(np.rint(sure * 255).astype(np.uint8), mode="L")
