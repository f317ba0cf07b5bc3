"""Measure the index of images: building, queries, recall and memory, by kind and number of images.

    python scripts/bench_index.py --photos SHARDS --features crops.safetensors --json index.json --plot index.png
    python scripts/bench_index.py --features crops.safetensors --sizes 1000 20000 --kinds flat hnsw

Images are random square crops of photographs at 64 px; their features come from the bundled model, or --model, and are
kept in the --features file, so that they are computed once. Queries are other crops of the same photographs, one at a
time. Recall@10 is the share of the ten nearest by exact search that are among the ten found. Every index is built, and
then opened and queried, in a process of its own: memory is the growth of the resident set over one that has used a tiny
index. Times are of the clock, and of the processor, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchlib.index_cell import K, measure
from benchlib.index_crops import SIDE, crop_features
from benchlib.photos import BenchError
from benchlib.results import check_targets, versions, write_json

from maerestore.errors import MaerestoreError
from maerestore.features.index.kinds import KINDS

PACKAGES = ("maerestore", "faiss-cpu", "numpy", "pyarrow", "torch")
COLUMNS = {
    "build_s": "build s", "build_cpu_s": "CPU s", "add_one_s": "add 1, s", "open_s": "open s",
    "query_p50_ms": "p50 ms", "query_p99_ms": "p99 ms", "query_cpu_p50_ms": "CPU p50", "query_cpu_p99_ms": "CPU p99",
    "recall": f"recall@{K}", "resident_mb": "resident MB", "build_peak_mb": "building MB", "disk_mb": "disk MB",
}  # fmt: skip


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", default=[], metavar="PATH", help="folders, tars, images")
    parser.add_argument("--features", type=Path, metavar="FILE", help="features of crops, read or written")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N",
                        help="numbers of images (default 1000 10000 100000)")  # fmt: skip
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="(default all)")
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="(default 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the crops (default 0)")
    parser.add_argument("--model", default="default", help="that features come from (default: the bundled one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the figures to")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to write (PNG)")
    args = parser.parse_args(argv)
    if min(args.sizes) < 2 * K or args.queries < 1 or args.seed < 0:
        parser.error(f"--sizes must be at least {2 * K}, --queries at least 1, and --seed not negative")
    return args


def format_table(rows: list[dict[str, Any]]) -> str:
    """Rows by size and kind, in Markdown."""
    lines = ["| images | kind | " + " | ".join(COLUMNS.values()) + " |", "|---:|---" + "|---:" * len(COLUMNS) + "|"]
    for row in rows:
        values = ["-" if row[name] is None else f"{row[name]:.3g}" for name in COLUMNS]
        values[list(COLUMNS).index("recall")] = f"{row['recall']:.4f}"
        lines.append(f"| {row['images']:,} | {row['kind']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """What grows with the number of images, a line for each kind."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    charts = {
        "build_s": "Building, s",
        "query_p50_ms": "A query, ms: median, and to the 99th percentile",
        "recall": f"Recall@{K} against exact search",
        "resident_mb": "Memory, opened and queried, MB",
    }
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5))
    for axis, (name, title) in zip(axes.flat, charts.items(), strict=True):
        for kind, colour in zip(KINDS, ("#666666", "#4477aa", "#cc6677"), strict=True):
            line = sorted((row for row in rows if row["kind"] == kind and row[name] is not None),
                          key=lambda row: row["images"])  # fmt: skip
            if not line:
                continue
            sizes = [row["images"] for row in line]
            axis.plot(sizes, [row[name] for row in line], "o-", color=colour, label=kind)
            if name == "query_p50_ms":
                axis.fill_between(sizes, [row[name] for row in line], [row["query_p99_ms"] for row in line],
                                  color=colour, alpha=0.15)  # fmt: skip
        axis.set(title=title, xlabel="images", xscale="log")
        if name == "recall":
            axis.set_ylim(min(0.98, *(row["recall"] - 0.005 for row in rows)), 1.001)
        else:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = arguments(argv)
    try:
        check_targets(args.features, args.json, picture=args.plot)
        crops = crop_features(args.photos, max(args.sizes), args.queries, args.seed, args.model, args.features)
        rows = []
        for size in sorted(set(args.sizes)):
            for kind in dict.fromkeys(args.kinds):
                rows.append(measure(kind, crops.stored[:size], crops.asked))
                print(f"{size:,} images, {kind}: built in {rows[-1]['build_s']:.1f} s, recall@{K} "
                      f"{rows[-1]['recall']:.4f}", flush=True)  # fmt: skip
    except (BenchError, MaerestoreError) as err:
        print(f"bench_index: {err}", file=sys.stderr)
        return 2
    print(f"\n{format_table(rows)}")
    if args.json:
        write_json(args.json, {
            "features": crops.facts, "side": SIDE, "k": K, "queries": args.queries, "rows": rows,
            "versions": versions(PACKAGES), "machine": platform.platform(), "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        })  # fmt: skip
    if args.plot:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
