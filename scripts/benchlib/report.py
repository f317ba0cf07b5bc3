"""Means by method, paired differences, and both as text.

A record is one fill: {"photo", "size", "family", "coverage", "method"} and a value for each metric measured, None where
there is none for this photo. "texture_photo" is the texture ratio of the photo itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from .metrics import METRICS

Record = dict[str, Any]

PAIRED = ("psnr", "lpips", "lpips_hole")  # the metrics whose differences are tested


def summarise(records: list[Record]) -> list[Record]:
    """Means over photos, one row per size, family and method, in the order in which they were run.

    Ratios of texture are summed up by their median, as a photo of a wall beside a tree weighs more than all others.
    """
    groups: dict[tuple[int, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["size"], record["family"], record["method"]), []).append(record)
    rows = []
    for (size, family, method), group in groups.items():
        row = {"size": size, "family": family, "method": method, "photos": len(group)}
        for name in ("coverage", *METRICS, "texture_photo"):
            values = [r[name] for r in group if r.get(name) is not None]
            if values:
                row[name] = float((np.median if name.startswith("texture") else np.mean)(values))
        rows.append(row)
    return rows


def paired_difference(ours: Iterable[float], theirs: Iterable[float]) -> tuple[float, float | None]:
    """Mean of the differences photo by photo, and its standard error (None for a single photo)."""
    differences = np.array(list(ours)) - np.array(list(theirs))
    error = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else None
    return float(differences.mean()), error


def compare(records: list[Record], models: list[str], peers: list[str], deep: Collection[str] = ()) -> list[Record]:
    """Pair each model with the best peer of each family and metric, with each deep peer, and with the first model.

    The best peer is the one with the best mean on these same photos, which favours the peers.

    Returns:
        rows with "size", "family", "metric", "method", "against", "difference", "standard_error", "ratio" (of the
        means) and "better" (whether the difference is in our favour by more than two standard errors).
    """
    means = {(r["size"], r["family"], r["method"]): r for r in summarise(records)}
    values: dict[tuple[int, str, str, str], dict[str, float]] = {}
    for r in records:
        for metric in PAIRED:
            if metric in r:
                values.setdefault((r["size"], r["family"], r["method"], metric), {})[r["photo"]] = r[metric]
    rows = []
    for size, family in dict.fromkeys((r["size"], r["family"]) for r in records):
        for metric in (m for m in PAIRED if m in records[0]):
            sign = METRICS[metric].best
            pairs = [(model, models[0]) for model in models[1:]]
            pairs = [(model, other) for model in models for other in deep] + pairs
            if peers:
                best = max(peers, key=lambda p: sign * means[size, family, p][metric])
                pairs = [(model, best) for model in models] + pairs
            for method, against in pairs:
                ours, theirs = values[size, family, method, metric], values[size, family, against, metric]
                mean, error = paired_difference(ours.values(), (theirs[photo] for photo in ours))
                other = means[size, family, against][metric]
                rows.append(
                    {
                        "size": size,
                        "family": family,
                        "metric": metric,
                        "method": method,
                        "against": against,
                        "difference": mean,
                        "standard_error": error,
                        "ratio": means[size, family, method][metric] / other if other else None,
                        "better": None if error is None else sign * mean > 2 * error,
                    }
                )
    return rows


def format_table(rows: list[Record], reused: Collection[str] = ()) -> str:
    """One block per size and family, one line per method; `*` marks the best of each column, `(reused)` old values."""
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    names = {row["method"]: row["method"] + " (reused)" * (row["method"] in reused) for row in rows}
    width = max(len(name) for name in names.values()) + 2
    blocks = []
    for size, family in dict.fromkeys((r["size"], r["family"]) for r in rows):
        group = [r for r in rows if (r["size"], r["family"]) == (size, family)]
        title = f"{family}, {size} px, {group[0]['photos']} photos, hole {100 * group[0]['coverage']:.1f} %"
        if "texture_photo" in group[0]:
            title += f", texture of the photos themselves {group[0]['texture_photo']:.3f}"
        lines = [title, " " * width + " ".join(f"{METRICS[m].title:>12}" for m in metrics)]
        # Ties as shown are all marked: what cannot be told apart in the table is not ranked.
        shown = {m: [round(r[m], METRICS[m].digits) if m in r else None for r in group] for m in metrics}
        for i, row in enumerate(group):
            cells = []
            for m in metrics:
                value, sign = shown[m][i], METRICS[m].best
                if value is None:
                    cells.append(f"{'-':>12} ")
                    continue
                is_best = sign and sign * value == max(sign * v for v in shown[m] if v is not None)
                cells.append(f"{value:12.{METRICS[m].digits}f}{'*' if is_best else ' '}")
            lines.append(f"{names[row['method']]:<{width}}" + "".join(cells).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_frechet(rows: list[Record]) -> str:
    """One block per size, one line per method."""
    blocks = []
    for size in dict.fromkeys(row["size"] for row in rows):
        group = [row for row in rows if row["size"] == size]
        width = max(len(row["method"]) for row in group) + 2
        lines = [f"Frechet distance of MobileNetV2 embeddings, {size} px, {group[0]['crops']} crops around hole pixels"]
        for row in group:
            value = "not stored by the reused run" if row["distance"] is None else f"{row['distance']:10.3f}"
            lines.append(f"{row['method']:<{width}}{value}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_comparisons(rows: list[Record]) -> str:
    """The paired differences, one line each; `+` marks a gain and `-` a loss of more than two standard errors."""
    lines = ["paired differences, mean +- standard error (+ better, - worse, by more than two standard errors)"]
    cells = []
    for row in rows:
        metric, error = METRICS[row["metric"]], row["standard_error"]
        gain = metric.best * row["difference"]
        mark = " " if error is None or abs(gain) <= 2 * error else "+" if gain > 0 else "-"
        spread = "n/a" if error is None else f"{error:.{metric.digits}f}"
        ratio = f" (x {row['ratio']:.3f})" if metric.best < 0 and row["ratio"] is not None else ""
        cells.append(
            (
                mark,
                f"{row['family']} {row['size']}",
                metric.title,
                row["method"],
                f"{row['difference']:+.{metric.digits}f} +- {spread}",
                f"against {row['against']}{ratio}",
            )
        )
    widths = [max(len(cell[i]) for cell in cells) for i in range(6)]
    lines += ["  ".join(f"{text:<{w}}" for text, w in zip(cell, widths, strict=True)).rstrip() for cell in cells]
    return "\n".join(lines)
