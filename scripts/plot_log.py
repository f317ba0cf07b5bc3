"""Draw a training log: loss and validation PSNR over samples seen; of contrastive tuning its loss and retrieval,
of a refiner its perceptual distance.

python scripts/plot_log.py runs/small/log.jsonl runs/second/log.jsonl -o weights/curves.png

Of several logs each goes on where the one before it ended, as a run does that starts from the other's weights.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from benchlib.photos import BenchError
from benchlib.results import check_targets


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="log.jsonl of a run folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="picture to write")
    args = parser.parse_args(argv)
    try:
        check_targets(picture=args.out)
    except BenchError as err:
        print(f"plot_log: {err}", file=sys.stderr)
        return 2
    records: list[dict] = []
    for log in args.logs:
        seen = max((r["samples"] for r in records), default=0)
        try:
            added = [json.loads(line) for line in log.read_text().splitlines()]
        except (OSError, ValueError) as err:
            print(f"plot_log: {log}: cannot be read ({err})", file=sys.stderr)
            return 2
        if not all(isinstance(r, dict) and isinstance(r.get("samples"), int) for r in added):
            print(f"plot_log: {log}: no log of a run, whose records tell their samples", file=sys.stderr)
            return 2
        records += [{**r, "samples": r["samples"] + seen} for r in added]
    steps = [r for r in records if "loss" in r and "side" in r]
    figures = [r for r in records if any("psnr_" in key or "retrieval_" in key for key in r)]
    tuned = any("retrieval_cls" in r for r in figures)
    perceptual = any("perceptual" in r for r in steps) and any("sharp_perceptual_thin" in r for r in figures)
    loss, prefix, what = "loss", "psnr_", "hole PSNR (dB)"
    if tuned:
        loss = "teacher" if any("teacher" in r for r in steps) else "contrastive"
        prefix, what = "retrieval_", "views that find their twin"
        steps = [r for r in steps if loss in r]  # of a log before the tuning none has it
    elif perceptual:  # with an adversary the sum of a refiner's losses says nothing
        loss, prefix, what = "perceptual", "sharp_perceptual_", "perceptual distance"
        steps = [r for r in steps if loss in r]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for side in sorted({r["side"] for r in steps}):
        points = [r for r in steps if r["side"] == side]
        left.plot([r["samples"] / 1000 for r in points], [r[loss] for r in points], label=f"{side} px crops")
    left.set(xlabel="thousand samples", ylabel="training loss" if loss == "loss" else f"{loss} loss")
    if not tuned:  # views have a size of their own
        left.set(yscale="log")
        left.legend()
    for name in sorted({key for r in figures for key in r if prefix in key}):  # of a restorer: sharp_psnr_thin, ...
        points = [r for r in figures if name in r]
        label = name.replace(prefix, "")
        right.plot([r["samples"] / 1000 for r in points], [r[name] for r in points], "o-", label=label)
    right.set(xlabel="thousand samples", ylabel=f"{what}, held-out photos")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
