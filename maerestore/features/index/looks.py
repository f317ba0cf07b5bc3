"""What pictures look like: small thumbnails, and whether two of them show the same picture.

Features say what is in a picture: two portraits, or two X-rays, are nearly one to them. Here the gray levels decide.
One picture is laid over the other with up to 10 % cut off each side, in steps of 5 %, and the other way round. Where
that fits best, small shifts and scales are taken out by least squares, and the fine details that are left (what is
smaller than a tenth of the picture) have to correlate. Neither brightness nor contrast matters, and colour only where
both pictures have some: a gray copy is a copy, and a picture in the opposite colours is not. Mirrored or turned
pictures are different pictures here. Pictures without structure, such as a white page, are compared level by level.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from maerestore.features.index.pictures import Pictures, decode
from maerestore.features.items import Item
from maerestore.threads import usable_cpus

SIDE = 40  # of a thumbnail, in pixels
_COARSE, _FINE, _CHROMA = 20, 32, 5  # sides of what is compared: to find the best place, there, and the colours
_CUTS = (0.0, 0.05, 0.1)  # of a side
_NEARLY = 0.88  # correlation of details from which a place is made more precise
_FITS = 0.8  # correlation of coarse thumbnails from which a place is looked at: one of 3,200 copies has less
_DETAIL, _WHOLE, _SHIFT = 0.97, 0.95, 2.0  # least correlations of details and of all; most shift in fine cells
_COLOUR = 0.3  # least cosine of the colours
_PLAIN, _GRAY, _APART = 2.0, 6.0, 6.0  # levels: no structure below, no colour below; plain pictures apart above
_MOST_IN_MEMORY = 1 << 28  # bytes of thumbnails; more of them are kept in a temporary file
_AT_ONCE = 256  # pairs


class Looks:
    """Thumbnails of the pictures of some rows of an index.

    Attributes:
        rows: (N,) int64.
        readable: (N,) bool.
        clear: (N,) bool: which of them have structure that can be compared; a white page has none.
    """

    def __init__(
        self,
        rows: np.ndarray,
        names: Sequence[str],
        folders: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read each picture once, at reduced size, in the order of their paths: tars are read from front to back.

        Args:
            rows: (N,) int64.
            names, folders: of the rows.
            progress: called with how many of how many pictures are read.
        """
        self.rows = rows
        self.readable, self.clear = np.zeros((2, len(rows)), np.bool_)
        shape = (len(rows), SIDE * SIDE + 2 * _CHROMA * _CHROMA)
        if shape[0] * shape[1] <= _MOST_IN_MEMORY:
            self._levels = np.zeros(shape, np.uint8)
        else:
            with tempfile.TemporaryFile() as file:
                self._levels = np.memmap(file, np.uint8, "w+", shape=shape)
        self._read(names, folders, progress)

    def _read(self, names: Sequence[str], folders: Sequence[str], progress: Callable[[int, int], None] | None) -> None:
        find = Pictures().find
        pending: deque[tuple[int, Future[np.ndarray | None]]] = deque()
        threads, done = usable_cpus(), 0

        def take() -> None:
            nonlocal done
            place, future = pending.popleft()
            levels = future.result()
            if levels is not None:
                self._levels[place], self.readable[place] = levels, True
                self.clear[place] = levels[: SIDE * SIDE].std() >= _PLAIN
            done += 1
            if progress is not None:
                progress(done, len(names))

        pool = ThreadPoolExecutor(threads, thread_name_prefix="thumbnail")
        try:
            for place in sorted(range(len(names)), key=lambda i: (folders[i], names[i])):
                if len(pending) >= 4 * threads:
                    take()
                pending.append((place, pool.submit(_thumbnail, find(names[place], folders[place]))))
            while pending:
                take()
        finally:
            pool.shutdown(cancel_futures=True)

    def same(self, one: int, others: np.ndarray) -> np.ndarray:
        """Whether pictures show what another one shows.

        Args:
            one: its position in `rows`. It is clear.
            others: (n,) those of the others, which are so, too.

        Returns:
            (n,) bool.
        """
        [gray], [chroma] = self._thumbnails(np.array([one]))
        stencil = _Stencil(gray)
        found = np.zeros(len(others), np.bool_)
        for start in range(0, len(others), _AT_ONCE):
            theirs, their_chroma = self._thumbnails(others[start : start + _AT_ONCE])
            alike = np.flatnonzero(_alike_colours(chroma, their_chroma))
            found[start + alike] = stencil.fits(theirs[alike])
        return found

    def equal(self, one: int, others: np.ndarray) -> np.ndarray:
        """As `same`, of readable pictures that need not be clear: whether they have nearly equal levels."""
        [gray], [chroma] = self._thumbnails(np.array([one]))
        theirs, their_chroma = self._thumbnails(others)
        near = np.abs(theirs - gray).mean(axis=(1, 2)) <= _APART
        return near & (np.abs(their_chroma - chroma).max(axis=1) <= _APART)

    def _thumbnails(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, SIDE, SIDE) and (n, 50) float32: gray levels, and colours around 0."""
        levels = self._levels[places].astype(np.float32)
        return levels[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE), levels[:, SIDE * SIDE :] - 128


def _thumbnail(item: Item | None) -> np.ndarray | None:
    """(1650,) uint8: gray levels, and the colours of 5 x 5 blocks; None for what cannot be read."""
    try:
        pixels = decode(item, SIDE)
    except MemoryError:
        return None
    if pixels is None:
        return None
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    chroma = small.resize((_CHROMA, _CHROMA), Image.Resampling.BOX)
    return np.concatenate([np.asarray(small)[..., 0].reshape(-1), np.asarray(chroma)[..., 1:].reshape(-1)])


def _alike_colours(chroma: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether two pictures have similar colours, or one of them hardly any."""
    one, other = np.linalg.norm(chroma), np.linalg.norm(theirs, axis=1)
    gray = np.minimum(one, other) < _GRAY * np.sqrt(_CHROMA * _CHROMA)
    return gray | (theirs @ chroma >= _COLOUR * one * other)


