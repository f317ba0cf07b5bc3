"""Features of images: extract them, keep them in tables, classify and search. Names are imported on first use.

>>> from maerestore.features import FeatureOptions
>>> FeatureOptions(pooling="cls").pooling
'cls'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maerestore.lazy import lazy_names

_LAZY = {
    "ExtractorSettings": "maerestore.features.loaders",
    "FeatureExtractor": "maerestore.features.extractor",
    "FeatureOptions": "maerestore.features.options",
    "FeatureTable": "maerestore.features.table",
    "Whitening": "maerestore.features.whiten",
    "extract": "maerestore.features.run",
    "find_items": "maerestore.features.items",
    "read_table": "maerestore.features.table_files",
    "write_table": "maerestore.features.table_files",
}
__all__ = [
    "ExtractorSettings",
    "FeatureExtractor",
    "FeatureOptions",
    "FeatureTable",
    "Whitening",
    "extract",
    "find_items",
    "read_table",
    "write_table",
]

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor
    from maerestore.features.items import find_items
    from maerestore.features.loaders import ExtractorSettings
    from maerestore.features.options import FeatureOptions
    from maerestore.features.run import extract
    from maerestore.features.table import FeatureTable
    from maerestore.features.table_files import read_table, write_table
    from maerestore.features.whiten import Whitening

__getattr__, __dir__ = lazy_names(__name__, _LAZY, __all__)
