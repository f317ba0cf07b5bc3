"""Classification on features: k-NN, linear probe, logistic regression, fine-tuning.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maerestore.lazy import lazy_names

_LAZY = {
    "Classifier": "maerestore.features.classify.classifier",
    "Evaluation": "maerestore.features.classify.report",
    "FineTuneSettings": "maerestore.features.classify.finetune",
    "FitSettings": "maerestore.features.classify.fit",
    "Prediction": "maerestore.features.classify.classifier",
    "fit_images": "maerestore.features.classify.fit_encoder",
    "fit_tables": "maerestore.features.classify.fit",
}
__all__ = ["Classifier", "Evaluation", "FineTuneSettings", "FitSettings", "Prediction", "fit_images", "fit_tables"]

if TYPE_CHECKING:
    from maerestore.features.classify.classifier import Classifier, Prediction
    from maerestore.features.classify.finetune import FineTuneSettings
    from maerestore.features.classify.fit import FitSettings, fit_tables
    from maerestore.features.classify.fit_encoder import fit_images
    from maerestore.features.classify.report import Evaluation

__getattr__, __dir__ = lazy_names(__name__, _LAZY, __all__)