def _areas(ends: np.ndarray, n: int) -> np.ndarray:
    """(..., n, SIDE) float32: what multiplies the rows of a thumbnail to give the n means of a stretch of it.

    Args:
        ends: (..., 2), where the stretch starts and ends, as parts of the side.
        n: number of cells.
    """
    edges = SIDE * (ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * np.linspace(0, 1, n + 1))[..., None]
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[..., 1:, :], pixels + 1) - np.maximum(edges[..., :-1, :], pixels)
    weights = np.maximum(covered, 0)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


_ENDS = np.array([(before, 1 - after) for before in _CUTS for after in _CUTS])
# What is left of a picture where its ends are cut off; and all of it, in the cells that another picture has left.
_CUT = _areas(_ENDS, _COARSE)
_INTO = np.zeros_like(_CUT)
_LEFT = np.zeros(_CUT.shape[:2], np.float32)
for _i, (_first, _last) in enumerate(np.rint(_ENDS * _COARSE).astype(int)):
    _INTO[_i, _first:_last] = _areas(np.array([0.0, 1.0]), _last - _first)
    _LEFT[_i, _first:_last] = 1
_WINDOWS = np.einsum("bi,cj->bcij", _LEFT, _LEFT).reshape(len(_ENDS) ** 2, -1)
_WHOLE_FINE = _areas(np.array([0.0, 1.0]), _FINE)


