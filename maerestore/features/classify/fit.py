"""Fitting a classifier to features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.finetune import FineTuneSettings
from maerestore.features.classify.head_config import METHODS, HeadConfig
from maerestore.features.classify.images import Progress
from maerestore.features.classify.knn import NEIGHBOURS, TEMPERATURE, KNNHead, fit_knn
from maerestore.features.classify.labelled import check_class_names, numbers_of, split
from maerestore.features.classify.linear import RATES, LinearHead, fit_linear
from maerestore.features.classify.logistic import STRENGTHS, fit_logistic, is_cross_validated
from maerestore.features.classify.report import Evaluation
from maerestore.features.classify.whitened import load_whitening
from maerestore.features.model_names import name_to_keep
from maerestore.features.table import FeatureTable
from maerestore.features.whiten import Whitening
from maerestore.image.errors import InputError

_CHOSEN = {"knn": "k", "linear": "the learning rate", "logistic": "C"}
MOST_LOGISTIC = 10_000  # training images up to which "auto" is logistic regression


@dataclass(frozen=True)
class FitSettings:
    """Settings for fitting a head.

    Args:
        method: "knn", "linear", "logistic", "finetune", or "auto": logistic regression for up to 10,000 training images
            (and where scikit-learn is there), the linear probe for more.
        ks: numbers of neighbours that "knn" tries, each at least 1; those over N count as N.
        temperature: of the votes of "knn", above 0.
        rates: learning rates that "linear" tries, for 256 images a step, each above 0.
        seed: of everything drawn: the split, the order of the images, the crops.
        tuning: of "finetune"; its seed is this seed.

    Raises:
        MaerestoreError: another method.

    Example:
        >>> FitSettings(method="knn", ks=(5, 20)).method_for(images=60)
        'knn'
    """

    method: str = "auto"
    ks: tuple[int, ...] = NEIGHBOURS
    temperature: float = TEMPERATURE
    rates: tuple[float, ...] = RATES
    seed: int = 0
    tuning: FineTuneSettings = field(default_factory=FineTuneSettings)

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise MaerestoreError(f"method must be one of auto, {', '.join(METHODS)}, got {self.method!r}")

    def method_for(self, images: int) -> str:
        """The method for a number of training images."""
        if self.method != "auto":
            return self.method
        return "logistic" if images <= MOST_LOGISTIC and find_spec("sklearn") is not None else "linear"


def check_labels(
    labels: Sequence[str | None],
    val_labels: Sequence[str | None],
    settings: FitSettings,
    share: float = 0.0,
) -> None:
    """Check labels before the features are made, so that `fit_tables` does not fail after that work.

    Args:
        labels: classes of the images to train on.
        val_labels: those of the validation; may be empty.
        settings: of the fit.
        share: of each class of `labels`, in [0, 1), that will be parted off as the validation.

    Raises:
        InputError: fewer than two classes, a class of the validation that was not trained on, or no image left to
            choose k, the learning rate or C by.

    Example:
        >>> check_labels(["cat"] * 30 + ["dog"] * 30, [], FitSettings("linear"))
        Traceback (most recent call last):
        maerestore.image.errors.InputError: the learning rate is chosen by validation, and no image is left for it: ...
    """
    numbered(labels, val_labels)
    kept, held = split([str(label) for label in labels], share, settings.seed)
    if settings.method == "finetune" or len(val_labels) or len(held):
        return
    method, fewest = settings.method_for(len(kept)), min(Counter(labels).values())
    choices = {
        "knn": len({min(k, len(kept)) for k in settings.ks}),
        "linear": len(settings.rates),
        # by cross-validation where there are images for it
        "logistic": 1 if is_cross_validated(len(kept), fewest) else len(STRENGTHS),
    }
    if choices[method] > 1:
        raise InputError(
            f"{_CHOSEN[method]} is chosen by validation, and no image is left for it: give a validation set"
            f"{', one k only,' if method == 'knn' else ''} or a share above 0 of classes of two images or more."
        )


def fit_tables(
    train: FeatureTable,
    validation: FeatureTable | None,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    *,
    whitening: Whitening | str | Path | None = None,
    **classifier: Any,
) -> Classifier:
    """Fit a head to features.

    Args:
        train: N rows of D numbers, each with a label, of two classes or more. Rows with an error are left out.
        validation: other images of the same classes, by the same extractor. What is to be chosen is chosen by them, and
            the accuracy is measured on them. None where nothing is to be chosen; see `check_labels`.
        settings: any method but "finetune".
        progress: called with a stage, what is done, and the total.
        whitening: what was applied to the features, or the file that holds it; the classifier keeps it.
        **classifier: passed to `Classifier` (device, batch_size).

    Returns:
        the classifier, not saved yet.

    Raises:
        InputError: fewer than two classes, a class of the validation that was not trained on, two extractors, or the
            method "finetune".
        MaerestoreError: nothing to choose by, or scikit-learn is missing.
        ModelError: a whitening that was not applied to the features.

    Example:
        >>> from maerestore.features import read_table                                      # doctest: +SKIP
        >>> train, held = read_table("train.parquet"), read_table("held.parquet")           # doctest: +SKIP
        >>> classifier = fit_tables(train, held, FitSettings(method="knn"))                 # doctest: +SKIP
        >>> classifier.config.validation["accuracy"]                                        # doctest: +SKIP
        0.925
        >>> classifier.save_pretrained("heads/animals")                                     # doctest: +SKIP
    """
    settings = settings or FitSettings()
    train, validation = train.without_errors(), None if validation is None else validation.without_errors()
    method = settings.method_for(len(train))
    if method == "finetune":
        raise InputError("fine-tuning needs the images: give them instead of their features.")
    facts = train.facts
    if validation is not None and validation.facts.get("fingerprint") != facts.get("fingerprint"):
        raise InputError("the features of the validation were made by another model, or with other options.")
    whitening = load_whitening(whitening, str(facts["fingerprint"]))
    classes, labels, val_labels = numbered(train.labels, validation.labels if validation is not None else [])
    x, y = torch.from_numpy(train.features), torch.from_numpy(labels)
    val_x: Tensor | None = None
    val_y: Tensor | None = None
    if validation is not None and len(validation):
        val_x, val_y = torch.from_numpy(validation.features), torch.from_numpy(val_labels)
    head, chosen = _fitted(method, x, y, len(classes), val_x, val_y, settings, progress)
    config = HeadConfig(
        method,
        classes,
        counts_of(labels, classes),
        x.shape[1],
        name_to_keep(str(facts["model"])),
        str(facts["fingerprint"]),
        dict(facts["options"]),
        chosen,
        {} if val_x is None or val_y is None else _validated(method, chosen, head, val_x, val_y, classes),
        {"seed": settings.seed},
        whitened=whitening is not None,
    )
    return Classifier(config, head, whitening=whitening, **classifier)


def _fitted(
    method: str,
    x: Tensor,
    y: Tensor,
    count: int,
    val_x: Tensor | None,
    val_y: Tensor | None,
    settings: FitSettings,
    progress: Progress | None,
) -> tuple[KNNHead | LinearHead, dict[str, Any]]:
    """The head of a method, and what was chosen."""
    seed = settings.seed
    if method == "knn":
        return fit_knn(x, y, count, val_x, val_y, settings.ks, settings.temperature)
    if method == "linear":
        return fit_linear(x, y, count, val_x, val_y, settings.rates, seed=seed, progress=progress)
    return fit_logistic(x, y, count, val_x, val_y, seed=seed, progress=progress)


def _validated(
    method: str,
    chosen: dict[str, Any],
    head: KNNHead | LinearHead,
    val_x: Tensor,
    val_y: Tensor,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """The validation accuracy, with a note where a hyperparameter was chosen by it."""
    found = accuracy_of(head, val_x, val_y, classes)
    by_them = method != "logistic" or chosen.get("by") == "validation"
    if by_them and len(chosen.get("tried", {})) > 1:
        found["note"] = f"{_CHOSEN[method]} was chosen by them"
    return found


def numbered(
    labels: Sequence[str | None], val_labels: Sequence[str | None]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The classes of labels, and the labels as numbers.

    Args:
        labels: of the N training images.
        val_labels: of the Q images of the validation.

    Returns:
        the names of the C classes, sorted; their numbers for the training images, (N,) int64, and for the validation,
        (Q,) int64.

    Raises:
        InputError: fewer than two classes, a name that no head can keep, or a class of the validation that was not
            trained on.
    """
    classes = tuple(sorted({str(label) for label in labels}))
    if len(classes) < 2:
        raise InputError(f"a classifier tells two classes or more apart, the training images are of {len(classes)}.")
    check_class_names(classes)
    return classes, numbers_of(labels, classes), numbers_of(val_labels, classes)


def counts_of(labels: np.ndarray, classes: Sequence[str]) -> tuple[int, ...]:
    """How many of the labels, (N,) int64, each class has."""
    return tuple(np.bincount(labels, minlength=len(classes)).tolist())


def accuracy_of(
    head: KNNHead | LinearHead, features: Tensor, labels: Tensor, classes: tuple[str, ...]
) -> dict[str, Any]:
    """`Evaluation.summary` of a head on features (Q, D) with labels (Q,)."""
    predicted = head.probabilities(features).argmax(1)
    return Evaluation.of(labels.numpy(), predicted.numpy(), classes).summary()
