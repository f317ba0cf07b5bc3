"""Fitting a classifier to images: a linear probe first, then the whole encoder is tuned with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maerestore.device import pick_device
from maerestore.errors import MaerestoreError
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.finetune import FineTuneSettings, encoder_of, finetune
from maerestore.features.classify.fit import FitSettings, accuracy_of, counts_of, numbered
from maerestore.features.classify.head_config import HeadConfig
from maerestore.features.classify.images import Progress, features_of_items
from maerestore.features.classify.labelled import split
from maerestore.features.classify.linear import RATES, LinearHead, Standardize, fit_linear, score
from maerestore.features.classify.logistic import STRENGTHS, fit_logistic, is_cross_validated
from maerestore.features.decode import load_image
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.items import Item, source_of
from maerestore.features.model_names import name_to_keep
from maerestore.features.table import FeatureTable
from maerestore.model import MaskedAutoencoder
from maerestore.wording import counted

Failed = Callable[[str, str], None]


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
    failed: Failed | None = None,
) -> Classifier:
    """Fit a linear probe to an encoder's features, then tune both on images.

    With a validation set the epoch that is best by it is kept, the probe itself among them: the result is no worse
    there.

    Args:
        model: where to start; it is left as it is.
        train: images with labels, of two classes or more, as `maerestore.features.classify.labelled.find_labelled`
            finds them.
        validation: other images of the same classes; may be empty.
        settings: its `tuning` counts, and its seed.
        share: of each class of `train`, in [0, 1), parted off as the validation once images that cannot be read are
            left out, so that they change nothing. 0 where `validation` is given.
        start: what the model is called, for the records.
        device: where it runs: "auto", "cpu", "cuda" or "mps".
        batch_size: images that go through the network together, at least 1.
        workers: threads that decode, at least 1; None for one a core, at most 16.
        progress: called with a stage, what is done, and the total.
        failed: called with name and reason of each image that cannot be read; these are left out.

    Returns:
        the classifier with its encoder, not saved yet.

    Raises:
        InputError: fewer than two classes, or a class of the validation that was not trained on.
        MaerestoreError: a share outside [0, 1), or beside a validation; a loss that is no finite number any more.
        ModelError: no such device.

    Example:
        >>> from maerestore import MaskedAutoencoder                                        # doctest: +SKIP
        >>> from maerestore.features.classify.labelled import find_labelled                 # doctest: +SKIP
        >>> model = MaskedAutoencoder.from_pretrained("features")                           # doctest: +SKIP
        >>> classifier = fit_images(model, find_labelled([Path("photos")]), [], share=0.2)  # doctest: +SKIP
        >>> classifier.predict("photo.jpg")[0].label                                        # doctest: +SKIP
        'cat'
    """
    settings = settings or FitSettings(method="finetune")
    if not 0 <= share < 1 or (share and validation):
        raise MaerestoreError(f"share must lie in [0, 1), and be 0 beside a validation, got {share}")
    numbered([item.label for item in train], [item.label for item in validation])  # refused before the work
    tuning = replace(settings.tuning, seed=settings.seed)
    extraction = _Extraction(tuning, device, batch_size, workers, progress)
    encoder = encoder_of(model)
    images = _readable(encoder, train, validation, share, settings.seed, extraction, failed)
    probe, about = fit_probe(
        images.x, images.y, len(images.classes), images.val_x, images.val_y, settings.seed, progress
    )
    validator = _Validator(images, probe, extraction)
    side = round(1.5 * (tuning.size or model.config.image_size))
    encoder, head, chosen = finetune(
        encoder,
        lambda number: load_image(source_of(images.train[number]), side),
        images.y,
        probe,
        Standardize.of(images.x),
        tuning,
        validator if images.validation else None,
        pick_device(device),
        batch_size,
        workers or 4,
        progress,
    )
    if validator.found:
        about["validation"] = validator.found[0]
        chosen["accuracies"] = [found["accuracy"] for found in validator.found]
    extractor = extraction.extractor(encoder)
    config = HeadConfig(
        "finetune",
        images.classes,
        counts_of(images.y.numpy(), images.classes),
        extractor.dim,
        None,
        extractor.fingerprint,
        tuning.options.to_dict(),
        chosen | {"probe": about},
        validator.summary(chosen["kept"], tuning.epochs),
        {"seed": settings.seed, "start": name_to_keep(start)},
    )
    return Classifier(config, head, encoder, device=device, batch_size=batch_size)


@dataclass(frozen=True)
class _Extraction:
    """Makes features with the encoder as it is during the tuning."""

    tuning: FineTuneSettings
    device: str
    batch_size: int
    workers: int | None
    progress: Progress | None

    def extractor(self, encoder: MaskedAutoencoder) -> FeatureExtractor:
        backbone = AutoencoderBackbone(encoder)
        return FeatureExtractor(backbone, self.tuning.options, device=self.device, batch_size=self.batch_size)

    def __call__(self, encoder: MaskedAutoencoder, items: Sequence[Item], failed: Failed | None = None) -> FeatureTable:
        return features_of_items(items, self.extractor(encoder), None, self.workers, self.progress, failed)


@dataclass(frozen=True)
class _Images:
    """The readable images, split, with their classes and their features before the tuning.

    Attributes:
        train, validation: the images.
        classes: names of the C classes.
        x, y: features (N, D) and labels (N,) of the training images.
        val_x, val_y: the same of the validation; None and empty where there is none.
    """

    train: list[Item]
    validation: list[Item]
    classes: tuple[str, ...]
    x: Tensor
    y: Tensor
    val_x: Tensor | None
    val_y: Tensor


def _readable(
    encoder: MaskedAutoencoder,
    train: Sequence[Item],
    validation: Sequence[Item],
    share: float,
    seed: int,
    extraction: _Extraction,
    failed: Failed | None,
) -> _Images:
    """Make the features, leave out images that cannot be read, and split the rest into training and validation."""
    items = [*train, *validation]
    table = extraction(encoder, items, failed)
    good = [i for i, error in enumerate(table.errors) if error is None]
    items, rows = [items[i] for i in good], torch.from_numpy(table.features[good])
    kept, held = np.split(np.arange(len(good)), [sum(i < len(train) for i in good)])
    if share:
        kept, held = split([str(item.label) for item in items], share, seed)
    train, validation = [items[i] for i in kept], [items[i] for i in held]
    classes, labels, val_labels = numbered([item.label for item in train], [item.label for item in validation])
    val_x = rows[held] if validation else None
    return _Images(
        train, validation, classes, rows[kept], torch.from_numpy(labels), val_x, torch.from_numpy(val_labels)
    )


@dataclass
class _Validator:
    """Measures an encoder and its head on the validation: the probe first, then each epoch.

    Attributes:
        found: what was measured, in order: accuracy with its interval.
    """

    images: _Images
    probe: LinearHead
    extraction: _Extraction
    found: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, tuned: MaskedAutoencoder, head: LinearHead) -> tuple[float, float]:
        known = self.images.val_x if head is self.probe else None
        if known is None:
            known = torch.from_numpy(self.extraction(tuned, self.images.validation).features)
        self.found.append(accuracy_of(head, known, self.images.val_y, self.images.classes))
        return score(head, known, self.images.val_y)

    def summary(self, kept: int, epochs: int) -> dict[str, Any]:
        """The accuracy of the epoch that is kept, with a note on how it was chosen; empty without a validation."""
        if not self.found:
            return {}
        of = f"of {counted(epochs, 'epoch')}"
        note = f"epoch {kept} {of} was chosen by them, the probe before has {self.found[0]['accuracy']:.1%}"
        return self.found[kept] | {"note": note if kept else f"the linear probe alone: none {of} was better by them"}


def fit_probe(
    x: Tensor, y: Tensor, count: int, val_x: Tensor | None, val_y: Tensor | None, seed: int, progress: Progress | None
) -> tuple[LinearHead, dict[str, Any]]:
    """The head that fine-tuning starts from, and how it was fitted. Without a validation set and where the strength
    cannot be chosen by cross-validation, a tenth of the images is held out."""
    method = FitSettings().method_for(len(x))
    crossed = method == "logistic" and is_cross_validated(len(x), int(torch.bincount(y).min()))
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
