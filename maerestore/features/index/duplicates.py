"""Near-duplicates: groups of images that are linked by similarities above a threshold.

The features of a network share a large common component: with the bundled encoder, unrelated pictures have a cosine
similarity of 0.27, and the nearest of 200 others one of 0.79. Therefore the mean of all features in the index is
subtracted first, as in "All-but-the-Top", Mu and Viswanath 2018, https://arxiv.org/abs/1702.01417. Unrelated pictures
then have a similarity of -0.05, the nearest others one of 0.71, and the same photograph one of 0.99 after compression
(JPEG, quality 50), 0.98 brightened by 20 %, 0.97 mirrored, 0.96 with 5 % cropped on each side, and 0.90 at half the
size (medians over 200 pictures of 128 px). Of 1.4 million pairs of 1,700 such pictures, 14 are above 0.93, such as two
golf balls in the grass; so are 87 % of the mirrored and 60 % of the cropped pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maerestore.features.index import kinds
from maerestore.image import InputError

if TYPE_CHECKING:
    from maerestore.features.index.snapshot import Snapshot

_BLOCK = 1024  # queries at once
_NEIGHBOURS, _MOST_NEIGHBOURS = 16, 1024
_MOST_COMPARED = 1 << 18  # vectors that are held as float32 at once
_MOST_PAIRS = 50_000_000
_PRIOR = 10  # images: of so few, half of the mean is taken off, and nothing is left of few images that are alike
_EQUAL = 0.9999  # cosine from which two features are equal but for the rounding to float16

Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are nearly the same.

    Attributes:
        names: at least two; the largest file is first, which usually is the one to keep.
        scores: similarity of each image to the first. Groups are connected components: an image may be below the
            threshold here, and above it with another image of the group.
        folders: the working directories to which the names are relative.
    """

    names: list[str]
    scores: list[float]
    folders: list[str]


