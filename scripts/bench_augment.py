"""Train the same network with different augmentations, and compare what it learns and what they cost.

    python scripts/bench_augment.py --data LABELLED/imagenette --data LABELLED/intel_scenes --json a.json --plot a.png
    python scripts/bench_augment.py --data torchvision:CIFAR10:ROOT --side 32 --epochs 15 --json cifar.json
    python scripts/bench_augment.py --data LABELLED/imagenette --speed --methods none

A data set is a folder with tars of NAME.webp and NAME.cls (the class index as text); tars with val or test in
their name are for testing. Every network is a ResNet-18 from scratch, trained with one recipe. Methods that share a
seed start from the same weights and see the same pictures, crops and flips in the same order, so that they are compared
in pairs: each against the best of the erasing baselines. A subset is balanced by class, and trained for as many steps
as the full part. The model of MAEAugment was pretrained without labels on other photographs, which the other methods do
without.

The --json file keeps every finished cell. The same command goes on where it was cut off; cells of MAEAugment that were
trained with other weights than those it finds are trained again. Settings are to be chosen with --hold-out, which tests
on a part of the training pictures. Exit code 2: something in the arguments or files has to be put right.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.augment_data import LabelledData, hold_out, load_data
from benchlib.augment_methods import METHODS, Context
from benchlib.augment_results import Key, Results
from benchlib.augment_speed import SIDE, contenders, format_speed, measure_speed
from benchlib.augment_table import format_pool, format_table, plot, pool, summarise
from benchlib.augment_train import NETWORKS, Recipe, train_cell
from benchlib.photos import BenchError
from benchlib.results import check_targets

from maerestore.device import pick_device
from maerestore.errors import MaerestoreError
from maerestore.hub.digest import model_digest


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="FOLDER",
                        help="folder with tars, or torchvision:CIFAR10[:ROOT]; repeatable")  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD",
                        help=f"of: {', '.join(METHODS)} (default all)")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default 0 1 2)")
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1], metavar="F",
                        help="shares of the training part (default 1 0.1)")  # fmt: skip
    default = Recipe()
    parser.add_argument("--network", default=default.network, choices=NETWORKS, help="(default resnet18)")
    parser.add_argument(
        "--side", type=int, default=default.side, metavar="PX", help=f"of its input (default {default.side})"
    )
    parser.add_argument("--epochs", type=float, default=default.epochs, metavar="N",
                        help=f"passes over the full training part (default {default.epochs:g})")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=default.batch_size, metavar="N", help="(default 64)")
    parser.add_argument("--lr", type=float, default=default.lr, help=f"for a batch of 64 (default {default.lr:g})")
    parser.add_argument("--weight-decay", type=float, default=default.weight_decay, metavar="W",
                        help=f"(default {default.weight_decay:g})")  # fmt: skip
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of the training")
    parser.add_argument("--model", default="augment", help="of MAEAugment (default: the bundled augment)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch, on the CPU (default: torch's)")
    parser.add_argument("--hold-out", type=float, metavar="SHARE",
                        help="test on this share of the training pictures instead of on the test part")  # fmt: skip
    parser.add_argument("--minutes", type=float, metavar="M", help="start no cell after so long; run again to go on")
    parser.add_argument("--speed", action="store_true", help=f"also time the augmentations at {SIDE} px")
    parser.add_argument("--speed-batch", type=int, default=32, metavar="N", help="(default 32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where cells are kept, and taken from")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="bars with deviations (PNG)")
    args = parser.parse_args(argv)
    for name, low in (("side", 8), ("batch_size", 2), ("speed_batch", 2)):
        if getattr(args, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be at least {low}")
    if not all(0 < f <= 1 for f in args.fractions):
        parser.error("--fractions must lie in (0, 1]")
    if min(args.seeds) < 0:
        parser.error("--seeds must not be negative")
    if not (args.epochs > 0 and args.lr > 0 and args.weight_decay >= 0):
        parser.error("--epochs and --lr must be above 0, and --weight-decay not below")
    if args.hold_out is not None and not 0 < args.hold_out < 1:
        parser.error("--hold-out must lie in (0, 1)")
    if args.threads is not None and args.threads < 1:
        parser.error("--threads must be at least 1")
    return args


def load_sets(args: argparse.Namespace) -> list[LabelledData]:
    sets = [load_data(source, args.side) for source in dict.fromkeys(args.data)]
    if len({data.name for data in sets}) < len(sets):
        raise BenchError("two data folders have the same name")
    return sets if args.hold_out is None else [hold_out(data, args.hold_out) for data in sets]


def cells_to_do(args: argparse.Namespace, sets: list[LabelledData], results: Results) -> list[tuple[LabelledData, Key]]:
    """Seed by seed, so that a run that is cut off has compared all methods."""
    wanted = [
        (data, (data.name, fraction, seed, method))
        for seed in dict.fromkeys(args.seeds)
        for data in sets
        for fraction in dict.fromkeys(args.fractions)
        for method in dict.fromkeys(args.methods)
    ]
    return [(data, key) for data, key in wanted if key not in results.cells]


def run_cells(args: argparse.Namespace, recipe: Recipe, sets: list[LabelledData], results: Results,
              device: torch.device, digest: str | None) -> None:  # fmt: skip
    todo = cells_to_do(args, sets, results)
    start = time.perf_counter()
    for done, (data, key) in enumerate(todo):
        spent = time.perf_counter() - start
        if args.minutes is not None and spent > 60 * args.minutes:
            print(f"stopped after {spent / 60:.0f} minutes, {len(todo) - done} cells left: run again to go on")
            return
        _, fraction, seed, method = key
        cell = train_cell(data, method, seed, fraction, recipe, device, args.model)
        model = digest if METHODS[method].uses_model else None
        results.add({"data": data.name, "fraction": fraction, "seed": seed, "method": method,
                     "data_sha256": data.sha256, "model_sha256": model, **cell})  # fmt: skip
        left = (time.perf_counter() - start) / (done + 1) * (len(todo) - done - 1)
        print(f"{done + 1}/{len(todo)} {data.name}, {100 * fraction:g} %, seed {seed}, {method}: "
              f"{cell['accuracy']:.2%}, loss {cell['loss']:.3f}, {cell['images_per_second']:.0f} images/s; "
              f"{left / 60:.0f} min left",
              flush=True)  # fmt: skip


def run_speed(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    images = load_data(args.data[0], SIDE).test.images[: args.speed_batch]
    rows = measure_speed(images, contenders(Context(10, 0, device, args.model)), device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return {"side": SIDE, "batch": len(images), "where": where, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = arguments(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        check_targets(args.json, picture=args.plot)
        device = pick_device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
        recipe = dataclasses.replace(
            Recipe(), network=args.network, side=args.side, epochs=args.epochs, batch_size=args.batch_size, lr=args.lr,
            weight_decay=args.weight_decay, precision=args.precision,
        )  # fmt: skip
        settings = {"recipe": recipe.to_dict(), "hold_out": args.hold_out, "device": device.type}
        results = Results(args.json, settings)
        uses_model = any(METHODS[method].uses_model for method in args.methods)
        digest = model_digest(args.model) if uses_model else None
        sets = load_sets(args)
        for key, why in results.keep_valid({data.name: data.sha256 for data in sets}, digest).items():
            print(f"trained again, {why}: {key[0]}, {100 * key[1]:g} %, seed {key[2]}, {key[3]}")
        if args.speed:
            results.speed = run_speed(args, device)
        run_cells(args, recipe, sets, results, device, digest)
    except (BenchError, MaerestoreError) as err:
        print(f"bench_augment: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench_augment: interrupted; finished cells are in the --json file", file=sys.stderr)
        return 130
    cells = list(results.cells.values())
    rows, pooled = summarise(cells), pool(cells)
    print(f"\n{format_table(rows)}")
    if pooled:
        print(f"\n{format_pool(pooled)}")
    if results.speed:
        print(f"\n{format_speed(results.speed['rows'], *(results.speed[k] for k in ('side', 'batch', 'where')))}")
    if args.plot:
        plot(rows, args.plot)
    results.save(rows, pooled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
