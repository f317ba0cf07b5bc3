"""Fill the masked part of a photo; every other pixel stays as it is.

The mask is white (at least 128) where the photo is to be filled. The result keeps the photo's size, format, bit depth,
colour profile and metadata.

    maerestore inpaint photo.jpg mask.png                  writes photo_filled.jpg
    maerestore inpaint photo.png mask.png -o out.png --dilate 3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("photo", type=Path, help="the photo")
    parser.add_argument("mask", type=Path, help="the mask: any image of the photo's size")
    parser.add_argument(
        "-o", "--out", type=Path, help="file or folder to write (default: PHOTO_filled beside the photo)"
    )
    parser.add_argument(
        "--model", help="bundled name, folder, file, or org/name[@revision] (default: the bundled model)"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--dilate", type=int, default=0, metavar="N", help="grow the mask by N pixels")
    parser.add_argument(
        "--feather",
        type=int,
        default=0,
        metavar="N",
        help="ramp from the surroundings to the fill over N pixels inside the hole",
    )
    parser.add_argument("--mask-white", default="hole", choices=["hole", "keep"], help="what white in the mask means")
    parser.add_argument("--resize-mask", action="store_true", help="scale a mask of another size to the photo's")
    parser.add_argument(
        "--sharp",
        default="auto",
        choices=["auto", "off"],
        help="give the fill the texture of the surroundings (auto), or leave it smooth (off)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the texture's random search (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Read, fill, write."""
    start = time.perf_counter()
    # Imported here, and torch only after the files were found good: bad input is answered at once.
    from maerestore.image import (
        InputError,
        mask_is_empty,
        mask_is_full,
        read_mask,
        read_photo,
        resolve_output,
        write_photo,
    )
    from maerestore.image.errors import quoted

    out = resolve_output(args.photo, args.out, args.overwrite, inputs=(args.mask,))
    photo = read_photo(args.photo)
    mask = read_mask(args.mask, photo.size, white=args.mask_white, resize=args.resize_mask)
    other = "keep" if args.mask_white == "hole" else "hole"
    if mask_is_empty(mask):
        marks = "light (128 or more)" if other == "keep" else "dark (below 128)"
        raise InputError(
            f"{quoted(args.mask)}: nothing to fill, no pixel of the mask is {marks}; "
            f"if it marks what to keep, pass --mask-white {other}"
        )
    if mask_is_full(mask):
        raise InputError(
            f"{quoted(args.mask)}: the mask covers the whole photo; if it marks what to keep, pass --mask-white {other}"
        )
    seconds = {"read": time.perf_counter() - start}

    mark = time.perf_counter()
    from maerestore.inpaint.pipeline import Inpainter

    inpainter = Inpainter.from_pretrained(args.model, device=args.device)
    seconds["load"] = time.perf_counter() - mark
    with _Bar(hidden=args.quiet or not sys.stderr.isatty()) as bar:
        filled, report = inpainter.fill(
            photo, mask, args.dilate, args.feather, sharp=args.sharp == "auto", seed=args.seed, progress=bar
        )
    mark = time.perf_counter()
    write_photo(filled, out, args.overwrite)
    seconds |= report.seconds | {"write": time.perf_counter() - mark}
    if args.json:
        print(
            json.dumps(
                {
                    "photo": str(args.photo),
                    "mask": str(args.mask),
                    "output": str(out),
                    "size": list(photo.size),
                    "mode": photo.mode,
                    "holes": report.holes,
                    "pixels_filled": report.pixels,
                    "windows": report.windows,
                    "device": str(inpainter.device),
                    "model": args.model or "default",
                    "seed": args.seed,
                    "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
                }
            )
        )
    elif not args.quiet:
        holes = "1 hole" if report.holes == 1 else f"{report.holes} holes"
        print(f"{out}: {holes} filled ({report.pixels} pixels) in {sum(seconds.values()):.1f} s")
    return 0


class _Bar:
    """A progress bar that appears once the work has taken a second."""

    def __init__(self, hidden: bool) -> None:
        from tqdm import tqdm

        self.tqdm, self.hidden = tqdm, hidden
        self.bar: tqdm | None = None
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.__exit__()
            self.stage = stage
            self.bar = self.tqdm(total=total, desc=stage, delay=1, leave=False, disable=self.hidden, file=sys.stderr)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
