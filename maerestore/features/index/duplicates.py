"""Near-duplicates: groups of images that show the same picture.

Similar features propose pairs, and the pictures themselves decide, as the features alone cannot: with the bundled
encoder, two portraits, X-rays or frames of a street are as similar as a picture and its crop. An image belongs to a
group if it shows what the first image of the group shows (`maerestore.features.index.looks`); no image belongs to a
group through a third one. Where a picture cannot be read, only features that are nearly equal make a duplicate.

The features of a network share a large common component. Therefore the mean of all features in the index is subtracted
first, as in "All-but-the-Top", Mu and Viswanath 2018, https://arxiv.org/abs/1702.01417.

Measured with the bundled encoder on 200 photographs, one kind of altered copy at a time, among 2,354 others: found are
99.5 % of the copies compressed as JPEG of quality 50, 98 % of those at half the size and 90 % at a third, 97 % of those
with 5 % cut off each side and 91 % with 10 %, 98 % or more of those that are brighter, darker, or of other contrast,
and 71 % of the gray ones, whose features often differ. With threshold 0.93 these are 99.5, 92, 73, 74, 46, 88 (darker)
and 20 %. Mirrored copies are not found. With an earlier encoder, of 133 million pairs among 16,295 photographs
435,000 had features similar by 0.8, and 27 were reported: 14 are the same photograph, and 13 the same scene moments
apart, 10 of them frames of a video. None shows something else. (Pictures that differ in a small part only, such as
another number on the same sign, or another entry in a form, are near-duplicates here: look before you delete.) Features
alone, from 0.93, made 45 groups of the 2,354, in which 154 photographs were said to be another's near-duplicate; next
to none is, and no group is left where the pictures are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from maerestore.features.index import kinds
from maerestore.image import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from maerestore.features.index.looks import Looks
    from maerestore.features.index.snapshot import Snapshot

_BLOCK = 1024  # queries at once
_NEIGHBOURS, _MOST_NEIGHBOURS = 16, 1024
_MOST_COMPARED = 1 << 18  # vectors that are held as float32 at once
_MOST_PAIRS = 50_000_000
_PRIOR = 10  # images: of so few, half of the mean is taken off, and nothing is left of few images that are alike
PROPOSED, LINKED, UNSEEN = 0.8, 0.93, 0.99
"""Default thresholds: for pairs that are verified, for pairs that are not, and the least for pictures that cannot be
read."""
_EQUAL = 0.9999  # cosine from which two features are equal but for the rounding to float16

Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are nearly the same.

    Attributes:
        names: at least two; the largest file that is no link is first, which usually is the one to keep.
        scores: similarity of the features of each image to those of the first. Where the pictures were not compared,
            groups are connected components: an image may be below the threshold here, and above it with another image
            of the group.
        folders: the working directories to which the names are relative.
    """

    names: list[str]
    scores: list[float]
    folders: list[str]


@dataclass(frozen=True)
class DuplicateReport:
    """What a search for near-duplicates found.

    Attributes:
        groups: the largest first, then ordered by the name of the first image.
        threshold: similarity of features from which pairs were looked at.
        pairs: number of pairs with at least that similarity.
        read: number of pictures of these pairs that were read and compared.
        unread: number of pictures of these pairs that could not be read: their features alone decided.
    """

    groups: list[DuplicateGroup]
    threshold: float
    pairs: int = 0
    read: int = 0
    unread: int = 0


