"""Measure inpainting models beside classical methods, on photographs with holes drawn from a seed.

    python scripts/bench_inpaint.py --photos PHOTOS --evalnets NETS --json result.json --sheet result.jpg
    python scripts/bench_inpaint.py --photos PHOTOS --model old=runs/a --model new=runs/b --limit 12 --no-peers

Every photo is cut to its centre square and resized; it gets one hole of each family. The hole depends on the seed, the
family and the photo's name only, so runs on part of the photos, families or methods can be compared with each other.
Exit code 2: something in the arguments or files has to be put right.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from benchlib.metrics import Lpips, measure
from benchlib.peers import PEERS, RADIUS, Method
from benchlib.photos import (
    BenchError,
    Entry,
    centre_square,
    file_digest,
    find_photos,
    mask_for,
    open_photo,
    set_digest,
    spread,
)
from benchlib.report import Record, compare, format_comparisons, format_table, summarise
from benchlib.sheet import Sheet
from tqdm import tqdm

from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import resolve_model
from maerestore.hub.save import WEIGHTS_NAME
from maerestore.inpaint.pipeline import Inpainter
from maerestore.masking import FAMILIES

DEFAULT_LABEL = "maerestore"
PACKAGES = ("maerestore", "numpy", "torch", "scipy", "scikit-image", "pillow", "lpips")


class KnownPixelsError(AssertionError):
    """A model gave back other known pixels than it was given."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path, metavar="FOLDER", help="photos, searched recursively")
    parser.add_argument("--evalnets", type=Path, metavar="FOLDER", help="nets.py and weights of LPIPS (squeeze)")
    parser.add_argument(
        "--model",
        action="append",
        metavar="[LABEL=]NAME",
        dest="models",
        help="bundled name, folder or org/name; repeatable (default: the bundled model)",
    )
    parser.add_argument("--smooth", action="store_true", help="measure each model without its texture stage, too")
    parser.add_argument("--device", default="auto", help="of the models: auto, cpu, cuda or mps (default auto)")
    parser.add_argument(
        "--families",
        nargs="+",
        default=list(FAMILIES),
        choices=list(FAMILIES),
        metavar="FAMILY",
        help=f"of holes: {', '.join(FAMILIES)} (default all)",
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[256], metavar="PX", help="of the photos (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the holes (default 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="take N photos, evenly spread over the folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-peers", action="store_true", help="models only")
    which.add_argument("--peers-only", action="store_true", help="no model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, per-photo values and means")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet (JPEG) of the first size")
    parser.add_argument("--sheet-photos", type=int, default=6, metavar="N", help="photos on the sheet (default 6)")
    args = parser.parse_args(argv)
    if min(args.sizes) < 16:
        parser.error("--sizes must be at least 16")
    if (args.limit is not None and args.limit < 1) or args.sheet_photos < 1:
        parser.error("--limit and --sheet-photos must be at least 1")
    if args.peers_only and args.models:
        parser.error("--peers-only leaves out the models given with --model")
    args.sizes, args.families = list(dict.fromkeys(args.sizes)), list(dict.fromkeys(args.families))
    return args


def load_models(
    names: list[str], device: str, smooth: bool = False
) -> tuple[dict[str, Method], dict[str, dict[str, str]]]:
    """Load models by "[LABEL=]NAME"; with `smooth` each once more as LABEL-smooth, without its texture stage.

    Returns:
        their fills by label, and what identifies each: its name, device and the digest of its weights.

    Raises:
        BenchError: two models, or a model and a peer, of one label.
        maerestore.hub.ModelError: a model that cannot be loaded.
    """
    methods: dict[str, Method] = {}
    facts: dict[str, dict[str, str]] = {}
    for text in names:
        label, equals, name = text.partition("=")
        if not equals or Path(text).is_dir():
            label, name = Path(text).name or text, text
        if label in methods or label in PEERS:
            raise BenchError(f"two methods are called {label!r}: give --model LABEL=NAME")
        folder = resolve_model(name)
        inpainter = Inpainter.from_pretrained(str(folder), device=device)
        fact = {
            "name": name,
            "device": str(inpainter.device),
            "weights_sha256": file_digest(folder / WEIGHTS_NAME),
        }
        methods[label], facts[label] = inpainter.inpaint, fact
        if smooth:
            methods[f"{label}-smooth"] = functools.partial(inpainter.inpaint, sharp=False)
            facts[f"{label}-smooth"] = fact
    return methods, facts


def check_known(fill: np.ndarray, photo: np.ndarray, mask: np.ndarray, what: str) -> None:
    """Refuse a fill that is not the photo outside the hole.

    Raises:
        KnownPixelsError: another shape, type or known pixel.
    """
    if fill.shape != photo.shape or fill.dtype != photo.dtype:
        raise KnownPixelsError(f"{what}: {fill.dtype} {fill.shape} came back for {photo.dtype} {photo.shape}")
    changed = int((fill != photo).any(-1)[~mask].sum())
    if changed:
        raise KnownPixelsError(f"{what}: {changed} known pixels came back changed")


def run(
    entries: list[Entry],
    args: argparse.Namespace,
    models: dict[str, Method],
    lpips: Lpips | None,
) -> tuple[list[Record], list[dict[str, Any]], Sheet]:
    """Fill every hole with every method.

    Returns:
        a record per fill, the facts of each photo, and the contact sheet's rows.
    """
    peers: dict[str, Method] = {} if args.no_peers else PEERS
    methods = {**peers, **models}
    on_sheet = {entry.name for entry in spread(entries, args.sheet_photos)} if args.sheet else set()
    sheet = Sheet(["photo", "masked", *methods])
    warm_up(methods)
    records: list[Record] = []
    facts: list[dict[str, Any]] = []
    total = len(entries) * len(args.sizes) * len(args.families) * len(methods)
    with tqdm(total=total, unit="fill", smoothing=0.1) as bar:
        for entry in entries:
            picture = open_photo(entry)
            facts.append(
                {
                    "name": entry.name,
                    "sha256": file_digest(entry.path),
                    "width": picture.width,
                    "height": picture.height,
                }
            )
            for size in args.sizes:
                photo = centre_square(picture, size)
                for family in args.families:
                    mask = mask_for(args.seed, family, entry.name, size)
                    # No method may see what it is to find.
                    holed = photo.copy()
                    holed[mask] = 127
                    fills = []
                    for label, method in methods.items():
                        start = time.perf_counter()
                        fill = method(holed, mask)
                        seconds = time.perf_counter() - start
                        if label in models:
                            check_known(fill, photo, mask, f"{label}, {entry.name}, {family}, {size} px")
                        fills.append(fill)
                        records.append(
                            {
                                "photo": entry.name,
                                "size": size,
                                "family": family,
                                "method": label,
                                "coverage": float(mask.mean()),
                                **measure(photo, fill, mask, lpips),
                                "seconds": seconds,
                            }
                        )
                        bar.update()
                    if entry.name in on_sheet and size == args.sizes[0]:
                        sheet.add(f"{entry.name}  {family}", photo, mask, fills)
    return records, facts, sheet


def warm_up(methods: dict[str, Method]) -> None:
    """Run each method once on a small picture: first calls load and compile things that are no part of a fill."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    for method in methods.values():
        method(picture, mask)


def versions() -> dict[str, str | None]:
    """What the figures depend on beside the settings."""
    found: dict[str, str | None] = {"python": platform.python_version(), "opencv": cv2.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = arguments(argv)
    try:
        for path in (args.json, args.sheet):
            if path is not None and not path.absolute().parent.is_dir():
                raise BenchError(f"no folder {path.absolute().parent} to write {path.name} in")
        in_folder = len(find_photos(args.photos))
        entries = find_photos(args.photos, args.limit)
        lpips = Lpips(args.evalnets) if args.evalnets else None
        if lpips is None:
            print("LPIPS is left out: give its networks with --evalnets")
        names = [] if args.peers_only else args.models or [f"{DEFAULT_LABEL}=default"]
        models, model_facts = load_models(names, args.device, args.smooth)
        records, photos, sheet = run(entries, args, models, lpips)
    except (BenchError, ModelError) as err:
        print(f"bench_inpaint: {err}", file=sys.stderr)
        return 2

    rows = summarise(records)
    peers = [] if args.no_peers else list(PEERS)
    comparisons = compare(records, list(models), peers)
    print(f"\n{format_table(rows)}\n")
    if comparisons:
        print(f"{format_comparisons(comparisons)}\n")
    for size in args.sizes:
        enlarged = sum(min(photo["width"], photo["height"]) < size for photo in photos)
        if enlarged:
            print(f"{enlarged} of {len(photos)} photos are smaller than {size} px and were enlarged")
    if models:
        print("known pixels: identical in every fill of every model")
    if args.sheet:
        sheet.save(args.sheet)
    if args.json:
        settings = {
            "seed": args.seed,
            "sizes": args.sizes,
            "families": args.families,
            "limit": args.limit,
            "peers": peers,
            "opencv_radius": RADIUS,
            "models": model_facts,
            "lpips": bool(lpips),
            "resize": "centre square, Lanczos",
            "torch_threads": torch.get_num_threads(),
            "opencv_threads": cv2.getNumThreads(),
            "machine": platform.platform(),
        }
        result = {
            "format": 1,
            "settings": settings,
            "versions": versions(),
            "photos_in_folder": in_folder,
            "photos_sha256": set_digest(photos),
            "photos": photos,
            "means": rows,
            "paired": comparisons,
            "values": records,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
