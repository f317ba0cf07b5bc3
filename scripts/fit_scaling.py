"""Fit validation loss and LPIPS of fills against samples seen and photographs at hand; say what more would bring.

    python scripts/fit_scaling.py scripts/recipes/small-cpu.yaml --data data/packed-224 --evalnets NETS -o runs/scaling
        --samples 6400 12800 25600 51200 --shares 0.01 0.1 --set model.image_size=64 --set 'resolution=[[0, 64]]'
        --json scaling.json --plot scaling.png

One trunk is trained at the constant rate, and from it branches off, for each number of samples, a run whose rate falls
to zero over the recipe's decay_share, so that every point is a finished run. With --shares the same is done on the
first part of the photographs, for the last but one number of samples. Each run is measured on the photographs kept
aside: masked MSE, hole PSNR and LPIPS of the autoencoder's own fills. Runs that are finished are kept: the same command
goes on where it was cut off, an unfinished branch from its start. Fitted is value = floor + a * samples^-b (Kaplan et
al. 2020, Hoffmann et al. 2022), in which an extrapolation to 100 times as many samples is a guess: the picture shows
how far it reaches.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchlib.metrics import Lpips
from benchlib.photos import BenchError
from benchlib.results import check_targets, write_json
from scipy.optimize import least_squares

from maerestore.errors import MaerestoreError
from maerestore.hub.load import load_autoencoder
from maerestore.masking import FAMILIES
from maerestore.train.checkpoint import CHECKPOINT
from maerestore.train.pretrain import Pretrainer
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.resident import ResidentCorpus
from maerestore.train.validate import Validation

FITTED = {"masked_mse": "masked MSE", "lpips": "LPIPS of the fills"}


@dataclass(frozen=True)
class Law:
    """value = floor + scale * samples^-power."""

    floor: float
    scale: float
    power: float

    def __call__(self, samples: float | np.ndarray) -> Any:
        return self.floor + self.scale * np.asarray(samples, np.float64) ** -self.power


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True, help="packed photographs, as for maerestore pretrain")
    parser.add_argument("--evalnets", type=Path, required=True, help="folder of the networks of LPIPS, with nets.py")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--samples", type=int, nargs="+", required=True, metavar="N", help="lengths of the runs, at least 3"
    )
    parser.add_argument("--shares", type=float, nargs="*", default=[], metavar="S", help="parts of the photographs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's setting")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="picture to write")
    args = parser.parse_args(argv)
    args.samples = sorted(set(args.samples))
    if len(args.samples) < 3 or args.samples[0] <= 0:
        parser.error("--samples needs at least 3 positive numbers: the law has three unknowns")
    if not all(0 < share < 1 for share in args.shares):
        parser.error(f"--shares must lie between 0 and 1, got {args.shares}")
    return args


def train_ladder(
    recipe: PretrainRecipe, data: str, out: Path, lengths: list[int], share: float, lpips: Lpips, cpu: bool
) -> list[dict[str, float]]:
    """Train a trunk and its branches; figures of each branch, kept in `figures.json` beside its weights."""
    rows = []
    for length in lengths:
        branch = out / f"{length}"
        kept = branch / "figures.json"
        if not kept.is_file():
            # A whole number of steps: a run that was cut off finds its trunk where it asks for it.
            start = math.ceil((1 - recipe.decay_share) * length / recipe.batch_size) * recipe.batch_size
            shutil.rmtree(branch, ignore_errors=True)
            branch.mkdir(parents=True)
            _train(recipe, data, out / "trunk", start, 1e-9, share, cpu)
            shutil.copyfile(out / "trunk" / CHECKPOINT, branch / CHECKPOINT)
            run, figures = _train(recipe, data, branch, length, recipe.decay_share, share, cpu)
            figures |= {"samples": run.samples, "photographs": len(_corpus(run).train_ids)}
            figures |= measure_lpips(run, branch / "model", lpips)
            write_json(kept, figures)
        rows.append(json.loads(kept.read_text()))
        print(f"{rows[-1]['photographs']} photographs, {length} samples: "
              + ", ".join(f"{name} {rows[-1][name]:.4f}" for name in FITTED), flush=True)  # fmt: skip
    return rows


def _train(
    recipe: PretrainRecipe, data: str, out: Path, samples: int, decay_share: float, share: float, cpu: bool
) -> tuple[Pretrainer, dict[str, float]]:
    recipe = recipe.but(
        samples=samples, schedule="wsd", decay_share=decay_share, validate_every=10**12, save_every=25_000
    )
    run = Pretrainer(recipe, data, out, cpu=cpu, workers=1)
    if run.samples > samples:
        raise BenchError(f"{out} has seen {run.samples} samples, {samples} are asked for: take another -o")
    corpus = _corpus(run)
    corpus.train_ids = corpus.train_ids[: max(1, round(share * len(corpus.train_ids)))]
    figures = run.run()
    if run.signals.number:
        raise BenchError(f"stopped after {run.samples} samples: the same command goes on from here")
    if not figures:
        raise BenchError("no photograph was kept aside: one in 64 is, by its name")
    return run, figures


def _corpus(run: Pretrainer) -> ResidentCorpus:
    if not isinstance(run.corpus, ResidentCorpus):
        raise BenchError("--data must fit into memory (resident_gb): a part of it is taken")
    return run.corpus


@torch.inference_mode()
def measure_lpips(run: Pretrainer, folder: Path, lpips: Lpips) -> dict[str, float]:
    """LPIPS of the saved model's fills of the validation photographs: by mask family, and their mean."""
    model = load_autoencoder(folder).to(run.device).eval()
    assert run.validation is not None
    images = run.validation.images
    result = {}
    for family, holes in run.validation.holes.items():
        scores = []
        for image, hole in zip(images.split(1), holes.split(1), strict=True):
            pair = (image, Validation.fill(model, image, hole))
            truth, fill = ((each[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy() for each in pair)
            scores.append(lpips(truth, fill, hole[0, 0].cpu().numpy() > 0)[0])
        result[f"lpips_{family}"] = float(np.mean(scores))
    return result | {"lpips": float(np.mean([result[f"lpips_{family}"] for family in FAMILIES]))}


def fit_law(samples: list[float], values: list[float]) -> Law:
    """The law that fits best in relative terms, none of its three numbers negative.

    Example:
        >>> law = fit_law([1e3, 1e4, 1e5, 1e6], [0.2 + 5 * n**-0.4 for n in (1e3, 1e4, 1e5, 1e6)])
        >>> round(law.floor, 3), round(law.scale, 2), round(law.power, 3)
        (0.2, 5.0, 0.4)
    """
    n, y = np.asarray(samples, np.float64), np.asarray(values, np.float64)
    unit = float(np.exp(np.log(n).mean()))  # so that the unknowns are of one size

    def residual(unknowns: np.ndarray) -> np.ndarray:
        floor, scale, power = unknowns
        return (floor + scale * (n / unit) ** -power) / y - 1

    starts = [(share * y.min(), (1 - share) * y.mean(), power) for share in (0.0, 0.5, 0.9) for power in (0.1, 0.4)]
    fits = [
        least_squares(residual, start, bounds=([0, 0, 0], [y.min(), np.inf, 2]), xtol=1e-12, ftol=1e-12)
        for start in starts
    ]
    floor, scale, power = min(fits, key=lambda fit: fit.cost).x
    return Law(float(floor), float(scale * unit**power), float(power))


def left_out(samples: list[float], values: list[float]) -> float:
    """How far the law of all points but the last misses the last one, as a share of it."""
    return float(fit_law(samples[:-1], values[:-1])(samples[-1]) / values[-1] - 1)


def plot(rows: list[dict[str, float]], parts: list[dict[str, float]], laws: dict[str, Law], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    samples = np.array([row["samples"] for row in rows])
    seen, ahead = np.geomspace(samples[0], samples[-1]), np.geomspace(samples[-1], 100 * samples[-1])
    for axis, (name, title) in zip(axes, FITTED.items(), strict=True):
        law = laws[name]
        axis.plot(
            samples,
            [row[name] for row in rows],
            "o",
            color="#4477aa",
            label=f"{rows[0]['photographs']:,.0f} photographs",
        )
        for mark, part in zip("sd^v<>", parts, strict=False):
            axis.plot(
                part["samples"], part[name], mark, color="#ee6677", label=f"{part['photographs']:,.0f} photographs"
            )
        axis.plot(seen, law(seen), color="#4477aa")
        axis.plot(ahead, law(ahead), "--", color="#4477aa", label="extrapolated")
        axis.axhline(law.floor, color="#bbbbbb", linewidth=0.8)
        axis.set(xscale="log", xlabel="samples seen", ylabel=title,
                 title=f"{law.floor:.3f} + {law.scale:.3g} · samples^-{law.power:.2f}")  # fmt: skip
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        check_targets(args.json, picture=args.plot)
        if args.threads:
            torch.set_num_threads(args.threads)
        recipe, lpips = load_recipe(args.recipe, args.set), Lpips(args.evalnets)
        rows = train_ladder(recipe, args.data, args.out / "all", args.samples, 1.0, lpips, args.cpu)
        parts = [
            row
            for share in args.shares
            for row in train_ladder(
                recipe, args.data, args.out / f"share-{share:g}", args.samples[-2:-1], share, lpips, args.cpu
            )
        ]
    except (MaerestoreError, BenchError) as err:
        print(f"fit_scaling: {err}", file=sys.stderr)
        return 2
    seen = [row["samples"] for row in rows]
    laws = {name: fit_law(seen, [row[name] for row in rows]) for name in FITTED}
    missed = {name: left_out(seen, [row[name] for row in rows]) for name in FITTED} if len(rows) > 3 else {}
    print(f"\n{'':20} {'now':>8} {'x 10':>8} {'x 100':>8} {'floor':>8} {'power':>8}   last point from the others")
    for name, title in FITTED.items():
        law = laws[name]
        wanted = [law(factor * seen[-1]) for factor in (1, 10, 100)]
        said = f"{missed[name]:+.1%}" if name in missed else "-"
        print(f"{title:20}", *(f"{value:8.4f}" for value in [*wanted, law.floor, law.power]), f"  {said}")
    if args.json:
        report = {"recipe": recipe.to_dict(), "rows": rows, "parts": parts, "missed": missed,
                  "laws": {name: vars(law) for name, law in laws.items()}}  # fmt: skip
        write_json(args.json, report)
    if args.plot:
        plot(rows, parts, laws, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