def find_duplicates(
    snapshot: Snapshot,
    threshold: float | None = None,
    centred: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
    verify: bool = True,
) -> DuplicateReport:
    """Find groups of images that are nearly the same.

    With the flat kind, the features of all pairs are compared. With the others, each image is compared with the nearest
    images that a search finds, and with more of them (up to 1024) while all are above the threshold; a pair is missed
    if the search misses it.

    Args:
        snapshot: of an index.
        threshold: cosine similarity of features from which a pair is looked at, above 0 and at most 1; None for 0.8
            (higher, up to 0.93, in collections where that makes more than 50 million pairs), or 0.93 without `verify`.
        centred: subtract the mean first; without, similarities are those of a query.
        progress: called with "images", the number of images compared, and the number of all images; then with
            "pictures", the number of pictures read, and the number of those to be read.
        verify: compare the pictures of each pair. The groups are then made from the largest file to the smallest: an
            image joins the first group whose first image it is verified to be a near-duplicate of. If one of the two
            pictures cannot be read, their features have to have a similarity of 0.99, or of the threshold if that is
            higher. False to link all pairs, and have the connected components as groups.

    Raises:
        InputError: a threshold out of range, or more than 50 million pairs.
    """
    given = threshold is not None
    if threshold is None:
        threshold = PROPOSED if verify else LINKED
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, got {threshold:g}")
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    living = np.flatnonzero(snapshot.entries.alive)
    while True:
        compare = _Comparison(snapshot, living, min(threshold, _EQUAL), centred)
        links = _links(snapshot, living, compare, progress)
        if links is not None:
            break
        if given or threshold >= LINKED:
            raise InputError(f"threshold {threshold:g} links more than {_MOST_PAIRS} pairs: give a higher one")
        threshold = min(LINKED, threshold + 0.05)  # a large collection: only what is more similar is looked at
    count = sum(len(first) for first, _ in links)
    if not count:
        return DuplicateReport([], threshold)
    first, second = (np.concatenate([link[i] for link in links]) for i in (0, 1))
    members = np.unique(np.concatenate([first, second]))
    ends = np.searchsorted(members, first), np.searchsorted(members, second)
    graph = coo_matrix((np.ones(count, np.bool_), ends), (len(members), len(members))).tocsr()
    graph = graph + graph.T  # searches may find a pair once or twice
    looks = None
    if verify:
        looks = _look(snapshot, members, progress)
        rows = _verified(compare, looks, graph, max(threshold, UNSEEN))
    else:
        _, component = connected_components(graph, directed=False)
        order = np.argsort(component, kind="stable")
        rows = np.split(members[order], np.flatnonzero(np.diff(component[order])) + 1)
    groups = sorted((_group(compare, one) for one in rows), key=lambda group: (-len(group.names), group.names[0]))
    read = 0 if looks is None else int(looks.readable.sum())
    return DuplicateReport(groups, threshold, graph.nnz // 2, read, 0 if looks is None else len(members) - read)


def _links(
    snapshot: Snapshot,
    living: np.ndarray,
    compare: _Comparison,
    progress: Callable[[str, int, int], None] | None,
) -> list[Pairs] | None:
    """The pairs that are similar enough, as parts; None for too many."""
    links: list[Pairs] = []
    count = 0
    for done, found in _linked(snapshot, living, compare):
        links.append(found)
        count += len(found[0])
        if count > _MOST_PAIRS:
            return None
        if progress is not None:
            progress("images", done, len(living))
    return links


def _look(snapshot: Snapshot, members: np.ndarray, progress: Callable[[str, int, int], None] | None) -> Looks:
    from maerestore.features.index.looks import Looks

    names, folders = snapshot.entries.names(members), snapshot.entries.folders(members)
    return Looks(members, names, folders, None if progress is None else partial(progress, "pictures"))


def _verified(compare: _Comparison, looks: Looks, graph: csr_matrix, unseen: float) -> list[np.ndarray]:
    """Groups of rows, each of which is verified to be a near-duplicate of the first one of its group.

    An image that is not similar enough to the first one is compared with it nevertheless where it is similar to
    another image of the group.
    """
    rows = looks.rows
    free, groups = np.ones(len(rows), np.bool_), []
    for first in _order(compare.snapshot, rows):
        if not free[first]:
            continue
        free[first] = False
        group, asked, new = [], np.array([first]), np.array([first])
        while len(new):
            near = np.unique(np.concatenate([graph.indices[graph.indptr[i] : graph.indptr[i + 1]] for i in new]))
            near = np.setdiff1d(near[free[near]], asked)
            asked = np.concatenate([asked, near])
            new = near[_duplicates_of(compare, looks, first, near, unseen)]
            free[new] = False
            group.append(new)
        joined = np.concatenate(group)
        if len(joined):
            groups.append(rows[np.concatenate([[first], joined])])
    return groups


def _duplicates_of(compare: _Comparison, looks: Looks, first: int, others: np.ndarray, unseen: float) -> np.ndarray:
    """Whether images are near-duplicates of one: (n,) bool."""
    found = np.zeros(len(others), np.bool_)
    for start in range(0, len(others), _BLOCK):
        some = others[start : start + _BLOCK]
        seen = looks.clear[some] & looks.clear[first]
        same = np.zeros(len(some), np.bool_)
        if seen.any():
            same[seen] = looks.same(first, some[seen])
        if not seen.all():
            some = some[~seen]
            linked = compare.linked(looks.rows[[first]], looks.rows[some][None], unseen)[0]
            both = looks.readable[some] & looks.readable[first]
            linked[both] &= looks.equal(first, some[both])
            same[~seen] = linked
        found[start : start + _BLOCK] = same
    return found


def _order(snapshot: Snapshot, rows: np.ndarray) -> list[int]:
    """Positions in `rows`: the largest file first, files of one size by their names, and links to files last.

    Of a file and a link to it, the file is the one to keep.
    """
    names, sizes = snapshot.entries.names(rows), snapshot.entries.column("size")[rows]
    links = [os.path.islink(os.path.join(*path)) for path in zip(snapshot.entries.folders(rows), names, strict=True)]
    return sorted(range(len(rows)), key=lambda i: (links[i], -sizes[i], names[i]))


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

    def linked(self, rows: np.ndarray, others: np.ndarray, level: float | None = None) -> np.ndarray:
        """(n, k) bool: whether rows (n,) and others (n, k), -1 for none, are linked; None for the usual level."""
        level = self.level if level is None else min(level, _EQUAL)
        stored, compared = self.vectors(rows)
        theirs, their_compared = (x.reshape(*others.shape, -1) for x in self.vectors(others.reshape(-1)))
        near = np.einsum("nd,nkd->nk", compared, their_compared) >= level
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
    rows, entries = rows[_order(compare.snapshot, rows)], compare.snapshot.entries
    stored, compared = compare.vectors(rows)
    equal = stored @ stored[0] >= _EQUAL
    scores = np.where(equal, 1.0, np.clip(compared @ compared[0], -1, 1))
    return DuplicateGroup(entries.names(rows), [float(score) for score in scores], entries.folders(rows))
