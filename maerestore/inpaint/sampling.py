"""Several fills of one hole: what each is drawn from, and which comes first.

A sample differs from the ordinary fill in what the autoencoder is shown of the known pixels (half of it, in blocks of
2 x 2 patches) and in the seed of the texture search. The ordinary fill, drawn from all that is known, comes first: none
of the scores tried (agreement with the mean of all samples, continuity at the rim, how well the autoencoder recovers
the surroundings from the fill) found a better one on photographs kept aside from training. The others are ordered by
`penalty`, the least first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maerestore.inpaint.confidence import low_pass
from maerestore.inpaint.scene import Overlay, Piece, Scene
from maerestore.inpaint.windows import Box, cut, grow

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
    """How unlikely a fill is, in units of a colour: what its coarse colours are off, and the step at the rim.

    Args:
        scene, smooth: as for `ranked`.
        pieces: the fill.

    Returns:
        the mean absolute difference of the low-passed fill from `smooth` over the hole, plus the mean absolute
        difference of neighbours on two sides of the rim.
    """
    overlay = Overlay(scene.regions, [fill for fill, _, _ in pieces])
    size = scene.mask.shape[0], scene.mask.shape[1]
    off = steps = 0.0
    pixels = pairs = 0
    for i, region in enumerate(scene.regions):
        difference = low_pass(pieces[i][0] - smooth[i], region.mask.astype(np.float32), COARSE)
        off += float(np.abs(difference[region.mask]).mean(-1).sum())
        pixels += int(region.mask.sum())
        box = grow(region.box, 1, size)
        image, mask = overlay.paint(scene.photo.rgb(box), box), scene.mask[cut(box)]
        for axis in (0, 1):
            rim = np.diff(mask.astype(np.int8), axis=axis) != 0
            steps += float(np.abs(np.diff(image, axis=axis)).mean(-1)[rim].sum())
            pairs += int(rim.sum())
    return off / max(pixels, 1) + steps / max(pairs, 1)
