"""Measure features: k-NN and linear-probe accuracy beside other features, and speed beside timm.

    python scripts/bench_features.py --data LABELLED/imagenette --data LABELLED/intel_scenes --evalnets NETS --speed
    python scripts/bench_features.py --data LABELLED/imagenette --model old=weights --model new=runs/x/model

A data set is a folder with tars of NAME.webp (or .jpg, .png) beside NAME.cls; tars with val or test in their name are
for testing. Rows: each model with each pooling, a twin of the first model with random weights, a colour histogram, HOG,
and with --evalnets third-party networks that were trained on ImageNet's labels (imagenette is a part of ImageNet: what
they reach there is no fair comparison, but a ceiling). k (10, 20, 100) and the learning rate of the probe are chosen on
a fifth of the training part; then all of it is used. Intervals are 95 % Wilson intervals over the test pictures.

The --json file keeps the features' accuracies, which are taken from there when the command runs again with the same
models and data. Exit code 2: something in the arguments or files has to be put right.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchlib.feature_data import LabelledSet, load_set
from benchlib.feature_methods import (
    POOLINGS,
    Features,
    colour_histogram,
    hog,
    model_features,
    part,
    random_twin,
    third_party,
)
from benchlib.feature_speed import measure_speed
from benchlib.photos import BenchError
from benchlib.results import check_targets, versions, write_json
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.classify.knn import fit_knn
from maerestore.features.classify.linear import fit_linear
from maerestore.features.classify.report import Evaluation
from maerestore.features.options import PRECISIONS


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="FOLDER", help="repeatable")
    parser.add_argument("--model", action="append", metavar="[LABEL=]NAME",
                        help="bundled name, folder, file, Hub repository or timm:NAME; repeatable")  # fmt: skip
    parser.add_argument("--pooling", nargs="+", default=list(POOLINGS), choices=POOLINGS, metavar="NAME",
                        help="of the models (default: cls mean cls+mean)")  # fmt: skip
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the models (default auto)")
    parser.add_argument("--evalnets", type=Path, metavar="FOLDER", help="with nets.py and the weights of its networks")
    parser.add_argument("--no-peers", action="store_true", help="models only")
    parser.add_argument("--speed", action="store_true", help="also measure images per second beside timm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where accuracies are kept, and taken from")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to write (PNG)")
    args = parser.parse_args(argv)
    if not args.data and not args.speed:
        parser.error("give --data, --speed or both")
    return args


@dataclasses.dataclass(frozen=True)
class Method:
    """Features by one network or descriptor.

    Attributes:
        identity: changes with its weights.
        run: pictures to features.
        poolings: what is measured of them; (None,) where they are taken as they are.
    """

    identity: str
    run: Features
    poolings: tuple[str | None, ...] = (None,)


def methods(args: argparse.Namespace) -> dict[str, Method]:
    """By label."""
    found: dict[str, Method] = {}
    poolings = tuple(dict.fromkeys(args.pooling))
    for number, text in enumerate(args.model or ["default"]):
        label, equals, name = text.partition("=")
        if not equals:
            label, name = text, text
        if label in found:
            raise BenchError(f"two models are called {label!r}: give --model LABEL=NAME")
        extractor = model_features(name, args.precision)
        found[label] = Method(extractor.fingerprint, extractor, poolings)
        if number == 0 and not args.no_peers and not name.startswith("timm:"):
            twin = random_twin(extractor)
            found["random weights"] = Method(twin.fingerprint, twin, poolings)
    if not args.no_peers:
        found["colour histogram"] = Method("1", colour_histogram)
        found["HOG"] = Method("1", hog)
        if args.evalnets is not None:
            found |= {label: Method("1", run) for label, run in third_party(args.evalnets).items()}
    return found


def measure(train: Tensor, test: Tensor, data: LabelledSet, seed: int) -> dict[str, Any]:
    """Accuracies of one kind of features on one set, with what was chosen."""
    labels, truth, count = data.train.labels, data.test.labels, len(data.classes)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    _, chosen = fit_knn(train[rest], labels[rest], count, train[held], labels[held])
    k = int(chosen["k"])
    neighbours, _ = fit_knn(train, labels, count, ks=[k])
    _, chosen = fit_linear(train[rest], labels[rest], count, train[held], labels[held], seed=seed)
    probe, _ = fit_linear(train, labels, count, rates=[chosen["lr"]], seed=seed)
    result: dict[str, Any] = {"dim": train.shape[1], "k": k, "lr": chosen["lr"]}
    for name, head in (("knn", neighbours), ("linear", probe)):
        found = evaluate(head.probabilities, test, truth, data.classes)
        result[name] = {"accuracy": found.accuracy, "low": found.interval[0], "high": found.interval[1]}
    return result


def evaluate(probabilities: Callable[[Tensor], Tensor], test: Tensor, truth: Tensor, classes: list[str]) -> Evaluation:
    return Evaluation.of(truth.numpy(), probabilities(test).argmax(1).numpy(), tuple(classes))


def digest(data: LabelledSet) -> str:
    found = hashlib.sha256()
    for split in (data.train, data.test):
        found.update(split.labels.numpy().tobytes())
        for image in split.images:
            found.update(image.numpy().tobytes())
    return found.hexdigest()


def earlier(path: Path | None) -> dict[str, dict[str, Any]]:
    """The accuracies that a file holds, by what they were measured on."""
    if path is None or not path.exists():
        return {}
    try:
        return {row["key"]: row for row in json.loads(path.read_text())["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BenchError(f"{path} is no file of this benchmark: choose another, or remove it") from err


def others(kept: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an earlier run that this one has not come to, or was not asked for."""
    return [row for key, row in kept.items() if key not in {done["key"] for done in rows}]


