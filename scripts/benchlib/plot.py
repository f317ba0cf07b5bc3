"""LPIPS and PSNR of all methods by family of holes, as a picture."""

from __future__ import annotations

from pathlib import Path

from .metrics import METRICS
from .report import Record

PLOTTED = ("lpips", "psnr")


def plot(rows: list[Record], path: Path) -> None:
    """Draw means, one row of charts per size and one group of bars per family.

    Args:
        rows: of `report.summarise`.
        path: where to write, PNG or what else matplotlib tells from the suffix.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [name for name in PLOTTED if name in rows[0]]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    values = {(row["size"], row["family"], row["method"]): row for row in rows}
    figure, axes = plt.subplots(
        len(sizes), len(metrics), figsize=(6.5 * len(metrics), 3.4 * len(sizes) + 0.8), squeeze=False
    )
    step = 0.85 / len(methods)
    for i, size in enumerate(sizes):
        for j, metric in enumerate(metrics):
            axis = axes[i][j]
            for k, method in enumerate(methods):
                found = [(x, values[size, f, method]) for x, f in enumerate(families) if (size, f, method) in values]
                axis.bar(
                    [x - 0.425 + (k + 0.5) * step for x, _ in found],
                    [row[metric] for _, row in found],
                    step,
                    color=colours[k % len(colours)],
                    label=method,
                )
            unit = " (dB)" if metric == "psnr" else ""
            better = "higher" if METRICS[metric].best > 0 else "lower"
            axis.set_title(f"{METRICS[metric].title}{unit}, {size} px: {better} is better")
            axis.set_xticks(range(len(families)), families)
            if metric == "psnr":  # no bar is near zero, and differences of a decibel count
                least = min(row[metric] for row in rows if row["size"] == size)
                axis.set_ylim(bottom=max(0.0, least - 2))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(len(methods), 6), frameon=False)
    figure.tight_layout(rect=(0, 0.8 / (3.4 * len(sizes) + 0.8) * (1 + (len(methods) - 1) // 6) / 2, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
