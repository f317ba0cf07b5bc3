"""Measure inpainting models beside classical methods, on photographs with holes drawn from a seed.

    python scripts/bench_inpaint.py --photos PHOTOS --evalnets NETS --json result.json --sheet result.jpg
    python scripts/bench_inpaint.py --photos PHOTOS --model old=runs/a --model new=runs/b --limit 12 --no-peers

Every photo is cut to its centre square and resized; it gets one hole of each family. The hole depends on the seed, the
family and the photo's name only, so runs on part of the photos, families or methods can be compared with each other.

The strongest classical peers, FSR and shift-map, are in opencv-contrib, which needs an environment of its own:

    python -m venv xphoto && xphoto/bin/pip install opencv-contrib-python-headless
    python scripts/bench_inpaint.py --photos PHOTOS --evalnets NETS --xphoto xphoto/bin/python --peers-only \\
        --json p.json
    python scripts/bench_inpaint.py --photos PHOTOS --evalnets NETS --reuse p.json --model runs/a --json a.json

The last line takes the peers' values from p.json. A run that was cut off goes on with `--reuse` of its own file.
Exit code 2: something in the arguments or files has to be put right.
"""

from __future__ import annotations

import argparse
import functools
import platform
import sys
from pathlib import Path
from typing import Any

import cv2
import torch
from benchlib.frechet import CROP, Embedder
from benchlib.metrics import Lpips
from benchlib.models import load_models, load_onnx
from benchlib.peers import PEERS, RADIUS, Method
from benchlib.photos import BenchError, centre_square, find_photos, open_photo, set_digest
from benchlib.plot import plot
from benchlib.report import compare, format_comparisons, format_frechet, format_table, summarise
from benchlib.results import check_targets, versions, write_json
from benchlib.reuse import FORMAT, Earlier, crops_path, read_earlier, write_crops
from benchlib.runner import Outcome, Plan, frechet_rows, run
from benchlib.speed import SIZE, format_speed, measure_speed
from benchlib.xphoto import XphotoWorker, xphoto_peers

from maerestore.hub.errors import ModelError
from maerestore.masking import FAMILIES

