"""Means, deviations and paired tests of a benchmark of augmentations, as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .augment_methods import ERASING, METHODS

Record = dict[str, Any]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Record:
    """Student's test of the differences between runs that share a seed.

    Args:
        ours, theirs: one value for each seed, in the same order; at least one.

    Returns:
        "difference", its mean; "standard_error", of the mean; "t"; "p", two-sided, of n - 1 degrees of freedom; and
        "pairs". What one pair or equal differences leave undefined is None.

    Example:
        >>> test = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
        >>> test["difference"], round(test["standard_error"], 4), round(test["t"], 4), round(test["p"], 4)
        (2.0, 0.5774, 3.4641, 0.0742)
    """
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    n = len(difference)
    mean = float(difference.mean())
    error = float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    t = mean / error if error else None
    p = None if t is None else float(2 * stats.t.sf(abs(t), n - 1))
    return {"difference": mean, "standard_error": error, "t": t, "p": p, "pairs": n}


def summarise(cells: Sequence[Record]) -> list[Record]:
    """A row for each data set, fraction and method.

    Args:
        cells: records with "data", "fraction", "method", "seed" and what `train_cell` returns.

    Returns:
        rows with "data", "fraction", "method", "seeds", "mean" and "sd" of the accuracy in percent (sd with n - 1;
        None for one seed), "images_per_second" and "augment_share" (medians), and "against", the best erasing baseline
        by mean accuracy, with `paired` in percentage points over the seeds that both have ("test"; None for that
        baseline itself, and where there is none).
    """
    rows = []
    for data, fraction in dict.fromkeys((c["data"], c["fraction"]) for c in cells):
        here = [c for c in cells if (c["data"], c["fraction"]) == (data, fraction)]
        values = {
            method: {c["seed"]: 100 * c["accuracy"] for c in here if c["method"] == method}
            for method in METHODS
            if any(c["method"] == method for c in here)
        }
        means = {method: float(np.mean(list(by_seed.values()))) for method, by_seed in values.items()}
        best = _best_baseline(values)
        for method, by_seed in values.items():
            mine = [c for c in here if c["method"] == method]
            row: Record = {
                "data": data, "fraction": fraction, "method": method, "seeds": len(by_seed), "mean": means[method],
                "sd": float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None,
                "images_per_second": float(np.median([c["images_per_second"] for c in mine])),
                "augment_share": float(np.median([c["augment_share"] for c in mine])),
                "against": best, "test": None,
            }  # fmt: skip
            both = sorted(by_seed.keys() & values[best].keys()) if best not in (None, method) else []
            if both:
                row["test"] = paired([by_seed[s] for s in both], [values[best][s] for s in both])
            rows.append(row)
    return rows


def _best_baseline(values: dict[str, dict[Any, float]]) -> str | None:
    """The erasing baseline of the highest mean; where a run was cut off, of those with the most cells."""
    whole = max((len(values[m]) for m in ERASING if m in values), default=0)
    means = {m: float(np.mean(list(values[m].values()))) for m in ERASING if len(values.get(m, {})) == whole > 0}
    return max(means, key=means.__getitem__, default=None)


def pool(cells: Sequence[Record]) -> list[Record]:
    """The paired tests over all data sets at once, by fraction: a pair is a seed on a data set.

    Returns:
        rows with "fraction", "method", "against" (the erasing baseline with the best mean of the data sets' means) and
        `paired`'s results; none where there is one data set only.
    """
    if len({c["data"] for c in cells}) < 2:
        return []
    rows = []
    for fraction in dict.fromkeys(c["fraction"] for c in cells):
        values: dict[str, dict[tuple[str, int], float]] = {}
        for c in cells:
            if c["fraction"] == fraction:
                values.setdefault(c["method"], {})[c["data"], c["seed"]] = 100 * c["accuracy"]
        best = _best_baseline(values)
        if best is None:
            continue
        for method in METHODS:
            both = sorted(values.get(method, {}).keys() & values[best].keys())
            if method != best and both:
                test = paired([values[method][k] for k in both], [values[best][k] for k in both])
                rows.append({"fraction": fraction, "method": method, "against": best, **test})
    return rows


def format_table(rows: Sequence[Record]) -> str:
    """A block for each data set and fraction, best mean first."""
    blocks = []
    for data, fraction in dict.fromkeys((row["data"], row["fraction"]) for row in rows):
        here = [row for row in rows if (row["data"], row["fraction"]) == (data, fraction)]
        best = here[0]["against"]
        lines = [f"{data}, {100 * fraction:g} % of the training part: accuracy (%), test against "
                 f"{best or 'no erasing baseline'} paired by seed",
                 f"{'':26}{'mean':>8}{'sd':>7}{'seeds':>7}{'diff':>8}{'se':>7}{'t':>7}{'p':>8}"
                 f"{'images/s':>10}{'augment':>9}"]  # fmt: skip
        for row in sorted(here, key=lambda row: -row["mean"]):
            lines.append(
                f"{row['method']:<26}{row['mean']:8.2f}{_number(row['sd'], 7, 2)}{row['seeds']:7d}"
                f"{_test(row['test'])}{row['images_per_second']:10.0f}{row['augment_share']:9.1%}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_pool(rows: Sequence[Record]) -> str:
    """A block for each fraction."""
    blocks = []
    for fraction in dict.fromkeys(row["fraction"] for row in rows):
        here = [row for row in rows if row["fraction"] == fraction]
        lines = [f"all data sets, {100 * fraction:g} %: against {here[0]['against']}, paired by data set and seed",
                 f"{'':26}{'diff':>8}{'se':>7}{'t':>7}{'p':>8}{'pairs':>7}"]  # fmt: skip
        lines += [f"{row['method']:<26}{_test(row)}{row['pairs']:7d}" for row in here]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _test(test: Record | None) -> str:
    if test is None:
        return f"{'-':>8}{'-':>7}{'-':>7}{'-':>8}"
    error, t, p = (test[key] for key in ("standard_error", "t", "p"))
    return f"{test['difference']:+8.2f}{_number(error, 7, 2)}{_number(t, 7, 2)}{_number(p, 8, 3)}"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def plot(rows: Sequence[Record], path: Path) -> None:
    """Bars with the deviation over seeds, one chart for each data set and fraction.

    Args:
        rows: of `summarise`.
        path: where to write; matplotlib tells the format from the suffix.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    charts = list(dict.fromkeys((row["data"], row["fraction"]) for row in rows))
    figure, axes = plt.subplots(1, len(charts), figsize=(1.8 + 4.2 * len(charts), 3.9), squeeze=False)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axis, (data, fraction) in zip(axes[0], charts, strict=True):
        here = {row["method"]: row for row in rows if (row["data"], row["fraction"]) == (data, fraction)}
        shown = [method for method in methods if method in here]
        means = np.array([here[method]["mean"] for method in shown])
        errors = np.array([here[method]["sd"] or 0.0 for method in shown])
        colors = ["#4477aa" if "MAE" in m else "#cc9955" if m in ERASING else "#999999" for m in shown]
        axis.barh(shown, means, xerr=errors, color=colors, capsize=3)
        for y, (mean, error) in enumerate(zip(means, errors, strict=True)):
            axis.text(mean + error, y, f" {mean:.1f}", va="center", fontsize=8)
        spread = max(float((means + errors).max() - (means - errors).min()), 1.0)
        axis.set_xlim(
            max(0.0, float((means - errors).min()) - 0.4 * spread), float((means + errors).max()) + 0.3 * spread
        )
        axis.set_title(f"{data}, {100 * fraction:g} % of the training part", fontsize=10)
        axis.set_xlabel("accuracy (%), mean and deviation over seeds; axis cut", fontsize=8)
        axis.invert_yaxis()
        if axis is not axes[0][0]:
            axis.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
