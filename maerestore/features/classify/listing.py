"""Predictions as text: a table, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maerestore.features.classify.classifier import Prediction

Rows = list[tuple[str, "Prediction | None", "str | None"]]
"""An image's name, what it is taken for, and why it is taken for nothing."""


def as_json(rows: Rows) -> str:
    """A list of objects: path, class, probability and the best classes; or path and error."""
    found = [
        {"path": name, "error": error}
        if prediction is None
        else {
            "path": name,
            "class": prediction.label,
            "probability": round(prediction.probability, 6),
            "top": [{"class": label, "probability": round(p, 6)} for label, p in prediction.top],
        }
        for name, prediction, error in rows
    ]
    return json.dumps(found, indent=1) + "\n"


def as_csv(rows: Rows) -> str:
    """A line an image: path, class, probability, class_2, probability_2, ..., error."""
    top = max((len(prediction.top) for _, prediction, _ in rows if prediction is not None), default=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    writer.writerow(["path", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability")), "error"])
    for name, prediction, error in rows:
        cells = [(label, f"{p:.6f}") for label, p in prediction.top] if prediction is not None else [("", "")] * top
        writer.writerow([name, *(part for cell in cells for part in cell), error or ""])
    return text.getvalue()


def as_table(rows: Rows) -> str:
    """A line for each image that was classified, for reading."""
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = []
    for name, prediction, _ in rows:
        if prediction is not None:
            told = "  ".join(f"{label} {p:.3f}" for label, p in prediction.top)
            lines.append(f"{name:<{width}}  {told}\n")
    return "".join(lines)
