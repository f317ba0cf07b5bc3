"""Photos and masks: read without loss, change only under the mask, write all or nothing.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (8, 6), "navy").save(f"{folder}/photo.png")
    >>> Image.new("L", (8, 6), 255).save(f"{folder}/mask.png")
    >>> photo = read_photo(f"{folder}/photo.png")
    >>> mask = read_mask(f"{folder}/mask.png", photo.size)
    >>> filled = photo.with_fill(np.ones((6, 8, 3), dtype=np.float32), mask)
    >>> write_photo(filled, resolve_output(f"{folder}/photo.png"))
"""

from .decode import read_photo
from .encode import check_writable, write_photo
from .errors import InputError
from .mask import erased_hole, mask_is_empty, mask_is_full, mask_of, read_mask
from .metadata import JpegSettings, Metadata, TiffSettings
from .opening import MAX_PIXELS
from .output import SUFFIXES, atomic_file, format_of, resolve_output
from .photo import Photo

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "InputError",
    "JpegSettings",
    "Metadata",
    "Photo",
    "TiffSettings",
    "atomic_file",
    "check_writable",
    "erased_hole",
    "format_of",
    "mask_is_empty",
    "mask_is_full",
    "mask_of",
    "read_mask",
    "read_photo",
    "resolve_output",
    "write_photo",
]
