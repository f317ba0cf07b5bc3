"""Fit how the autoencoder's fill and the harmonic one are joined, on photographs kept aside from training.

    python scripts/fit_blend.py weights --photos TRAIN_TARS_OR_FOLDER

For every distance from the known pixels the share of the autoencoder is the one that leaves the least squared error
over all mask families; it is written into the model's config.json. Only held-out photographs are used (one in 64, by
the hash of the name, as in pretraining).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from maerestore.errors import MaerestoreError
from maerestore.hub.config import fill_settings, read_config
from maerestore.hub.save import write_json
from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.inpaint.model_window import window_scale
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.regions import distance_to_known, find_regions
from maerestore.inpaint.windows import plan_windows, seen_size
from maerestore.masking import FAMILIES, draw_mask
from maerestore.train.packing import decode, find_images, held_out

FEWEST = 8  # photographs that anything is fitted on
KNOTS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32])  # distances in pixels of the model
FULL = BlendCurve((0.0,), (1.0,))  # the autoencoder alone


def held_out_photos(source: Path, count: int, size: int) -> list[np.ndarray]:
    """Centre squares of held-out photographs, (size, size, 3) float32 in [0, 1]; corrupt ones are passed over.

    Raises:
        MaerestoreError: fewer than `FEWEST` are asked for, or were kept aside.
    """
    photos = []
    for name, data in find_images([source]):
        decoded = decode(data) if held_out(name) else None
        if decoded is not None:
            image = Image.fromarray(decoded)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
            photos.append(np.asarray(square, np.float32) / 255)
            if len(photos) == count:
                break
    if len(photos) < FEWEST:
        raise MaerestoreError(f"{len(photos)} photographs kept aside are too few: at least {FEWEST}, please")
    return photos


def model_distance(mask: np.ndarray, model_size: int, patch_size: int) -> np.ndarray:
    """Distance of the hole's pixels from the known ones in pixels of the model, as the pipeline measures it."""
    out = np.zeros(mask.shape, np.float32)
    for region in find_regions(mask):
        box = plan_windows(region, (mask.shape[0], mask.shape[1]), model_size)[0]
        scale = window_scale(box, seen_size(box, (mask.shape[0], mask.shape[1]), model_size), patch_size)
        top, left, bottom, right = region.box
        distance = distance_to_known(region, (mask.shape[0], mask.shape[1])) * scale
        out[top:bottom, left:right][region.mask] = distance[region.mask]
    return out


def fit_shares(distance: np.ndarray, gain: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Least-squares shares at the knots, for straight lines between them.

    Args:
        distance: (P,) of each pixel.
        gain: (P,) sum over channels of (truth - harmonic) * (coarse - harmonic).
        step: (P,) sum over channels of (coarse - harmonic) squared.

    Returns:
        (len(KNOTS),) in [0, 1].
    """
    place = np.interp(distance, KNOTS, np.arange(len(KNOTS)))
    low = np.minimum(place.astype(int), len(KNOTS) - 2)
    part = place - low
    matrix = np.zeros((len(KNOTS), len(KNOTS)))
    vector = np.zeros(len(KNOTS))
    for a, weight_a in ((low, 1 - part), (low + 1, part)):
        np.add.at(vector, a, weight_a * gain)
        for b, weight_b in ((low, 1 - part), (low + 1, part)):
            np.add.at(matrix, (a, b), weight_a * weight_b * step)
    # A knot that no pixel is near takes the value of the one before it: a weak pull between neighbours.
    pull = 1e-4 * np.trace(matrix) / len(KNOTS)
    for i in range(len(KNOTS) - 1):
        matrix[i : i + 2, i : i + 2] += pull * np.array([[1, -1], [-1, 1]])
    return np.clip(np.linalg.solve(matrix, vector), 0, 1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model or run folder; the model's config.json is rewritten")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar with the training photographs")
    parser.add_argument("--count", type=int, default=48, help="photographs to use")
    parser.add_argument("--size", type=int, default=256, help="side they are scaled to")
    parser.add_argument("--smooth", type=float, default=1.0, help="low-pass of the fill, sigma in pixels of the model")
    parser.add_argument("--window", type=int, help="side that the model sees windows at (default: as it is)")
    args = parser.parse_args(argv)
    if args.count < 1 or args.size < 16:
        parser.error("--count must be at least 1, --size at least 16")
    if not args.model.is_dir():
        print(f"fit_blend: {args.model}: no such model folder", file=sys.stderr)
        return 2
    try:
        path, values = read_config(args.model)  # of a run's folder, that of its model
        if path is None or not values:
            raise MaerestoreError(f"{args.model}: not a model of this package: its config has no place for the fit")
        inpainter = Inpainter.from_pretrained(str(args.model), device="cpu")
        wanted = {"smooth": args.smooth, "size": args.window or inpainter.size}
        fill_settings(wanted, inpainter.model.config.patch_size, "--smooth and --window")
        photos = held_out_photos(args.photos, args.count, args.size)
    except MaerestoreError as err:
        print(f"fit_blend: {err}", file=sys.stderr)
        return 2
    inpainter.restorer = None  # the autoencoder's own fill, whatever a refiner makes of it
    inpainter.curve = FULL
    inpainter.smooth = args.smooth
    inpainter.size = args.window or inpainter.size
    rows = []
    for family in FAMILIES:
        for i, photo in enumerate(tqdm(photos, desc=family)):
            mask = draw_mask(family, args.size, np.random.default_rng((i, 77))).astype(bool)
            harmonic = harmonic_fill(photo, mask)[mask]
            coarse = inpainter.inpaint(photo, mask, sharp=False)[mask]
            step, wanted = coarse - harmonic, photo[mask] - harmonic
            # Every photo counts alike, whatever the size of its hole and its contrast.
            weight = 1 / max(float((wanted**2).sum()), 1e-3)
            parts = ((step * wanted).sum(1), (step**2).sum(1), (wanted**2).sum(1))
            distance = model_distance(mask, inpainter.size, inpainter.model.config.patch_size)[mask]
            rows.append((distance, *(weight * part for part in parts)))
    distance, gain, step, base = (np.concatenate(column) for column in zip(*rows, strict=True))
    shares = fit_shares(distance, gain, step)
    share = np.interp(distance, KNOTS, shares)
    left = float((base - 2 * share * gain + share**2 * step).sum() / base.sum())
    curve = BlendCurve(tuple(KNOTS.tolist()), tuple(round(float(s), 4) for s in shares))
    fill = {"curve": curve.to_dict(), "smooth": args.smooth, "size": inpainter.size}
    try:
        write_json(path, read_config(args.model)[1] | {"fill": fill})  # as it is now: a run may have saved meanwhile
    except MaerestoreError as err:
        print(f"fit_blend: {err}", file=sys.stderr)
        return 2
    print(f"shares at {KNOTS.tolist()}: {np.round(shares, 2).tolist()}")
    print(f"written to {path}: {left:.4f} of the harmonic fill's squared error left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
