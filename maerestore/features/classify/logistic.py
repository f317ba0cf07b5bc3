"""Logistic regression by scikit-learn, for sets of up to some thousand images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.classify.linear import LinearHead, Standardize

# Inverse strengths of the L2 penalty on standardised features, weakest model first: each fit starts from the last.
STRENGTHS = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-5, 1.01, 0.5))
FOLDS = 5
MOST_CROSS_VALIDATED = 5000  # images; larger sets are validated on one part


def is_cross_validated(images: int, fewest: int) -> bool:
    """Whether `fit_logistic` chooses by cross-validation, of N images with `fewest` in the smallest class."""
    return fewest >= 2 and images <= MOST_CROSS_VALIDATED


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    val_features: Tensor | None = None,
    val_labels: Tensor | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[LinearHead, dict[str, Any]]:
    """Fit multinomial logistic regression with an L2 penalty of the best strength.

    The strength is chosen by 5-fold cross-validation inside the training part where that has at most 5,000 images and
    two of each class, by the validation set otherwise.

    Args:
        features: (N, D) float32.
        labels: (N,) int64, 0 to `num_classes` - 1, of each at least one.
        num_classes: C, at least 2.
        val_features, val_labels: (Q, D) and (Q,), or None.
        strengths: candidates for scikit-learn's C.
        seed: of the folds.
        progress: called with a stage, what is done, and the total.

    Returns:
        the head, and what was chosen: C, how ("by"), and the accuracy of every candidate.

    Raises:
        MaerestoreError: scikit-learn is missing, a class without an image, or nothing to choose the strength by.
    """
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError:
        raise MaerestoreError(
            "logistic regression needs scikit-learn: pip install 'maerestore[features]', or take --method linear",
            in_python="method='linear'",
        ) from None
    counts = torch.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise MaerestoreError(f"class {int(counts.argmin())} has no training image")
    standardize = Standardize.of(features)
    x, y = standardize(features).numpy(), labels.numpy()
    folds = min(FOLDS, int(counts.min()))
    ordered = sorted(set(strengths))
    by, parts = "", []
    if len(ordered) > 1 and is_cross_validated(len(x), int(counts.min())):
        by = f"{folds}-fold cross-validation"
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(x, y)
        parts = [(x[fit], y[fit], x[left], y[left]) for fit, left in splits]
    elif len(ordered) > 1:
        if val_features is None or val_labels is None or not len(val_features):
            raise MaerestoreError("the strength is chosen by validation: give a validation set")
        by, parts = "validation", [(x, y, standardize(val_features).numpy(), val_labels.numpy())]
    scores = np.zeros((len(ordered), 2))  # accuracy, then likelihood for those that are equally good
    for number, part in enumerate(parts):
        scores += _path(*part, ordered) * len(part[3]) / sum(len(p[3]) for p in parts)
        if progress is not None:
            progress("logistic regression", number + 1, len(parts) + 1)
    best = max(range(len(ordered)), key=lambda i: tuple(scores[i]))
    model = _model(ordered[best]).fit(x, y)
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if num_classes == 2:  # scikit-learn keeps the second class's logit only
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    chosen: dict[str, Any] = {"C": ordered[best]}
    if by:
        tried = {f"{c:g}": round(float(score[0]), 6) for c, score in zip(ordered, scores, strict=True)}
        chosen |= {"by": by, "tried": tried}
    return standardize.fold(weight, bias), chosen


def _model(strength: float, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000, **settings)


def _path(x: np.ndarray, y: np.ndarray, val_x: np.ndarray, val_y: np.ndarray, strengths: list[float]) -> np.ndarray:
    """Accuracy and mean log-likelihood of a validation part for every strength: (len(strengths), 2)."""
    from sklearn.exceptions import ConvergenceWarning

    model, scores = _model(1.0, warm_start=True), []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the score says what the fit is worth
            model.set_params(C=strength).fit(x, y)
        logs = model.predict_log_proba(val_x)
        likelihood = np.clip(logs[np.arange(len(val_y)), val_y], -30, None).mean()
        scores.append((float((logs.argmax(1) == val_y).mean()), float(likelihood)))
    return np.array(scores)
