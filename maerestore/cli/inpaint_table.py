"""`maerestore inpaint --table`: the photos of a table."""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

from maerestore.cli.progress import Bar
from maerestore.cli.ray_flags import add_ray_flags, check_ray_flags, stdout_kept
from maerestore.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only tables take."""
    group = parser.add_argument_group("many photos")
    group.add_argument("--table", metavar="FILE", help="a CSV, TSV or Parquet file with the columns photo, mask "
                       "and, optionally, output (a path in the folder that -o names); for PHOTO, MASK")  # fmt: skip
    add_ray_flags(group, None)


def run(args: argparse.Namespace) -> int:
    """Fill what is not filled yet."""
    start = time.perf_counter()
    # Imported here, and torch only once the table was found good: bad input is answered at once.
    from maerestore.inpaint.rows import read_pairs
    from maerestore.inpaint.table import FillSettings, fill_table

    _check(args)
    pairs = read_pairs(Path(args.table), args.out)
    settings = FillSettings(
        model=args.model,
        device=args.device,
        precision=args.precision,
        dilate=args.dilate,
        feather=args.feather,
        sharp=args.sharp == "auto",
        seed=args.seed,
        mask_white=args.mask_white,
        resize_mask=args.resize_mask,
    )
    engine = None
    if args.engine == "ray":
        from maerestore.inpaint.distributed import ray_engine

        engine = ray_engine(args.ray_address, args.ray_workers)
    with stdout_kept(args.engine), Bar(args.quiet) as bar:
        report = fill_table(
            pairs,
            settings,
            overwrite=args.overwrite,
            engine=engine,
            progress=functools.partial(bar, "photos"),
            failed=lambda pair, reason: bar.tell(f"maerestore inpaint: row {pair.row}: {reason}"),
            warned=None
            if args.quiet
            else lambda pair, warning: bar.tell(f"maerestore inpaint: row {pair.row}: warning: {warning}"),
        )
    seconds = time.perf_counter() - start
    if args.json:
        print(
            json.dumps(
                {
                    "table": args.table,
                    "output": str(args.out),
                    "rows": report.rows,
                    "written": report.written,
                    "present": report.present,
                    "errors": [{"row": row, "photo": photo, "reason": why} for row, photo, why in report.errors],
                    "warnings": [{"row": row, "photo": photo, "warning": of} for row, photo, of in report.warnings],
                    "engine": args.engine or "local",
                    "model": args.model or "default",
                    "seed": args.seed,
                    "seconds": round(seconds, 3),
                }
            )
        )
    elif not args.quiet:
        there = f", {counted(report.present, 'was', 'were')} there" if report.present else ""
        flawed = f"; {len(report.errors)} of {counted(report.rows, 'row')} could not be done" if report.errors else ""
        print(f"{args.out}: {counted(report.written, 'photo')} filled{there}{flawed}, in {seconds:.1f} s")
    return 1 if report.errors else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go with a table."""
    from maerestore.image import InputError
    from maerestore.image.errors import quoted

    if args.photo is not None:
        raise InputError("photo and mask stand in the table: leave them out with --table.")
    for option, without in (("samples", 1), ("confidence", None)):
        if getattr(args, option) != without:
            raise InputError(f"--{option} is for one photo: leave it out with --table.")
    check_ray_flags(args)
    if args.out is None:
        raise InputError("-o is missing: name the folder that the fills go to.")
    args.out = Path(args.out)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"-o {quoted(args.out)} is a file: name a folder.")