DEFAULT_LABEL = "maerestore"
PACKAGES = ("maerestore", "numpy", "torch", "scipy", "scikit-image", "pillow", "lpips", "onnxruntime")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path, metavar="FOLDER", help="photos, searched recursively")
    parser.add_argument(
        "--evalnets", type=Path, metavar="FOLDER", help="nets.py and weights of LPIPS (squeeze) and MobileNetV2"
    )
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
        "--xphoto",
        type=Path,
        metavar="PYTHON",
        help="interpreter of an environment with opencv-contrib-python-headless: adds FSR and shift-map",
    )
    parser.add_argument(
        "--onnx",
        action="append",
        default=[],
        metavar="NAME=FILE[,OPTION=VALUE]...",
        help="any network that fills, picture and mask in; repeatable. Options: hole=1|0 (the mask in the hole), "
        "range=, out=unit|signed|byte, erase=yes|no; what graphs may look like is told in benchlib/onnx_peer.py",
    )
    parser.add_argument(
        "--families",
        nargs="+",
        default=list(FAMILIES),
        choices=list(FAMILIES),
        metavar="FAMILY",
        help=f"of holes: {', '.join(FAMILIES)} (default all)",
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[256], metavar="PX", help="of the photos (default 256)")
    parser.add_argument(
        "--enlarge",
        type=float,
        default=2.0,
        metavar="FACTOR",
        help="leave photos out of sizes for which they would be enlarged by more (default 2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the holes (default 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="take N photos, evenly spread over the folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-peers", action="store_true", help="models only")
    which.add_argument("--peers-only", action="store_true", help="no model")
    parser.add_argument(
        "--reuse",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="take what a run with the same seed and photos measured from its --json file; repeatable. Models named "
        "with --model are always measured anew",
    )
    parser.add_argument(
        "--anew",
        action="append",
        default=[],
        metavar="METHOD",
        help="measure this peer again although a file of --reuse has it; repeatable",
    )
    parser.add_argument(
        "--speed", action="store_true", help="time a 512 px photo with a 25 %% hole beside Telea and biharmonic"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw LPIPS and PSNR by family (PNG)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write settings, per-photo values and means, and crops beside it"
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet (JPEG) of the first size")
    parser.add_argument("--sheet-photos", type=int, default=6, metavar="N", help="photos on the sheet (default 6)")
    args = parser.parse_args(argv)
    if min(args.sizes) < 16:
        parser.error("--sizes must be at least 16")
    if (args.limit is not None and args.limit < 1) or args.sheet_photos < 1:
        parser.error("--limit and --sheet-photos must be at least 1")
    if not args.enlarge >= 1:
        parser.error("--enlarge must be at least 1")
    if args.peers_only and args.models:
        parser.error("--peers-only leaves out the models given with --model")
    if args.no_peers and args.xphoto:
        parser.error("--no-peers leaves out the peers of --xphoto")
    args.sizes, args.families = list(dict.fromkeys(args.sizes)), list(dict.fromkeys(args.families))
    return args


class Results:
    """What is written to the JSON file, once a minute and at the end.

    Args:
        path: of the file.
        settings: of the run.
        in_folder: how many photos the folder holds.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], in_folder: int) -> None:
        self.path = path
        self.settings = settings
        self.in_folder = in_folder

    def save(self, outcome: Outcome, **more: Any) -> None:
        """Write whole files or none; without `more`, as those of a run that goes on."""
        if self.path is None or not outcome.records:
            return
        result = {
            "format": FORMAT,
            "complete": bool(more),
            "settings": self.settings,
            "versions": versions(PACKAGES, opencv=cv2.__version__),
            "photos_in_folder": self.in_folder,
            "photos_sha256": set_digest(outcome.photos),
            "photos": outcome.photos,
            "skipped": [{"photo": name, "size": size} for name, size in outcome.skipped],
            "reused_records": outcome.taken,
            **more,
            "values": outcome.records,
        }
        if outcome.crops:
            write_crops(crops_path(self.path), outcome.crops)
        write_json(self.path, result)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = arguments(argv)
    worker: XphotoWorker | None = None
    try:
        check_targets(args.json, args.sheet, picture=args.plot)
        in_folder = len(find_photos(args.photos))
        entries = find_photos(args.photos, args.limit)
        lpips = Lpips(args.evalnets) if args.evalnets else None
        embedder = Embedder(args.evalnets) if args.evalnets else None
        if lpips is None:
            print("LPIPS and the Frechet distance are left out: give their networks with --evalnets")
        if args.xphoto:
            worker = XphotoWorker(args.xphoto)
        names = [] if args.peers_only else args.models or [f"{DEFAULT_LABEL}=default"]
        fills, model_facts, models = load_models(names, args.device, args.smooth)
        peers: dict[str, Method] = {} if args.no_peers else {**PEERS, **(xphoto_peers(worker) if worker else {})}
        deep, deep_facts = load_onnx(args.onnx, fills)
        settings = {
            "seed": args.seed,
            "sizes": args.sizes,
            "families": args.families,
            "limit": args.limit,
            "enlarge": args.enlarge,
            "opencv_radius": RADIUS,
            "xphoto_opencv": worker.opencv if worker else None,
            "lpips": bool(lpips),
            "crop": CROP,
            "resize": "centre square, Lanczos",
            "torch_threads": torch.get_num_threads(),
            "opencv_threads": cv2.getNumThreads(),
            "machine": platform.platform(),
        }
        earlier = read_earlier(args.reuse, settings)
        earlier.forget([*fills, *deep, *args.anew])
        methods = {**peers, **deep, **fills}
        reused = earlier.methods(without=methods)
        roles = {m: "peer" if m in peers else "deep" if m in deep else "model" for m in methods}
        roles.update({m: earlier.roles[m] for m in reused})
        settings["methods"] = roles
        settings["models"] = {
            **{m: earlier.facts[m] for m in reused if m in earlier.facts},
            **deep_facts,
            **model_facts,
        }
        settings["reuse"] = {m: earlier.files[m] for m in roles if m in earlier.files}
        plan = Plan(
            entries,
            args.sizes,
            args.families,
            args.seed,
            args.enlarge,
            methods,
            checked=frozenset(fills),
            models=models,
            reused=reused,
            earlier=earlier,
            lpips=lpips,
            embedder=embedder,
            sheet_photos=args.sheet_photos if args.sheet else 0,
        )
        results = Results(args.json, settings, in_folder)
        outcome = run(plan, results.save)
        speed = None
        if args.speed:
            both = {f"{m}{end}": functools.partial(models[m].inpaint, sharp=not end) for m in models
                    for end in ("", "-smooth")}  # fmt: skip
            speed = measure_speed(centre_square(open_photo(entries[0]), SIZE), {**deep, **both})
    except (BenchError, ModelError) as err:
        print(f"bench_inpaint: {err}", file=sys.stderr)
        return 2
    finally:
        if worker is not None:
            worker.close()

    rows = summarise(outcome.records)
    by_role = {role: [m for m, r in roles.items() if r == role] for role in ("peer", "deep", "model")}
    comparisons = compare(outcome.records, by_role["model"], by_role["peer"], by_role["deep"])
    frechet = frechet_rows(plan, outcome)
    print(f"\n{format_table(rows, outcome.taken)}\n")
    if frechet:
        print(f"{format_frechet(frechet)}\n")
    if speed:
        print(f"{format_speed(speed)}\n")
    if comparisons:
        print(f"{format_comparisons(comparisons)}\n")
    print_notes(args.sizes, args.enlarge, outcome, earlier)
    if models:
        print("known pixels: identical in every fill of every model")
    results.save(outcome, means=rows, frechet=frechet, paired=comparisons, speed=speed)  # before what may fail
    if args.sheet:
        outcome.sheet.save(args.sheet)
    if args.plot:
        plot(rows, args.plot)
    return 0


def print_notes(sizes: list[int], enlarge: float, outcome: Outcome, earlier: Earlier) -> None:
    """Say which photos were enlarged or left out, and what was reused."""
    for size in sizes:
        small = [p["name"] for p in outcome.photos if min(p["width"], p["height"]) < size]
        left_out = sum((name, size) in outcome.skipped for name in small)
        if len(small) > left_out:
            print(
                f"{len(small) - left_out} of {len(outcome.photos)} photos are smaller than {size} px and were enlarged"
            )
        if left_out:
            print(f"{left_out} of {len(outcome.photos)} photos would be enlarged more than {enlarge:g} times for "
                  f"{size} px and were left out")  # fmt: skip
    for method, count in outcome.taken.items():
        print(f"reused: {count} of {method} from {', '.join(earlier.files[method])}")


if __name__ == "__main__":
    sys.exit(main())
