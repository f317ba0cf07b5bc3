"""Image restoration and augmentation on one pretrained masked autoencoder.

    >>> from maerestore import Inpainter                                # doctest: +SKIP
    >>> filled = Inpainter.from_pretrained().inpaint(photo, mask)       # doctest: +SKIP

Names are imported when they are first used, so that `import maerestore` loads neither torch nor OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maerestore import threads as threads  # it notes the process number: what is forked later has another
from maerestore.lazy import lazy_names

__version__ = "0.1.0"

_LAZY = {
    "BatchMAEAugment": "maerestore.augment.batch",
    "Classifier": "maerestore.features.classify.classifier",
    "FeatureExtractor": "maerestore.features.extractor",
    "ImageIndex": "maerestore.features.index.image_index",
    "InputError": "maerestore.image",
    "Inpainter": "maerestore.inpaint.pipeline",
    "MAEAugment": "maerestore.augment.host",
    "MAEConfig": "maerestore.model",
    "MaerestoreError": "maerestore.errors",
    "MaskedAutoencoder": "maerestore.model",
    "ModelError": "maerestore.hub.errors",
}
__all__ = [
    "BatchMAEAugment",
    "Classifier",
    "FeatureExtractor",
    "ImageIndex",
    "Inpainter",
    "InputError",
    "MAEAugment",
    "MAEConfig",
    "MaerestoreError",
    "MaskedAutoencoder",
    "ModelError",
    "__version__",
]

if TYPE_CHECKING:
    from maerestore.augment.batch import BatchMAEAugment
    from maerestore.augment.host import MAEAugment
    from maerestore.errors import MaerestoreError
    from maerestore.features.classify.classifier import Classifier
    from maerestore.features.extractor import FeatureExtractor
    from maerestore.features.index.image_index import ImageIndex
    from maerestore.hub.errors import ModelError
    from maerestore.image import InputError
    from maerestore.inpaint.pipeline import Inpainter
    from maerestore.model import MAEConfig, MaskedAutoencoder

__getattr__, __dir__ = lazy_names(__name__, _LAZY, __all__)
