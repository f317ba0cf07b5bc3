"""The smoothest fill: the solution of Laplace's equation in the hole, with the known pixels as its boundary.

Near the rim and in thin holes nothing that was learned beats it by much, so it is the base that every other stage adds
to. The system is solved for the hole's pixels only, coarse to fine: each level starts from the enlarged solution of
the one below, which leaves a few conjugate-gradient steps for what is local.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

DIRECT_SIZE = 100_000  # unknowns up to which a sparse factorisation, which is exact, costs no more than iterating
MAX_ITERATIONS = 60


def harmonic_fill(image: np.ndarray, mask: np.ndarray, tolerance: float = 1e-4) -> np.ndarray:
    """Fill a hole with the harmonic continuation of its rim.

    Where the hole touches the picture's border, the border is free (no flow across it).

    Args:
        image: (H, W, C) float32; the values in the hole are not read.
        mask: (H, W) bool, True = hole; some pixel must be known.
        tolerance: largest residual left at a pixel, in units of the image.

    Returns:
        (H, W, C) float32, equal to `image` outside the hole.

    Raises:
        ValueError: no known pixel.

    Example:
        >>> row = np.array([[[0.0], [9.0], [9.0], [3.0]]], np.float32)
        >>> harmonic_fill(row, np.array([[False, True, True, False]]))[0, :, 0].round(3)
        array([0., 1., 2., 3.], dtype=float32)
    """
    if mask.all():
        raise ValueError("the mask leaves no known pixel to continue")
    out = image.astype(np.float32, copy=True)
    if mask.any():
        out[mask] = _solve(out, mask, tolerance)
    return out


def _solve(image: np.ndarray, mask: np.ndarray, tolerance: float) -> np.ndarray:
    """The hole's values, (number of hole pixels, C), in raster order."""
    matrix, constant = _laplacian(image, mask)
    if constant.shape[0] <= DIRECT_SIZE or min(mask.shape) < 4:
        # The ordering for symmetric systems halves the time of SuperLU's default.
        factors = splu(
            matrix.tocsc().astype(np.float64),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        return factors.solve(constant.astype(np.float64)).astype(np.float32)
    return _conjugate_gradients(matrix, constant, _enlarged_guess(image, mask, tolerance), tolerance)


def _laplacian(image: np.ndarray, mask: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """The five-point system A x = b for the hole's pixels: A (n, n) symmetric positive definite, b (n, C)."""
    height, width = mask.shape
    flat_mask = mask.ravel()
    pixels = np.flatnonzero(flat_mask)
    n = len(pixels)
    number = np.full(mask.size, -1, np.int32)
    number[pixels] = np.arange(n, dtype=np.int32)
    values = image.reshape(mask.size, -1)
    rows, columns = pixels // width, pixels % width
    degree = np.zeros(n, np.float32)
    constant = np.zeros((n, values.shape[1]), np.float32)
    links = []
    for step, inside in ((-width, rows > 0), (width, rows < height - 1), (-1, columns > 0), (1, columns < width - 1)):
        ids = np.flatnonzero(inside)
        neighbours = pixels[ids] + step
        degree[ids] += 1
        unknown = flat_mask[neighbours]
        links.append((ids[unknown], number[neighbours[unknown]]))
        constant[ids[~unknown]] += values[neighbours[~unknown]]
    i = np.concatenate([a for a, _ in links] + [np.arange(n)])
    j = np.concatenate([b for _, b in links] + [np.arange(n)])
    weights = np.concatenate([np.full(len(i) - n, -1, np.float32), degree])
    return sparse.csr_matrix((weights, (i, j)), shape=(n, n)), constant


def _enlarged_guess(image: np.ndarray, mask: np.ndarray, tolerance: float) -> np.ndarray:
    """The solution at half the size, enlarged: (number of hole pixels, C)."""
    height, width = mask.shape
    size = ((width + 1) // 2, (height + 1) // 2)
    pad = ((0, 2 * size[1] - height), (0, 2 * size[0] - width))
    known = np.pad(~mask, pad).astype(np.float32)
    painted = np.pad(np.where(mask[..., None], 0, image), (*pad, (0, 0)))
    # Channels are averaged one by one: OpenCV takes at most four.
    share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    channels = [
        cv2.resize(np.ascontiguousarray(painted[..., c]), size, interpolation=cv2.INTER_AREA)
        for c in range(painted.shape[2])
    ]
    small = np.stack(channels, axis=-1) / np.maximum(share, 1e-6)[..., None]
    small_mask = share < 0.2  # no known pixel in the 2 x 2 block
    if small_mask.any() and not small_mask.all():
        small[small_mask] = _solve(small, small_mask, tolerance)
    full = [
        cv2.resize(np.ascontiguousarray(small[..., c]), (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)
        for c in range(small.shape[2])
    ]
    return np.stack(full, axis=-1)[:height, :width][mask]


def _conjugate_gradients(
    matrix: sparse.csr_matrix, constant: np.ndarray, guess: np.ndarray, tolerance: float
) -> np.ndarray:
    """Conjugate gradients for all channels at once."""
    x = guess.astype(np.float32)
    residual = constant - matrix @ x
    direction = residual.copy()
    energy = (residual**2).sum(0)
    for _ in range(MAX_ITERATIONS):
        if np.abs(residual).max() <= tolerance:
            break
        product = matrix @ direction
        step = energy / np.maximum((direction * product).sum(0), 1e-30)
        x += step * direction
        residual -= step * product
        new_energy = (residual**2).sum(0)
        direction = residual + new_energy / np.maximum(energy, 1e-30) * direction
        energy = new_energy
    return x
