"""What a fill is judged by. Pictures are (H, W, 3) uint8, holes (H, W) bool, True = hole."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from .photos import BenchError

HIGH_PASS_RADIUS = 2  # pixels: the picture less its mean over 5 x 5, Gaussian with sigma 1
RING = 32  # pixels: how far from the hole the known texture is taken
MIN_TEXTURE_PIXELS = 64  # in the hole, away from its rim; thin holes may have fewer and give no ratio
QUANTISATION = 1 / 12  # variance of rounding to uint8: the least that a flat place counts
BLOCK = 8  # pixels: side of the blocks over which error and confidence are averaged before they are ranked
MIN_BLOCKS = 8
PSNR_CAP = 100.0  # dB, for a fill without error: an infinity would spoil means and is no JSON


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: of its column.
        digits: after the point.
        best: +1 if more is better, -1 if less is, 0 if it is not judged.
    """

    title: str
    digits: int
    best: int


METRICS: dict[str, Metric] = {
    "psnr": Metric("hole PSNR", 2, 1),
    "l1": Metric("hole L1", 4, -1),
    "ssim": Metric("SSIM", 4, 1),
    "lpips": Metric("LPIPS", 4, -1),
    "lpips_hole": Metric("hole LPIPS", 4, -1),
    "texture": Metric("texture", 3, 0),
    "spearman": Metric("conf. rank", 3, 1),
    "seconds": Metric("seconds", 3, 0),
}


def hole_psnr(truth: np.ndarray, fill: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio over the hole's samples, in dB."""
    error = float(np.mean((truth[mask].astype(np.float64) - fill[mask]) ** 2))
    return min(PSNR_CAP, 10 * float(np.log10(255**2 / max(error, 1e-12))))


def hole_l1(truth: np.ndarray, fill: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute difference over the hole's samples, with white = 1."""
    return float(np.mean(np.abs(truth[mask].astype(np.float64) - fill[mask]))) / 255


def ssim(truth: np.ndarray, fill: np.ndarray) -> float:
    """Structural similarity of the whole pictures, with the Gaussian window of the paper (Wang et al. 2004)."""
    return float(
        structural_similarity(
            truth, fill, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


Net = TypeVar("Net")


def load_nets(folder: Path, build: Callable[[Any], Net]) -> Net:
    """Import the `nets.py` of a folder and build networks from it.

    Raises:
        BenchError: no such module, or what it needs is missing.
    """
    path = folder / "nets.py"
    spec = importlib.util.spec_from_file_location("bench_evalnets", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise BenchError(f"no nets.py in {folder}")
    module = importlib.util.module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            # lpips still uses torchvision's `pretrained`, which warns at every start.
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
            return build(module)
    except (ImportError, OSError, AttributeError) as err:
        raise BenchError(f"{path} cannot be used: {err}") from err


class Lpips:
    """LPIPS (squeeze) from a folder that holds `nets.py` and its weights.

    Args:
        folder: with a `nets.py` whose `lpips_squeeze(spatial)` returns a network for images in [-1, 1].

    Raises:
        BenchError: no such module, or what it needs is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.whole, self.spatial = load_nets(
            folder, lambda module: (module.lpips_squeeze(spatial=False), module.lpips_squeeze(spatial=True))
        )

    @torch.inference_mode()
    def __call__(self, truth: np.ndarray, fill: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
        """The distance of the whole pictures, and the mean of its map over the hole."""
        a, b = _signed(truth), _signed(fill)
        with one_thread():
            distances = self.spatial(a, b)[0, 0].numpy()  # (H, W)
            return float(self.whole(a, b)), float(distances[mask].mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """Run small networks on one thread; the methods that are timed keep the default."""
    # Beside another busy process, threads that wait on each other were seen to take 80 times as long.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _signed(picture: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(picture.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)


def texture_ratio(picture: np.ndarray, mask: np.ndarray) -> float | None:
    """High-frequency energy in the hole, as a share of that of the known pixels around it: 1 where they match.

    The energy is the mean square of the brightness less its low-pass, over pixels whose whole filter lies on the one
    side, so that the rim itself counts for neither.

    Returns:
        None for a hole that is too thin, or without known pixels around it.
    """
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = 2 * HIGH_PASS_RADIUS + 1
    energy = (gray - cv2.GaussianBlur(gray, (side, side), 1.0)) ** 2
    box = np.ones((side, side), np.uint8)
    inside = cv2.erode(mask.astype(np.uint8), box) > 0
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    around = (cv2.erode((~mask).astype(np.uint8), box) > 0) & (far <= RING)
    if inside.sum() < MIN_TEXTURE_PIXELS or around.sum() < MIN_TEXTURE_PIXELS:
        return None
    return float((energy[inside].mean() + QUANTISATION) / (energy[around].mean() + QUANTISATION))


def confidence_rank(truth: np.ndarray, fill: np.ndarray, mask: np.ndarray, confidence: np.ndarray) -> float | None:
    """Spearman correlation of doubt (1 - confidence) with the fill's absolute error, 1 = ranks it perfectly.

    Both are averaged over the hole's pixels of blocks of 8 x 8 pixels; blocks with less than a quarter of hole are
    left out.

    Args:
        truth: (H, W, 3) uint8.
        fill: (H, W, 3) uint8.
        mask: (H, W) bool.
        confidence: (H, W), in [0, 1].

    Returns:
        None where there are too few blocks, or nothing differs.
    """
    error = np.abs(truth.astype(np.float64) - fill).mean(-1)
    count = _block_sums(mask.astype(np.float64))
    chosen = count >= BLOCK**2 / 4
    if chosen.sum() < MIN_BLOCKS:
        return None
    errors = _block_sums(error * mask)[chosen] / count[chosen]
    doubts = _block_sums((1 - confidence.astype(np.float64)) * mask)[chosen] / count[chosen]
    if np.ptp(errors) == 0 or np.ptp(doubts) == 0:
        return None
    return float(spearmanr(doubts, errors).statistic)


def _block_sums(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of (H, W); a rest at the right and below makes smaller blocks."""
    rows, columns = np.arange(0, values.shape[0], BLOCK), np.arange(0, values.shape[1], BLOCK)
    return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1))


def measure(
    truth: np.ndarray, fill: np.ndarray, mask: np.ndarray, lpips: Lpips | None = None
) -> dict[str, float | None]:
    """All metrics of one fill but its time, by their names in `METRICS`; those of LPIPS only with its network."""
    values: dict[str, float | None] = {
        "psnr": hole_psnr(truth, fill, mask),
        "l1": hole_l1(truth, fill, mask),
        "ssim": ssim(truth, fill),
    }
    if lpips is not None:
        values["lpips"], values["lpips_hole"] = lpips(truth, fill, mask)
    values["texture"] = texture_ratio(fill, mask)
    return values