class _Stencil:
    """A picture with all its cuts, to be laid over others."""

    def __init__(self, gray: np.ndarray) -> None:
        self.gray = gray
        self.cut = _unit(_windows(gray, _CUT))  # for others that show a part of it
        into = _windows(gray, _INTO)  # for others of which it shows a part
        means = into.sum(axis=1, keepdims=True) / _WINDOWS.sum(axis=1, keepdims=True)
        into = (into - means) * _WINDOWS
        self.into = into / np.maximum(np.linalg.norm(into, axis=1, keepdims=True), 1e-3)

    def fits(self, theirs: np.ndarray) -> np.ndarray:
        """Whether (n, SIDE, SIDE) thumbnails show the same picture: (n,) bool."""
        whole = (_CUT[0] @ theirs @ _CUT[0].T).reshape(len(theirs), _COARSE * _COARSE)
        whole -= whole.mean(axis=1, keepdims=True)
        parts = whole @ self.cut.T / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-3)
        sums = whole @ _WINDOWS.T
        energy = (whole * whole) @ _WINDOWS.T - sums * sums / _WINDOWS.sum(axis=1)
        wholes = whole @ self.into.T / np.sqrt(np.maximum(energy, 1e-6))
        found = np.zeros(len(theirs), np.bool_)
        for scores, theirs_are_cut in ((parts, False), (wholes, True)):
            best = scores.argmax(axis=1)
            at = np.flatnonzero((scores.max(axis=1) >= _FITS) & ~found)
            if not len(at):
                continue
            cut, uncut = (theirs[at], self.gray[None]) if theirs_are_cut else (self.gray[None], theirs[at])
            ends = np.stack([_ENDS[best[at] % len(_ENDS)], _ENDS[best[at] // len(_ENDS)]], axis=1)
            found[at] = _same(cut, uncut, ends)
        return found


def _windows(gray: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(81, n * n): what the pairs of a bank make of the rows and columns of a thumbnail."""
    rows = bank @ gray
    return np.matmul(rows[:, None], bank.transpose(0, 2, 1)[None]).reshape(len(bank) ** 2, -1)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-3)


def _blur(sigma: float) -> np.ndarray:
    """(n, n) float32: what multiplies columns to blur them."""
    cells = np.arange(_FINE)
    weights = np.exp(-0.5 * ((cells[:, None] - cells) / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


_SOFT, _BROAD = _blur(0.7), _blur(3.0)
_FROM_CENTRE = ((np.arange(_FINE) - (_FINE - 1) / 2) / (_FINE / 2)).astype(np.float32)


def _same(cut: np.ndarray, uncut: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether pictures show the same where they lie over each other to within a few cells.

    Args:
        cut, uncut: (n or 1, SIDE, SIDE) thumbnails.
        ends: (n, 2, 2), what is left of the cut ones: where that starts and ends, across and down.

    Returns:
        (n,) bool.
    """
    found = np.zeros(len(ends), np.bool_)
    details, _, moved = _compared(cut, uncut, ends)
    at = np.flatnonzero((details >= _NEARLY) & (np.abs(moved).max(axis=(1, 2)) <= _SHIFT / _FINE))
    if len(at):
        # Once more, from where the first comparison has moved it.
        ends = (ends[at] + moved[at]).clip(0, 1)
        details, wholes, moved = _compared(
            cut if len(cut) == 1 else cut[at], uncut if len(uncut) == 1 else uncut[at], ends
        )
        found[at] = (details >= _DETAIL) & (wholes >= _WHOLE) & (np.abs(moved).max(axis=(1, 2)) <= _SHIFT / _FINE)
    return found


def _compared(cut: np.ndarray, uncut: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) correlations of the details, (n,) of all, and (n, 2, 2) how far the ends have to move for the former."""
    areas = _areas(ends, _FINE)
    ones = _SOFT @ (areas[:, 1] @ cut @ areas[:, 0].transpose(0, 2, 1)) @ _SOFT.T
    others = _SOFT @ (_WHOLE_FINE @ uncut @ _WHOLE_FINE.T) @ _SOFT.T
    others = np.broadcast_to(others, ones.shape)
    details, moved = _correlation(ones - _BROAD @ ones @ _BROAD.T, others - _BROAD @ others @ _BROAD.T)
    return details, _correlation(ones, others)[0], moved * (ends[..., 1:] - ends[..., :1])


def _correlation(ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The correlations of thumbnails after the ones are shifted and scaled a little, by least squares.

    These are the tangents of Simard, LeCun and Denker, "Efficient pattern recognition using a new transformation
    distance", NIPS 1992.

    Returns:
        (n,) correlations, -1 where the others are negatives of the ones; and (n, 2, 2) how far the starts and ends of
        the ones move, across and down, as parts of their sides.
    """
    down, across = np.gradient(ones, axis=(1, 2))
    basis = np.stack([ones, across, across * _FROM_CENTRE, down, down * _FROM_CENTRE[:, None]], axis=1)
    basis = basis[:, :, 1:-1, 1:-1].reshape(len(ones), 5, -1)  # gradients at the edges are one-sided
    basis = basis - basis.mean(axis=2, keepdims=True)
    theirs = _unit(others[:, 1:-1, 1:-1].reshape(len(ones), -1))
    products = basis @ basis.transpose(0, 2, 1)
    products += 1e-4 * np.eye(5, dtype=np.float32) * (np.trace(products, axis1=1, axis2=2)[:, None, None] / 5 + 1e-6)
    parts = np.linalg.solve(products, basis @ theirs[:, :, None])[:, :, 0]
    fitted = (parts[:, None] @ basis)[:, 0]
    correlation = np.where(parts[:, 0] > 0, np.einsum("nd,nd->n", _unit(fitted), theirs), -1)
    shift, scale = parts[:, [1, 3]] / np.maximum(parts[:, :1], 1e-9), parts[:, [2, 4]] / np.maximum(parts[:, :1], 1e-9)
    return correlation, np.stack([shift - scale, shift + scale], axis=2) / _FINE
