"""Several fills of one hole: what each is drawn from, and which comes first.

A sample differs from the ordinary fill in what the autoencoder is shown of the known pixels (half of it, in blocks of
2 x 2 patches) and in the seed of the texture search. The ordinary fill, drawn from all that is known, comes first: no
score that was tried on photographs kept aside from training (agreement with the mean of all samples, continuity at the
rim, how well the autoencoder recovers the surroundings from the fill) found a better one in the mean. The others are
ordered by how far their coarse colours are from the ordinary fill's before it got texture: among them, that score had
the highest rank correlation with LPIPS and PSNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maerestore.image.box import Box
from maerestore.image.photo import Piece
from maerestore.inpaint.confidence import low_pass
from maerestore.inpaint.scene import Scene

HIDDEN = 0.5  # share of the blocks that a sample does not show to the autoencoder
COARSE = 3.0  # sigma in pixels of the photo: colours are compared without their texture


@dataclass(frozen=True)
class HiddenBlocks:
    """What one sample hides of a window.

    Attributes:
        seed: of all samples.
        sample: which one, from 1.
        patch_size: of the model.
    """

    seed: int
    sample: int
    patch_size: int

    def __call__(self, box: Box, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) bool over a window at the model's size: the same for the same window, whatever else is filled."""
        side = 2 * self.patch_size
        rows, columns = -(-shape[0] // side), -(-shape[1] // side)
        order = np.random.default_rng([self.seed % 2**64, self.sample, *box]).permutation(rows * columns)
        blocks = (order < int(HIDDEN * rows * columns)).reshape(rows, columns)
        return np.repeat(np.repeat(blocks, side, 0), side, 1)[: shape[0], : shape[1]]


def seed_of_sample(seed: int, sample: int) -> int:
    """The seed of a sample's texture search: its own for the first, the ordinary fill."""
    if sample == 0:
        return seed
    return int(np.random.SeedSequence([seed % 2**64, sample]).generate_state(1, np.uint64)[0] >> 1)


def ranked(scene: Scene, smooth: Sequence[np.ndarray], samples: Sequence[Sequence[Piece]]) -> list[int]:
    """The order of samples, the best first.

    Args:
        scene: the holes.
        smooth: the ordinary fill of each region before it got texture, (h, w, 3) float32.
        samples: the finished fills, the ordinary one first.
    """
    penalties = [penalty(scene, smooth, pieces) for pieces in samples[1:]]
    return [0, *(1 + int(k) for k in np.argsort(penalties, kind="stable"))]


def penalty(scene: Scene, smooth: Sequence[np.ndarray], pieces: Sequence[Piece]) -> float:
    """How far a fill's coarse colours are from the best guess of their mean, in units of a colour in [0, 1].

    Args:
        scene, smooth: as for `ranked`.
        pieces: the fill.

    Returns:
        the mean absolute difference of the low-passed fill from `smooth` over the hole.
    """
    off, pixels = 0.0, 0
    for region, guess, (fill, mask, _) in zip(scene.regions, smooth, pieces, strict=True):
        difference = low_pass(fill - guess, mask.astype(np.float32), COARSE)
        off += float(np.abs(difference[region.mask]).mean(-1).sum())
        pixels += int(region.mask.sum())
    return off / pixels
