"""Fitting a classifier: to features, or to images where the whole encoder is tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.errors import MaerestoreError
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.finetune import FineTuneSettings, encoder_of, finetune
from maerestore.features.classify.head_config import METHODS, HeadConfig, name_to_keep
from maerestore.features.classify.images import Progress, features_of_items
from maerestore.features.classify.knn import NEIGHBOURS, TEMPERATURE, KNNHead, fit_knn
from maerestore.features.classify.labelled import numbers_of, split
from maerestore.features.classify.linear import RATES, LinearHead, Standardize, fit_linear, score
from maerestore.features.classify.logistic import MOST_CROSS_VALIDATED, STRENGTHS, fit_logistic
from maerestore.features.classify.report import Evaluation
from maerestore.features.classify.whitened import load_whitening
from maerestore.features.decode import load_image
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.items import Item, source_of
from maerestore.features.table import FeatureTable
from maerestore.features.whiten import Whitening
from maerestore.hub.load import pick_device
from maerestore.image.errors import InputError
from maerestore.model import MaskedAutoencoder
from maerestore.wording import counted

_CHOSEN = {"knn": "k", "linear": "the learning rate", "logistic": "C"}
MOST_LOGISTIC = 10_000  # training images up to which "auto" is logistic regression


@dataclass(frozen=True)
class FitSettings:
    """How a head is fitted.

    Args:
        method: "knn", "linear", "logistic", "finetune", or "auto": logistic regression for up to 10,000 training images
            (and where scikit-learn is there), the linear probe for more.
        ks: candidates of "knn".
        temperature: of "knn".
        rates: candidates of "linear".
        seed: of everything drawn.
        tuning: of "finetune"; its seed is this seed.

    Raises:
        ValueError: another method.
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
    """Refuse before the features are made what `fit_tables` would refuse afterwards.

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
    _classes(labels, val_labels)
    kept, held = split([str(label) for label in labels], share, settings.seed)
    if settings.method == "finetune" or len(val_labels) or len(held):
        return
    method, fewest = settings.method_for(len(kept)), min(Counter(labels).values())
    choices = {
        "knn": len({min(k, len(kept)) for k in settings.ks}),
        "linear": len(settings.rates),
        # by cross-validation where there are images for it
        "logistic": 1 if fewest >= 2 and len(kept) <= MOST_CROSS_VALIDATED else len(STRENGTHS),
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
        train: with a label in every row, of two classes or more.
        validation: other images of the same classes, by the same extractor; what is to be chosen is chosen by them, and
            the accuracy is measured on them. None where nothing is to be chosen.
        settings: any method but "finetune".
        progress: called with a stage, what is done, and the total.
        whitening: what was applied to the features, or the file that holds it; the classifier keeps it.
        **classifier: passed to `Classifier` (device, batch_size).

    Raises:
        InputError: fewer than two classes, a class of the validation that was not trained on, or nothing to choose by.
        ModelError: a whitening that was not applied to the features.
    """
    settings = settings or FitSettings()
    method = settings.method_for(len(train))
    if method == "finetune":
        raise InputError("fine-tuning needs the images: give them instead of their features.")
    classes, labels, val_labels = _classes(train.labels, validation.labels if validation is not None else [])
    facts = train.facts
    whitening = load_whitening(whitening, str(facts["fingerprint"]))
    x, y = torch.from_numpy(train.features), torch.from_numpy(labels)
    val_x: Tensor | None = None
    val_y: Tensor | None = None
    if validation is not None and len(validation):
        if validation.facts.get("fingerprint") != facts.get("fingerprint"):
            raise InputError("the features of the validation were made by another model, or with other options.")
        val_x, val_y = torch.from_numpy(validation.features), torch.from_numpy(val_labels)
    head: KNNHead | LinearHead
    if method == "knn":
        head, chosen = fit_knn(x, y, len(classes), val_x, val_y, settings.ks, settings.temperature)
    elif method == "linear":
        head, chosen = fit_linear(
            x, y, len(classes), val_x, val_y, settings.rates, seed=settings.seed, progress=progress
        )
    else:
        head, chosen = fit_logistic(x, y, len(classes), val_x, val_y, seed=settings.seed, progress=progress)
    measured: dict[str, Any] = {}
    if val_x is not None and val_y is not None:
        measured = _measured(head, val_x, val_y, classes)
        by_them = method != "logistic" or chosen.get("by") == "validation"
        if by_them and len(chosen.get("tried", {})) > 1:
            measured["note"] = f"{_CHOSEN[method]} was chosen by them"
    config = HeadConfig(
        method,
        classes,
        tuple(np.bincount(labels, minlength=len(classes)).tolist()),
        x.shape[1],
        name_to_keep(str(facts["model"])),
        str(facts["fingerprint"]),
        dict(facts["options"]),
        chosen,
        measured,
        {"seed": settings.seed},
        whitened=whitening is not None,
    )
    return Classifier(config, head, whitening=whitening, **classifier)


