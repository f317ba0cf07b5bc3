"""What a fill is judged by. Pictures are (H, W, 3) uint8, holes (H, W) bool, True = hole."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity

from .photos import BenchError

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


class Lpips:
    """LPIPS (squeeze) from a folder that holds `nets.py` and its weights.

    Args:
        folder: with a `nets.py` whose `lpips_squeeze(spatial)` returns a network for images in [-1, 1].

    Raises:
        BenchError: no such module, or what it needs is missing.
    """

    def __init__(self, folder: Path) -> None:
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
                self.whole = module.lpips_squeeze(spatial=False)
                self.spatial = module.lpips_squeeze(spatial=True)
        except (ImportError, OSError) as err:
            raise BenchError(f"{path} cannot be used: {err}") from err

    @torch.inference_mode()
    def __call__(self, truth: np.ndarray, fill: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
        """The distance of the whole pictures, and the mean of its map over the hole."""
        a, b = _signed(truth), _signed(fill)
        with _one_thread():
            distances = self.spatial(a, b)[0, 0].numpy()  # (H, W)
            return float(self.whole(a, b)), float(distances[mask].mean())


@contextmanager
def _one_thread() -> Iterator[None]:
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


def measure(truth: np.ndarray, fill: np.ndarray, mask: np.ndarray, lpips: Lpips | None = None) -> dict[str, float]:
    """All metrics of one fill but its time, by their names in `METRICS`; those of LPIPS only with its network."""
    values = {"psnr": hole_psnr(truth, fill, mask), "l1": hole_l1(truth, fill, mask), "ssim": ssim(truth, fill)}
    if lpips is not None:
        values["lpips"], values["lpips_hole"] = lpips(truth, fill, mask)
    return values