def table(rows: list[dict[str, Any]]) -> str:
    sets = list(dict.fromkeys(row["data"] for row in rows))
    head = ["features", *(f"{kind} {name}" for name in sets for kind in ("k-NN", "linear"))]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        for name in sets:
            for row in rows:
                if row["data"] == name and row["method"] == method:
                    for kind in ("knn", "linear"):
                        found = row[kind]
                        cells.append(f"{found['accuracy']:.3f} ({found['low']:.3f}-{found['high']:.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| model | implementation | images/s | times timm fp32 |", "|---|---|---:|---:|"]
    for row in rows:
        shown = f"{row['images_per_second']:.0f} | {row['times_timm']:.2f}"
        lines.append(f"| {row['size']} | {row['method']} | {shown} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars with their intervals, a chart for each set."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(row["data"] for row in rows))
    labels = list(dict.fromkeys(row["method"] for row in rows))
    size = (6.2 * len(sets) + 1.6, 0.55 * len(labels) + 1.5)
    figure, axes = plt.subplots(1, len(sets), figsize=size, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for offset, kind, colour in ((-0.2, "knn", "#4477aa"), (0.2, "linear", "#ccbb44")):
            chosen = [row for row in rows if row["data"] == name]
            places = [labels.index(row["method"]) + offset for row in chosen]
            values = [row[kind]["accuracy"] for row in chosen]
            spread = [[row[kind]["accuracy"] - row[kind]["low"] for row in chosen],
                      [row[kind]["high"] - row[kind]["accuracy"] for row in chosen]]  # fmt: skip
            axis.barh(places, values, 0.36, xerr=spread, color=colour, label={"knn": "k-NN"}.get(kind, kind))
        axis.set(title=f"{name}: accuracy", xlim=(0, 1), yticks=range(len(labels)), yticklabels=labels)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = arguments(argv)
    try:
        check_targets(args.json, picture=args.plot)
        kept, rows = earlier(args.json), []
        result: dict[str, Any] = {"seed": args.seed, "rows": rows, "speed": None}
        result["versions"] = versions(["maerestore", "torch", "timm", "scikit-image"])
        if args.speed:
            result["speed"] = measure_speed()
        elif args.json is not None and args.json.exists():
            result["speed"] = json.loads(args.json.read_text()).get("speed")
        found = methods(args) if args.data else {}
        for data in (load_set(folder) for folder in dict.fromkeys(args.data)):
            sha = digest(data)
            for label, method in found.items():
                made: tuple[Tensor, Tensor] | None = None
                for pooling in method.poolings:
                    shown = label if pooling is None else f"{label}, {pooling}"
                    key = f"{data.name}/{sha[:16]}/{shown}/{method.identity}/{args.precision}/{args.seed}"
                    done = kept.get(key)
                    if done is None:
                        made = made or (method.run(data.train.images), method.run(data.test.images))
                        train, test = made if pooling is None else (part(features, pooling) for features in made)
                        done = measure(train, test, data, args.seed)
                    rows.append({**done, "key": key, "data": data.name, "method": shown})
                    print(f"{data.name}, {shown}: k-NN {done['knn']['accuracy']:.3f}, linear "
                          f"{done['linear']['accuracy']:.3f}", file=sys.stderr, flush=True)  # fmt: skip
                    if args.json is not None:
                        write_json(args.json, result | {"rows": rows + others(kept, rows)})
    except (BenchError, MaerestoreError, OSError) as err:
        print(f"bench_features: {err}", file=sys.stderr)
        return 2
    if rows:
        print(table(rows))
    if result["speed"]:
        print(("\n" if rows else "") + speed_table(result["speed"]))
    if args.json is not None:
        write_json(args.json, result | {"rows": rows + others(kept, rows)})
    if args.plot is not None and rows:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
