"""Masked-reconstruction views for any training loop: hide part of an image, rebuild it, train on the result.

Each host library has its own `MAEAugment`: `maerestore.augment.albumentations`, `.torchvision` and `.kornia`. Batches
on the training device go through `BatchMAEAugment`. Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maerestore.lazy import lazy_names

_LAZY = {
    "BatchMAEAugment": "maerestore.augment.batch",
    "Draw": "maerestore.augment.core",
    "MAEAugment": "maerestore.augment.host",
    "MaskedViews": "maerestore.augment.core",
    "ViewSettings": "maerestore.augment.settings",
    "preload": "maerestore.augment.models",
}
__all__ = ["BatchMAEAugment", "Draw", "MAEAugment", "MaskedViews", "ViewSettings", "preload"]

if TYPE_CHECKING:
    from maerestore.augment.batch import BatchMAEAugment
    from maerestore.augment.core import Draw, MaskedViews
    from maerestore.augment.host import MAEAugment
    from maerestore.augment.models import preload
    from maerestore.augment.settings import ViewSettings

__getattr__, __dir__ = lazy_names(__name__, _LAZY, __all__)