def fit_images(
    model: MaskedAutoencoder,
    train: Sequence[Item],
    validation: Sequence[Item],
    settings: FitSettings | None = None,
    *,
    share: float = 0.0,
    start: str = "model",
    device: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    progress: Progress | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Classifier:
    """Fit a linear probe to an encoder's features, then tune both on images.

    With a validation set the best epoch by it is kept, the probe itself among them: the result is no worse there.

    Args:
        model: where to start; it is left as it is.
        train, validation: images with labels, of two classes or more; the validation may be empty.
        settings: its `tuning` counts, and its seed.
        share: of each class of `train`, parted off as the validation once those that cannot be read are left out, so
            that they change nothing. 0 where `validation` is given.
        start: what the model is called, for the records.
        device: where it runs.
        batch_size: images that go through the network together.
        workers: threads that decode; None for one a core, at most 16.
        progress: called with a stage, what is done, and the total.
        failed: called with name and reason of each image that cannot be read; these are left out.

    Raises:
        InputError: fewer than two classes, or a class of the validation that was not trained on.
        ValueError: a share outside [0, 1), or beside a validation.
    """
    settings = settings or FitSettings(method="finetune")
    if not 0 <= share < 1 or (share and validation):
        raise MaerestoreError(f"share must lie in [0, 1), and be 0 beside a validation, got {share}")
    tuning = replace(settings.tuning, seed=settings.seed)
    _classes([item.label for item in train], [item.label for item in validation])  # told before the work

    def features(
        items: Sequence[Item], encoder: MaskedAutoencoder, told: Callable[[str, str], None] | None
    ) -> FeatureTable:
        extractor = FeatureExtractor(AutoencoderBackbone(encoder), tuning.options, device=device, batch_size=batch_size)
        return features_of_items(items, extractor, None, workers, progress, told)

    encoder = encoder_of(model)
    items = [*train, *validation]
    table = features(items, encoder, failed)
    good = [i for i, error in enumerate(table.errors) if error is None]
    items, rows = [items[i] for i in good], torch.from_numpy(table.features[good])
    kept, held = np.split(np.arange(len(good)), [sum(i < len(train) for i in good)])
    if share:
        kept, held = split([str(item.label) for item in items], share, settings.seed)
    train, validation = [items[i] for i in kept], [items[i] for i in held]
    classes, labels, val_labels = _classes([item.label for item in train], [item.label for item in validation])
    x, val_x = rows[kept], rows[held] if validation else None
    y, val_y = torch.from_numpy(labels), torch.from_numpy(val_labels)
    probe, about = _probe(x, y, len(classes), val_x, val_y, settings.seed, progress)
    measured: list[dict[str, Any]] = []

    def worth(tuned: MaskedAutoencoder, head: LinearHead) -> tuple[float, float]:
        known = val_x if head is probe else None
        seen = torch.from_numpy(features(validation, tuned, None).features) if known is None else known
        measured.append(_measured(head, seen, val_y, classes))
        return score(head, seen, val_y)

    side = round(1.5 * (tuning.size or model.config.image_size))

    def load(number: int) -> np.ndarray:
        return load_image(source_of(train[number]), side)

    encoder, head, chosen = finetune(
        encoder,
        load,
        y,
        probe,
        Standardize.of(x),
        tuning,
        worth if validation else None,
        pick_device(device),
        batch_size,
        workers or 4,
        progress,
    )
    told: dict[str, Any] = {}
    if measured:
        about["validation"] = measured[0]
        chosen["accuracies"] = [found["accuracy"] for found in measured]
        of, best = f"of {counted(tuning.epochs, 'epoch')}", chosen["kept"]
        better = f"epoch {best} {of} was chosen by them, the probe before has {measured[0]['accuracy']:.1%}"
        told = measured[best] | {"note": better if best else f"the linear probe alone: none {of} was better by them"}
    extractor = FeatureExtractor(AutoencoderBackbone(encoder), tuning.options, device=device, batch_size=batch_size)
    config = HeadConfig(
        "finetune",
        classes,
        tuple(np.bincount(labels, minlength=len(classes)).tolist()),
        extractor.dim,
        None,
        extractor.fingerprint,
        tuning.options.to_dict(),
        chosen | {"probe": about},
        told,
        {"seed": settings.seed, "start": name_to_keep(start)},
    )
    return Classifier(config, head, encoder, device=device, batch_size=batch_size)


def _probe(
    x: Tensor, y: Tensor, count: int, val_x: Tensor | None, val_y: Tensor | None, seed: int, progress: Progress | None
) -> tuple[LinearHead, dict[str, Any]]:
    """The head that fine-tuning starts from, with how it was fitted; a tenth is held out where nothing else is."""
    method = FitSettings().method_for(len(x))
    crossed = method == "logistic" and len(x) <= MOST_CROSS_VALIDATED and bool((torch.bincount(y) > 1).all())
    held = np.arange(0)
    if val_x is None and not crossed:
        kept, held = split([str(label) for label in y.tolist()], 0.1, seed)
        x, y, val_x, val_y = x[kept], y[kept], x[held], y[held]
    one = (0.1,) if val_x is not None and not len(val_x) else None  # a single image of each class
    if method == "logistic":
        head, chosen = fit_logistic(x, y, count, val_x, val_y, one or STRENGTHS, seed, progress)
    else:
        head, chosen = fit_linear(x, y, count, val_x, val_y, one or RATES, seed=seed, progress=progress)
    chosen.pop("tried", None)
    return head, {"method": method, **chosen} | ({"held_out": len(held)} if len(held) else {})


def _classes(
    labels: Sequence[str | None], val_labels: Sequence[str | None]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the classes, and the numbers of those of the training and validation images."""
    classes = tuple(sorted({str(label) for label in labels}))
    if len(classes) < 2:
        raise InputError(f"a classifier tells two classes or more apart, the training images are of {len(classes)}.")
    return classes, numbers_of(labels, classes), numbers_of(val_labels, classes)


def _measured(head: KNNHead | LinearHead, features: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    predicted = head.probabilities(features).argmax(1)
    return Evaluation.of(labels.numpy(), predicted.numpy(), classes).summary()
