"""Fit the constants of the confidence map, on photographs kept aside from training.

    python scripts/fit_confidence.py weights --photos TRAIN_TARS_OR_FOLDER

TEXTURE, BASE and SPREAD of `maerestore.inpaint.confidence` are those, none below zero, with the least squared
difference between the expected error and the mean absolute error of the smooth fill over the channels: what a pixel's
error is in the mean. All mask families take part, every pixel counts alike. Each --reach is tried; a reach decides
less than the photographs do. The constants are printed, with those that the package has, and nothing is written.
Only held-out photographs are used (one in 64, by the hash of the name, as in pretraining).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fit_blend import held_out_photos
from scipy.optimize import nnls
from tqdm.auto import tqdm

from maerestore.errors import MaerestoreError
from maerestore.inpaint import confidence
from maerestore.inpaint.arrays import as_canvas
from maerestore.inpaint.boxes import slices
from maerestore.inpaint.confidence import Clues, clues, spread_of_draws
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.stages import FillReport, find_scene
from maerestore.masking import FAMILIES, draw_mask


@dataclass(frozen=True)
class Fit:
    """Constants as `maerestore.inpaint.confidence` names them, and the root mean squared difference that they leave."""

    reach: float
    texture: float
    base: float
    spread: float
    rest: float


def measured(
    inpainter: Inpainter, photo: np.ndarray, mask: np.ndarray, draws: int, seed: int
) -> tuple[Clues, np.ndarray]:
    """The clues and the error of the smooth fill at each pixel of the holes, in lists (P,).

    Args:
        inpainter: whose fill it is.
        photo: (H, W, 3) float32 in [0, 1], the truth.
        mask: (H, W) bool, True = hole.
        draws, seed: as for `Inpainter.confidence`.
    """
    canvas, patch = as_canvas(photo), inpainter.model.config.patch_size
    scene = find_scene(canvas, mask, 0, inpainter.size, patch, inpainter.curve, FillReport(), None)
    assert scene is not None  # every family has holes
    error = np.abs(inpainter.inpaint(photo, mask, sharp=False) - photo).mean(-1)
    views = scene.map_windows(
        lambda windows: spread_of_draws(
            inpainter.model, windows, inpainter.size, draws, seed, inpainter.smooth, inpainter.bf16
        )
    )
    found, errors = [], []
    for i, (region, view) in enumerate(zip(scene.regions, views, strict=True)):
        found.append([clue[region.mask] for clue in clues(scene, i, view)])
        errors.append(error[slices(region.box)][region.mask])
    return Clues(*(np.concatenate(lists) for lists in zip(*found, strict=True))), np.concatenate(errors)


def fit(seen: Clues, error: np.ndarray, reach: float) -> Fit:
    """The constants for a reach; arguments as `measured` returns them."""
    depth = 1 - np.exp(-seen.distance / reach)
    columns = np.stack([seen.texture, depth, depth * seen.spread], axis=1).astype(np.float64)
    found, _ = nnls(columns, error.astype(np.float64))
    rest = float(np.sqrt(np.mean((error - columns @ found) ** 2)))
    return Fit(reach, *(round(float(value), 3) for value in found), rest)


def told(name: str, found: Fit) -> str:
    """A row of the table that is printed."""
    return (
        f"{name:>10} {found.reach:7.1f} {found.texture:8.3f} {found.base:8.3f} {found.spread:8.3f} {found.rest:10.4f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as --model of maerestore inpaint")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar with the training photographs")
    parser.add_argument("--count", type=int, default=48, help="photographs to use (default 48)")
    parser.add_argument("--size", type=int, default=256, help="side they are scaled to (default 256)")
    parser.add_argument("--draws", type=int, default=8, help="as of Inpainter.confidence (default 8)")
    parser.add_argument("--reach", type=float, nargs="+", default=[8, 16, confidence.REACH, 32], help="those to try")
    args = parser.parse_args(argv)
    if args.count < 1 or args.size < 16 or args.draws < 2 or min(args.reach) <= 0:
        parser.error("--count must be at least 1, --size 16, --draws 2, and --reach more than 0")
    try:
        inpainter = Inpainter.from_pretrained(args.model, device="cpu")
        photos = held_out_photos(args.photos, args.count, args.size)
    except MaerestoreError as err:
        print(f"fit_confidence: {err}", file=sys.stderr)
        return 2
    rows, errors = [], []
    for family in FAMILIES:
        for i, photo in enumerate(tqdm(photos, desc=family)):
            mask = draw_mask(family, args.size, np.random.default_rng((i, 77))).astype(bool)
            seen, error = measured(inpainter, photo, mask, args.draws, seed=i)
            rows.append(seen)
            errors.append(error)
    seen, error = Clues(*(np.concatenate(lists) for lists in zip(*rows, strict=True))), np.concatenate(errors)
    here = float(np.sqrt(np.mean((error - confidence.expected_error(seen)) ** 2)))
    committed = Fit(confidence.REACH, confidence.TEXTURE, confidence.BASE, confidence.SPREAD, here)
    print(f"{len(photos)} photographs, {len(error)} pixels of holes, mean error {error.mean():.4f}")
    print(f"{'':>10} {'REACH':>7} {'TEXTURE':>8} {'BASE':>8} {'SPREAD':>8} {'rest (rms)':>10}")
    print(told("committed", committed))
    for reach in args.reach:
        print(told("fitted", fit(seen, error, reach)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
