"""Compute feature vectors of images, in a table: for classification, search and duplicates.

    maerestore features photos -o photos.parquet               a row for each image: path, label, error, feature
    maerestore features photos -o photos.parquet               again: adds new and changed images, removes deleted ones
    maerestore features shards/*.tar -o shards.npy             an array, with the names of its rows in shards.npy.json
    maerestore features photos -o photos.parquet --engine ray  on all machines of a Ray cluster
    maerestore features s3://bucket/shards -o s3://bucket/features/ --engine ray     a folder of tables, one per shard

PATHS are images, folders (searched recursively, including tars in them), uncompressed tars, lists (.txt, one path on
each line), Parquet tables with a column of paths or of images, and URIs that pyarrow opens (s3://, gs://, hdfs://).
Labels come from the first folder below the source (photos/cats/a.jpg: cats), and in tars from a.cls for a.webp. The
same image has the same feature in every run, but for the rounding of the precision.

A run that is killed loses at most one batch, and the same command continues it. A table stores the weights and options
with which it was made, and refuses others. Images that cannot be read become rows with an error, and the exit code is
1. If none can be read, the exit code is 2 and the table is not written.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.cli.feature_flags import add_feature_flags, feature_options
from maerestore.cli.flags import add_encoder_flags, add_workers
from maerestore.cli.progress import Bar
from maerestore.cli.ray_flags import add_ray_flags, check_ray_flags, stdout_kept
from maerestore.wording import counted

if TYPE_CHECKING:
    from maerestore.features.run import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("paths", nargs="+", metavar="PATHS", help="images, folders, tars, lists, tables, or their URIs")
    parser.add_argument("-o", "--out", required=True, metavar="TABLE",
                        help="table to write: .parquet, .npy (with .npy.json beside it) or .safetensors; with --engine "
                        "ray also a folder of tables, written with a slash at its end")  # fmt: skip
    parser.add_argument("--float16", action="store_true", help="store features as float16: half the size")
    add_encoder_flags(parser, "features", "features")
    add_workers(parser)
    add_ray_flags(parser, "local")
    parser.add_argument("--retry", action="store_true", help="try images with an error again")
    parser.add_argument("--overwrite", action="store_true", help="start a new table, and replace the existing one")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_feature_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Write a table of features, or bring it up to date."""
    start = time.perf_counter()
    # Imported here, and torch only once a network is needed: bad input is answered at once.
    from maerestore.features.filesystems import is_uri, public_name
    from maerestore.features.loaders import ExtractorSettings
    from maerestore.features.remote import check_apart, find_sources
    from maerestore.features.table_files import is_folder, suffix_of
    from maerestore.image.errors import InputError, quoted

    options = feature_options(args)
    check_ray_flags(args)
    shards = is_folder(args.out)
    if is_uri(args.out) and not shards:
        raise InputError(
            f"output {quoted(public_name(args.out))} is a URI, and a single table is written on this machine: name a "
            "file, or a folder of tables (with a slash at its end and --engine ray)."
        )
    if shards and args.engine != "ray":
        raise InputError("-o with a slash at its end is a folder of tables, which --engine ray writes: name a table.")
    settings = ExtractorSettings(args.model, options, args.device, args.batch_size, args.whiten)
    told: set[str] = set()

    def failed(name: str, reason: str) -> None:
        told.add(name)
        print(f"maerestore features: no feature for {name}: {reason}", file=sys.stderr)

    chosen: dict[str, Any] = {
        "workers": args.workers,
        "half": args.float16,
        "overwrite": args.overwrite,
        "retry": args.retry,
        "some": True,
        "failed": failed,
    }
    cluster = {"address": args.ray_address, "ray_workers": args.ray_workers}
    with stdout_kept(args.engine), Bar(args.quiet) as bar:
        chosen["progress"] = functools.partial(bar, "shards" if shards else "images")
        if shards:
            from maerestore.features.shards import extract_shards

            report = extract_shards(args.paths, settings, args.out, **cluster, **chosen)
        else:
            suffix_of(Path(args.out))
            check_apart(args.paths, Path(args.out))
            items = find_sources(args.paths)
            if args.engine == "ray":
                from maerestore.features.distributed import extract_ray

                report = extract_ray(items, settings, Path(args.out), **cluster, **chosen)
            else:
                from maerestore.features.run import extract

                report = extract(items, settings, Path(args.out), **chosen)
    for name, reason in report.errors:
        if name not in told and not args.json:  # which lists all errors
            failed(name, f"{reason} (found in an earlier run; --retry tries it again)")
    seconds = time.perf_counter() - start
    if args.json:
        print(json.dumps(_told(args, report, seconds)))
    elif not args.quiet:
        there = f", {counted(report.kept, 'was', 'were')} there" if report.kept else ""
        gone = f", {report.dropped} removed" if report.dropped else ""
        have = "has" if len(report.errors) == 1 else "have"
        of = f"{len(report.errors)} of {counted(report.images, 'image')}"
        flawed = f"; {of} {have} an error" if report.errors else ""
        out = public_name(args.out)
        print(f"{out}: {counted(report.computed, 'image')} computed{there}{gone}{flawed}, in {seconds:.1f} s")
    return 1 if report.errors else 0


def _told(args: argparse.Namespace, report: Report, seconds: float) -> dict[str, Any]:
    from maerestore.features.filesystems import public_name

    return {
        "sources": [public_name(path) for path in args.paths],
        "output": public_name(args.out),
        "images": report.images,
        "computed": report.computed,
        "kept": report.kept,
        "dropped": report.dropped,
        "errors": [{"image": name, "reason": reason} for name, reason in report.errors],
        **report.facts,
        "engine": args.engine,
        "seconds": round(seconds, 3),
    }