def find_duplicates(
    snapshot: Snapshot,
    threshold: float,
    centred: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[DuplicateGroup]:
    """Find the connected components of the graph that links images with at least a given similarity.

    With the flat kind, all pairs are compared. With the others, each image is compared with the nearest images that a
    search finds, and with more of them (up to 1024) while all are above the threshold; a link is missed if the search
    misses it.

    Args:
        snapshot: of an index.
        threshold: cosine similarity, above 0 and at most 1.
        centred: subtract the mean first; without, similarities are those of a query.
        progress: called with "images", the number of images compared, and the number of all images.

    Returns:
        the groups, the largest first, then ordered by the name of the first image.

    Raises:
        InputError: a threshold out of range, or one with more than 50 million links.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, got {threshold:g}")
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    living = np.flatnonzero(snapshot.entries.alive)
    compare = _Comparison(snapshot, living, min(threshold, _EQUAL), centred)
    links: list[Pairs] = []
    count = 0
    for done, found in _linked(snapshot, living, compare):
        links.append(found)
        count += len(found[0])
        if count > _MOST_PAIRS:
            raise InputError(f"threshold {threshold:g} links more than {_MOST_PAIRS} pairs: give a higher one")
        if progress is not None:
            progress("images", done, len(living))
    if not count:
        return []
    first, second = (np.concatenate([link[i] for link in links]) for i in (0, 1))
    n = len(snapshot.entries)
    graph = coo_matrix((np.ones(len(first), np.bool_), (first, second)), (n, n))
    _, component = connected_components(graph, directed=False)
    members = np.unique(np.concatenate([first, second]))
    members = members[np.argsort(component[members], kind="stable")]
    ends = np.flatnonzero(np.diff(component[members])) + 1
    groups = [_group(compare, rows) for rows in np.split(members, ends)]
    return sorted(groups, key=lambda group: (-len(group.names), group.names[0]))


class _Comparison:
    """Similarities of stored rows."""

    def __init__(self, snapshot: Snapshot, living: np.ndarray, level: float, centred: bool) -> None:
        self.snapshot, self.level = snapshot, level
        total = np.zeros(snapshot.vectors.shape[1])
        if centred:
            for start in range(0, len(living), _MOST_COMPARED):
                total += kinds.as_float(snapshot.vectors[living[start : start + _MOST_COMPARED]]).sum(0, np.float64)
        self.centre = (total / (len(living) + _PRIOR)).astype(np.float32)

    def vectors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of rows as stored, and as compared: both (n, D) float32 of length 1."""
        stored = kinds.as_float(self.snapshot.vectors[rows])
        return stored, kinds.as_float(stored - self.centre)

    def linked(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(n, k) bool: whether rows (n,) and others (n, k), -1 for none, are linked."""
        stored, compared = self.vectors(rows)
        theirs, their_compared = (x.reshape(*others.shape, -1) for x in self.vectors(others.reshape(-1)))
        near = np.einsum("nd,nkd->nk", compared, their_compared) >= self.level
        equal = np.einsum("nd,nkd->nk", stored, theirs) >= _EQUAL
        return (near | equal) & (others >= 0) & (others != rows[:, None])


def _linked(snapshot: Snapshot, living: np.ndarray, compare: _Comparison) -> Iterator[tuple[int, Pairs]]:
    """Yield for each block the number of rows compared so far, and the pairs (first, second) of linked rows."""
    search = _nearest
    if snapshot.kind == "flat":
        search = _AllPairs(living, compare)
    for start in range(0, len(living), _BLOCK):
        rows = living[start : start + _BLOCK]
        yield start + len(rows), search(rows, compare)


class _AllPairs:
    """Compares rows with all rows."""

    def __init__(self, living: np.ndarray, compare: _Comparison) -> None:
        self.living = living
        self.indexes = [kinds.load_faiss().IndexFlatIP(len(compare.centre)) for _ in range(2)]
        for index, vectors in zip(self.indexes, compare.vectors(living), strict=True):
            index.add(vectors)

    def __call__(self, rows: np.ndarray, compare: _Comparison) -> Pairs:
        firsts, seconds = [], []
        for index, queries, level in zip(self.indexes, compare.vectors(rows), (_EQUAL, compare.level), strict=True):
            # What is above the next lower number is at least the level.
            limits, _, places = index.range_search(queries, float(np.nextafter(np.float32(level), np.float32(-1))))
            first, second = np.repeat(rows, np.diff(limits).astype(np.int64)), self.living[places]
            firsts.append(first[second > first])
            seconds.append(second[second > first])
        return np.concatenate(firsts), np.concatenate(seconds)


def _nearest(rows: np.ndarray, compare: _Comparison) -> Pairs:
    """Compare rows with the results of a search, and with more results where all of them are linked."""
    firsts, seconds = [], []
    k, most = _NEIGHBOURS, min(_MOST_NEIGHBOURS, len(compare.snapshot.entries))
    while len(rows):
        k = min(k, most)
        deeper = []
        for start in range(0, len(rows), max(1, _MOST_COMPARED // k)):
            some = rows[start : start + max(1, _MOST_COMPARED // k)]
            _, found = compare.snapshot.search(kinds.as_float(compare.snapshot.vectors[some]), k)
            linked = compare.linked(some, found)
            full = (linked.sum(1) >= k - 1) & (k < most)  # all but the row itself
            linked &= ~full[:, None]
            firsts.append(np.repeat(some, linked.sum(1)))
            seconds.append(found[linked])
            deeper.append(some[full])
        rows = np.concatenate(deeper)
        k *= 4
    return np.concatenate(firsts), np.concatenate(seconds)


def _group(compare: _Comparison, rows: np.ndarray) -> DuplicateGroup:
    entries = compare.snapshot.entries
    names, sizes = entries.names(rows), entries.column("size")[rows]
    order = sorted(range(len(rows)), key=lambda i: (-sizes[i], names[i]))
    stored, compared = compare.vectors(rows[order])
    equal = stored @ stored[0] >= _EQUAL
    scores = np.where(equal, 1.0, np.clip(compared @ compared[0], -1, 1))
    return DuplicateGroup([names[i] for i in order], [float(score) for score in scores], entries.folders(rows[order]))
