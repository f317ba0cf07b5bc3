"""What is hidden: `pixels`, the holes of a photo, drawn in NumPy; `patches`, the masks of a batch, drawn in torch."""

from maerestore.masking.pixels import COVERAGE, FAMILIES, TRAINING, draw_many, draw_mask, rim

__all__ = ["COVERAGE", "FAMILIES", "TRAINING", "draw_many", "draw_mask", "rim"]
