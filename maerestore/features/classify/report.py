"""Evaluation of a classifier: accuracy with an interval, a table by class, a confusion matrix as a picture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.errors import MaerestoreError
from maerestore.image.errors import InputError, quoted
from maerestore.image.output import atomic_file, check_target
from maerestore.wording import counted

CONFIDENCE = 0.95
_MOST_NUMBERS = 40  # classes up to which the picture's cells hold their counts
_MOST_NAMES = 120  # classes up to which the picture names them


@dataclass(frozen=True)
class Evaluation:
    """Labels against predictions; made by `Evaluation.of`.

    Attributes:
        classes: names of the C classes.
        confusion: (C, C) int64, how many images of each label (row) were given each class (column).

    Example:
        >>> done = Evaluation.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("cat", "dog"))
        >>> done.line()
        'accuracy 75.0% (3 of 4), 95% Wilson interval 30.1% to 95.4%'
    """

    classes: tuple[str, ...]
    confusion: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> Evaluation:
        """Compare labels with predictions.

        Args:
            labels, predicted: (Q,) int, numbers of classes from 0 to C - 1, at least one.
            classes: names of the C classes.

        Raises:
            MaerestoreError: nothing to count, or two lengths.

        Example:
            >>> done = Evaluation.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("cat", "dog"))
            >>> done.accuracy, done.confusion.tolist()
            (0.75, [[1, 1], [0, 2]])
        """
        if len(labels) != len(predicted) or not len(labels):
            raise MaerestoreError(f"labels and predictions must pair, got {len(labels)} and {len(predicted)}")
        pairs = np.asarray(labels, np.int64) * len(classes) + np.asarray(predicted, np.int64)
        return cls(classes, np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), len(classes)))

    @property
    def images(self) -> int:
        """How many images were classified."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """How many images were classified correctly."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """The share of images that was classified correctly."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the accuracy: the uncertainty from the choice of test images."""
        from scipy.stats import binomtest

        found = binomtest(self.correct, self.images).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def by_class(self) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class, with the count of its images; None where there is no image to count.

        Example:
            >>> Evaluation.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("cat", "dog")).by_class()[0]
            {'class': 'cat', 'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'images': 2}
        """
        right, labelled, claimed = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)

        def share(part: float, whole: float) -> float | None:
            return float(part / whole) if whole else None

        return [
            {
                "class": name,
                "precision": share(right[i], claimed[i]),
                "recall": share(right[i], labelled[i]),
                "f1": share(2 * right[i], labelled[i] + claimed[i]),
                "images": int(labelled[i]),
            }
            for i, name in enumerate(self.classes)
        ]

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        recalls = [row["recall"] for row in self.by_class() if row["recall"] is not None]
        return sum(recalls) / len(recalls)

    def summary(self) -> dict[str, Any]:
        """The accuracy with its interval and the balanced accuracy, as JSON holds it."""
        low, high = self.interval
        return {
            "images": self.images,
            "correct": self.correct,
            "accuracy": round(self.accuracy, 6),
            "low": round(low, 6),
            "high": round(high, 6),
            "interval": f"{CONFIDENCE:.0%} Wilson",
            "balanced_accuracy": round(self.balanced_accuracy, 6),
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary, the figures of each class and the confusion matrix, as JSON holds them."""
        return self.summary() | {"by_class": self.by_class(), "confusion": self.confusion.tolist()}

    def line(self) -> str:
        """The accuracy as one line of text."""
        low, high = self.interval
        return (
            f"accuracy {self.accuracy:.1%} ({self.correct} of {self.images}), "
            f"{CONFIDENCE:.0%} Wilson interval {low:.1%} to {high:.1%}"
        )

    def table(self) -> str:
        """The classes as lines of text."""
        width = max(5, *(len(name) for name in self.classes))

        def cell(value: float | None) -> str:
            return f"{'-' if value is None else f'{value:.3f}':>9}"

        lines = [f"{'class':<{width}}{'precision':>11}{'recall':>9}{'F1':>9}{'images':>9}"]
        for row in self.by_class():
            numbers = f"  {cell(row['precision'])}{cell(row['recall'])}{cell(row['f1'])}"
            lines.append(f"{row['class']:<{width}}{numbers}{row['images']:>9}")
        return "\n".join(lines)


def check_picture(path: Path, overwrite: bool = False) -> None:
    """Check before the work that `draw_confusion` can draw, and can write there.

    Raises:
        InputError: another suffix than .png, or a place that cannot be written.
        MaerestoreError: matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"the confusion matrix is drawn as PNG: {quoted(path)} should end in .png.")
    check_target(path, overwrite)
    _figure_class()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MaerestoreError("drawing needs matplotlib: pip install 'maerestore[features]'") from None
    return Figure


def draw_confusion(evaluation: Evaluation, path: Path, overwrite: bool = False) -> None:
    """Draw the confusion matrix: labels down, predictions across, rows in shares of their label.

    Args:
        evaluation: what to draw.
        path: a .png file.
        overwrite: allow replacing it.

    Raises:
        MaerestoreError: matplotlib is missing, another suffix, or a file that cannot be written.
    """
    check_picture(path, overwrite)
    count = len(evaluation.classes)
    totals = evaluation.confusion.sum(1, keepdims=True)
    shares = evaluation.confusion / np.maximum(totals, 1)
    side = min(max(4.0, 0.45 * count), 24.0)
    figure = _figure_class()(figsize=(side + 2.4, side + 1.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= _MOST_NUMBERS:
        for i, j in zip(*np.nonzero(evaluation.confusion), strict=True):
            colour = "white" if shares[i, j] > 0.6 else "black"
            axes.text(j, i, f"{evaluation.confusion[i, j]}", ha="center", va="center", color=colour, fontsize=8)
    if count <= _MOST_NAMES:
        # A dollar sign would start a formula.
        names = [(n if len(n) <= 24 else n[:23] + "…").replace("$", r"\$") for n in evaluation.classes]
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_yticks(range(count), names, fontsize=9)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    low, high = evaluation.interval
    told = f"accuracy {evaluation.accuracy:.1%} ({CONFIDENCE:.0%} interval {low:.1%} to {high:.1%})"
    axes.set_title(f"{told}, {counted(evaluation.images, 'image')}", fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the label's images", fraction=0.046)
    with atomic_file(path, overwrite) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # boxes stand for letters that the font does not have
        figure.savefig(file, format="png", bbox_inches="tight")
