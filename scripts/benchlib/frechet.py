"""A Frechet distance between crops of the fills and crops of the photos at the same places.

As the FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500), but with MobileNetV2's 1280 features, and on crops
around hole pixels. With a few thousand crops such distances are biased upwards: compare those of one number of crops.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch

from .metrics import load_nets, one_thread

CROP = 96  # side in pixels
MIN_CROPS = 2000  # in all, of a method and size
MAX_OF_A_HOLE = 32
INPUT = 224  # the side that the network wants
BATCH = 4  # larger ones take more time, for the memory they touch


class Embedder:
    """MobileNetV2's embedding from a folder that holds `nets.py` and its weights.

    Args:
        folder: with a `nets.py` whose `MobileNetV2()` takes (N, 3, 224, 224) RGB in [0, 1].

    Raises:
        BenchError: no such module, or what it needs is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._net = load_nets(folder, lambda module: module.MobileNetV2())

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, corners: list[tuple[int, int]]) -> np.ndarray:
        """Embed the crops of (H, W, 3) uint8 with these (top, left) corners: (number of crops, features) float16."""
        side = min(CROP, *picture.shape[:2])
        crops = [
            cv2.resize(picture[top : top + side, left : left + side], (INPUT, INPUT), interpolation=cv2.INTER_LINEAR)
            for top, left in corners
        ]
        parts = []
        with one_thread():
            for i in range(0, len(crops), BATCH):
                batch = torch.from_numpy(np.stack(crops[i : i + BATCH])).permute(0, 3, 1, 2).float() / 255
                parts.append(self._net(batch).numpy())
        return np.concatenate(parts).astype(np.float16)


def crops_per_hole(holes: int) -> int:
    """How many crops of each hole make up `MIN_CROPS`; short runs get fewer, as crops of one hole repeat each other."""
    return min(MAX_OF_A_HOLE, -(-MIN_CROPS // holes))


def crop_corners(seed: int, family: str, name: str, mask: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Crops around random hole pixels, moved into the picture: (top, left) corners. Fewer are the first of more."""
    digest = hashlib.sha256(f"{seed}/crops/{family}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    height, width = mask.shape
    side = min(CROP, height, width)
    pixels = np.flatnonzero(mask)
    middles = pixels[(rng.random(count) * len(pixels)).astype(int)]
    tops = np.clip(middles // width - side // 2, 0, height - side)
    lefts = np.clip(middles % width - side // 2, 0, width - side)
    return [(int(top), int(left)) for top, left in zip(tops, lefts, strict=True)]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of embeddings, (N, D) and (M, D), float64.

    |mean a - mean b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), with covariances A and B. The last trace is that of the
    root of the symmetric A^(1/2) B A^(1/2), whose eigenvalues are real: nothing imaginary to drop, singular or not.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ cov_b @ root
    shared = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    difference = a.mean(0) - b.mean(0)
    return float(max(0.0, difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * shared))
