"""Conjugate gradients for Laplace's equation on any set of pixels, led by multigrid cycles.

Alone, conjugate gradients carry what the rim says one pixel further in each step, and a large hole takes hundreds. A
cycle passes what is left to do to half the size, and from there on down to a size that is solved exactly: each step
then takes away most of the error everywhere, however large the hole is.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import sparse

DAMPING = 0.8  # of Jacobi's smoothing; the best for the five-point system
MAX_ITERATIONS = 60  # ten were the most that any kind of hole took


class Solver(Protocol):
    """Solves a system, exactly or about: (n, C) constants -> (n, C) unknowns."""

    def solve(self, constant: np.ndarray) -> np.ndarray: ...


Entries = tuple[np.ndarray, np.ndarray, "np.ndarray | np.float32"]
"""Some of a matrix's entries, at most one in a row: rows, int32 and growing, columns, int32, and values."""


def sparse_rows(parts: list[Entries], shape: tuple[int, int]) -> sparse.csr_matrix:
    """The sum of matrices; with less memory than by SciPy's lists of places (a fill: 288 bytes a pixel, not 340).

    Example:
        >>> here, there = np.array([0, 1], np.int32), np.array([1], np.int32)
        >>> sparse_rows([(here, here, np.float32(4)), (there, there - 1, np.float32(-1))], (2, 2)).toarray().tolist()
        [[4.0, 0.0], [-1.0, 4.0]]
    """
    starts = np.zeros(shape[0] + 1, np.int64 if sum(len(rows) for rows, _, _ in parts) >= 2**31 else np.int32)
    for rows, _, _ in parts:
        starts[rows + 1] += 1
    starts.cumsum(out=starts)
    columns, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    place = starts[:-1].copy()
    for rows, to, value in parts:
        here = place[rows]
        columns[here], values[here] = to, value
        place[rows] += 1
    return sparse.csr_matrix((values, columns, starts), shape=shape)


class Cycle:
    """One symmetric multigrid cycle as an approximate solver: smoothed, corrected at half the size, smoothed.

    Args:
        matrix: (n, n), symmetric positive definite.
        enlarge: (n, m), the unknowns at half the size to those here; None where there are none.
        half: solver of the system at half the size, whose right sides are sums over the pixels here.
    """

    def __init__(self, matrix: sparse.csr_matrix, enlarge: sparse.csr_matrix | None, half: Solver | None) -> None:
        self.matrix, self.enlarge, self.half = matrix, enlarge, half
        self.step = (DAMPING / matrix.diagonal())[:, None].astype(np.float32)

    def solve(self, constant: np.ndarray) -> np.ndarray:
        """About the solution; a linear and symmetric function of `constant`."""
        x = self.step * constant
        if self.half is not None and self.enlarge is not None:
            rest = self.enlarge.T @ (constant - self.matrix @ x)
            x += self.enlarge @ self.half.solve(rest).astype(np.float32)
        x += self.step * (constant - self.matrix @ x)
        return x


def enlarging(mask: np.ndarray, small: np.ndarray) -> sparse.csr_matrix:
    """Bilinear interpolation from half the size, for functions that are zero at known pixels.

    Args:
        mask: (H, W) bool, the pixels, numbered in raster order.
        small: bool, half as high and wide, rounded up.

    Returns:
        (number of pixels, number of small pixels) float32; its columns add up to about 4, the pixels in a small one.
    """
    number = np.full(small.shape, -1, np.int32)
    number[small] = np.arange(np.count_nonzero(small), dtype=np.int32)
    y, x = (axis.astype(np.int32) for axis in np.nonzero(mask))
    parts: list[Entries] = []
    for far_y, far_x in ((False, False), (False, True), (True, False), (True, True)):
        # The centre of a pixel lies a quarter of a small one from that in which it is, three from the next one.
        near_y = (y // 2 + far_y * (2 * (y % 2) - 1)).clip(0, small.shape[0] - 1)
        near_x = (x // 2 + far_x * (2 * (x % 2) - 1)).clip(0, small.shape[1] - 1)
        source = number[near_y, near_x]
        there = np.flatnonzero(source >= 0).astype(np.int32)
        parts.append((there, source[there], np.float32((0.25 if far_y else 0.75) * (0.25 if far_x else 0.75))))
    return sparse_rows(parts, (len(y), int(number.max()) + 1))


def conjugate_gradients(
    matrix: sparse.csr_matrix, constant: np.ndarray, guess: np.ndarray, lead: Solver, tolerance: float
) -> np.ndarray:
    """Solve for all columns at once.

    Args:
        matrix: (n, n), symmetric positive definite.
        constant: (n, C).
        guess: (n, C), where to start.
        lead: about solves the system, linearly and symmetrically.
        tolerance: largest residual to be left; only after `MAX_ITERATIONS` steps it may be larger.
    """
    x = guess.astype(np.float32)
    residual = constant - matrix @ x
    direction = lead.solve(residual)
    energy = (residual * direction).sum(0)
    for _ in range(MAX_ITERATIONS):
        if np.abs(residual).max() <= tolerance:
            break
        product = matrix @ direction
        step = energy / np.maximum((direction * product).sum(0), 1e-30)
        x += step * direction
        residual -= step * product
        led = lead.solve(residual)
        new_energy = (residual * led).sum(0)
        direction = led + new_energy / np.maximum(energy, 1e-30) * direction
        energy = new_energy
    return x
