"""Features of many small images: random crops of photographs, computed once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from maerestore.features.decode import load_image
from maerestore.features.items import find_items, read_bytes

from .photos import BenchError

SIDE = 64  # of a crop, in pixels
BATCH = 128


@dataclass(frozen=True)
class CropFeatures:
    """Features of crops.

    Attributes:
        stored: (N, D) float16 of length 1, of crops for indexes to hold.
        asked: (Q, D), of other crops of the same photographs.
        facts: how they were made.
    """

    stored: np.ndarray
    asked: np.ndarray
    facts: dict[str, Any]


def crop_features(
    photos: Sequence[Path], n: int, queries: int, seed: int, model: str, cache: Path | None
) -> CropFeatures:
    """Features of n + queries crops, in a random order.

    Args:
        photos: folders, tars and images.
        n, queries: how many.
        seed: of the crops and their order.
        model: as for `FeatureExtractor.from_pretrained`.
        cache: file (safetensors) that is read where it is there, and written where it is not.

    Raises:
        BenchError: a cache of other crops, or of fewer.
    """
    wanted = {"model": model, "seed": seed, "side": SIDE}
    if cache is not None and cache.exists():
        features, facts = _read(cache)
        differs = [name for name, value in wanted.items() if facts.get(name) != value]
        if differs:
            raise BenchError(f"{cache} holds crops with {differs[0]} {facts.get(differs[0])!r}, not "
                             f"{wanted[differs[0]]!r}: name another file")  # fmt: skip
    else:
        if not photos:
            raise BenchError("give --photos, or --features with a file that is there")
        features, facts = _extract(photos, n + queries, seed, model)
        facts = {**wanted, **facts}
        if cache is not None:
            part = cache.with_name(cache.name + ".part")
            save_file({"features": features}, part, {"facts": json.dumps(facts)})
            part.replace(cache)
    if len(features) < n + queries:
        raise BenchError(f"{cache} holds {len(features)} crops, fewer than {n + queries}: name another file")
    return CropFeatures(features[queries : queries + n], features[:queries], facts)


def random_crop(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of a photo, (H, W, 3) uint8, of at least `SIDE` pixels where there are so many; (SIDE, SIDE, 3)."""
    short = min(photo.shape[:2])
    side = int(rng.integers(min(SIDE, short), short + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.array(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _extract(photos: Sequence[Path], n: int, seed: int, model: str) -> tuple[np.ndarray, dict[str, Any]]:
    from maerestore.features.extractor import FeatureExtractor

    extractor = FeatureExtractor.from_pretrained(model, size=SIDE, batch_size=BATCH)
    items = find_items(photos)
    rng = np.random.default_rng(seed)
    each = np.full(len(items), n // len(items))
    each[rng.choice(len(items), n % len(items), replace=False)] += 1
    parts, waiting = [], []
    with tqdm(total=n, desc="crops", leave=False) as bar:
        for item, crops in zip(items, each, strict=True):
            if crops:
                photo = load_image(read_bytes(item))
                waiting += [random_crop(photo, rng) for _ in range(crops)]
            while len(waiting) >= BATCH or (waiting and item is items[-1]):
                features = extractor(waiting[:BATCH]).numpy()
                parts.append((features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16))
                del waiting[:BATCH]
                bar.update(len(features))
    features = np.concatenate(parts)[rng.permutation(n)]
    return features, {"photos": int((each > 0).sum()), "fingerprint": extractor.fingerprint, "dim": extractor.dim}


def _read(cache: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        with safe_open(cache, "numpy") as file:
            return file.get_tensor("features"), json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as err:
        raise BenchError(f"{cache}: no features of this script ({type(err).__name__}: {err})") from err
