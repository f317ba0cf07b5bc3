"""Three kinds of faiss index behind one interface, and which of them is used for how many images.

    flat      every vector is compared: exact, and fast enough for few images
    hnsw      a graph of near neighbours (Malkov and Yashunin 2018, https://arxiv.org/abs/1603.09320)
    ivfpq     clusters of compressed vectors (Jegou et al. 2011, https://hal.inria.fr/inria-00514462v2)

The results of the last two are ranked again by the stored vectors. Features of one network are close to each other, so
small errors matter: at 100,000 images, recall@10 of HNSW is 0.983 without that, however large efSearch is, and 0.9999
with it. A search that would rank half of all vectors compares all of them, which is exact. Up to about 10,000 images
the flat kind is as fast as HNSW (192 dimensions, one core), and at 20,000 a query takes 2 ms; building it takes no
time, where HNSW takes 30 s for 100,000. IVF-PQ needs the least memory, which matters for millions of images; it learns
its clusters from the images, and fits images that are added later less well.

The rows of a faiss index are those of the stored vectors, including rows that were removed: a search gets the rows that
are alive, and the index is rebuilt when many are not. This makes removal work for all kinds; HNSW in faiss has none.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.items import as_utf8
from maerestore.image import InputError

KINDS = ("flat", "hnsw", "ivfpq")
FLAT_UNTIL = 20_000
HNSW_UNTIL = 1_000_000
DEAD_SHARE = 0.2
"""The share of removed rows above which the index is rebuilt."""

_BLOCK = 1 << 16  # rows that are held as float32 at once
_LINKS, _BREADTH_BUILDING, _BREADTH = 32, 100, 96  # of HNSW: M, efConstruction, efSearch
_TRAINING_ROWS = 64  # a cluster, for IVF-PQ; faiss asks for at least 39
_LEAST_TRAINING = 256  # rows: product quantisation with 8 bits has as many centroids
_FULL_TRAINING = 1 << 14  # rows, where there are so many: 64 for each of these centroids
_PROBES = 64  # clusters looked into, at least
_RANKED = {"hnsw": (2, 16), "ivfpq": (16, 480)}  # for k results, the first times k and the second are ranked again
_GROWTH = 4  # clusters serve until there are so many times the rows that they were made for


def load_faiss() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError("an index needs faiss: pip install 'maerestore[index]'") from None
    return faiss


def choose_kind(n: int, wanted: str = "auto") -> str:
    """The kind for n images.

    Args:
        n: number of images.
        wanted: one of `KINDS`, or "auto". With fewer than 256 images, from which its centroids would be learnt, "ivfpq"
            is flat as well.

    Raises:
        InputError: an unknown kind.

    Example:
        >>> [choose_kind(n) for n in (1_000, 100_000, 10_000_000)], choose_kind(1_000, "hnsw")
        (['flat', 'hnsw', 'ivfpq'], 'hnsw')
    """
    if wanted not in ("auto", *KINDS):
        raise InputError(f"kind must be one of auto, {', '.join(KINDS)}, got {wanted!r}")
    if wanted == "auto":
        wanted = "flat" if n < FLAT_UNTIL else "hnsw" if n < HNSW_UNTIL else "ivfpq"
    return "flat" if wanted == "ivfpq" and n < _LEAST_TRAINING else wanted


def unit(features: np.ndarray) -> np.ndarray:
    """Scale features to length 1, and convert them to float16, as they are stored.

    Args:
        features: (N, D) of any float type.

    Raises:
        InputError: another shape.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise InputError(f"features are (N, D), got shape {features.shape}")
    rows = features.astype(np.float32)
    rows /= np.abs(rows).max(1, keepdims=True, initial=0).clip(1e-30)  # so that no square overflows
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-30)
    return rows.astype(np.float16)


def as_float(vectors: np.ndarray) -> np.ndarray:
    """Stored vectors as float32, scaled to length 1 again: rounding to float16 changes the length a little."""
    rows = np.asarray(vectors, dtype=np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-30))


def build(kind: str, vectors: np.ndarray) -> Any:
    """Build a faiss index of stored vectors.

    Args:
        kind: one of `KINDS`; "ivfpq" needs at least 256 vectors.
        vectors: (N, D) float16 of length 1, in memory or on disk.
    """
    faiss = load_faiss()
    n, dim = vectors.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        # Vectors in the graph are float16 too, which halves the memory.
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BREADTH_BUILDING
        index.train(as_float(vectors[:1]) if n else np.ones((1, dim), np.float32))
    else:
        lists = max(1, min(round(4 * math.sqrt(n)), n // _TRAINING_ROWS))
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, _code_size(dim), 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical = True
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # faiss would print warnings
        rng = np.random.default_rng(0)
        most = max(_FULL_TRAINING, lists * _TRAINING_ROWS)
        chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
        index.train(as_float(vectors[chosen]))
    add(index, vectors)
    return index


def add(index: Any, vectors: np.ndarray) -> None:
    """Append stored vectors, (N, D) float16."""
    for start in range(0, len(vectors), _BLOCK):
        index.add(as_float(vectors[start : start + _BLOCK]))


def write(index: Any, path: Path) -> None:
    """Write a faiss index to a file.

    Raises:
        OSError, RuntimeError: the file cannot be written.
    """
    if as_utf8(str(path)) == str(path):
        load_faiss().write_index(index, str(path))
    else:  # faiss takes no other names
        path.write_bytes(load_faiss().serialize_index(index).data)


def read(path: Path) -> Any:
    """Read a file that `write` wrote.

    Raises:
        OSError, RuntimeError: the file cannot be read, or is damaged.
    """
    if as_utf8(str(path)) == str(path):
        return load_faiss().read_index(str(path))
    return load_faiss().deserialize_index(np.fromfile(path, np.uint8))


def outgrown(index: Any, kind: str, n: int) -> bool:
    """Whether an IVF-PQ index has too few clusters for n rows."""
    return kind == "ivfpq" and min(4 * math.sqrt(n), n / _TRAINING_ROWS) > math.sqrt(_GROWTH) * index.nlist


def search(
    index: Any, kind: str, vectors: np.ndarray, queries: np.ndarray, k: int, alive: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest rows of each query.

    Args:
        index: what `build` returned.
        kind: of the index.
        vectors: (N, D) float16, the vectors of the index.
        queries: (Q, D) float32 of length 1.
        k: number of results, at least 1.
        alive: (N,) bool, the rows that may be found; None for all.

    Returns:
        (Q, k) float32, cosine similarities in descending order, and (Q, k) int64, the rows; -1 where there are no more.
    """
    faiss = load_faiss()
    selector = None if alive is None else faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))
    if kind == "flat":
        return index.search(queries, k, params=faiss.SearchParameters(sel=selector) if selector else None)
    times, more = _RANKED[kind]
    candidates = min(len(vectors), times * k + more)
    if 2 * candidates >= (len(vectors) if alive is None else int(alive.sum())):  # a search of nearly everything
        return _search_all(vectors, queries, k, alive)
    if kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=max(_BREADTH, candidates))
    else:
        probes = min(index.nlist, max(_PROBES, index.nlist // 32))
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
    _, rows = index.search(queries, candidates, params=parameters)
    return _rank_again(vectors, queries, rows, k)


def _search_all(
    vectors: np.ndarray, queries: np.ndarray, k: int, alive: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `search`, but exact: every vector is compared."""
    faiss = load_faiss()
    rows = np.arange(len(vectors)) if alive is None else np.flatnonzero(alive)
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        near, at = faiss.knn(queries, as_float(vectors[some]), min(k, len(some)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(near, some[at])
    best.finalize()
    return np.where(best.I < 0, -np.inf, best.D).astype(np.float32), best.I


def _rank_again(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of candidate rows (Q, C), by their similarities to the stored vectors."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    best = np.full((len(queries), k), -1, np.int64)
    for i, found in enumerate(rows):
        known = found[found >= 0]
        similarity = as_float(vectors[known]) @ queries[i]
        order = np.argsort(-similarity, kind="stable")[:k]
        scores[i, : len(order)], best[i, : len(order)] = similarity[order], known[order]
    return scores, best


def _code_size(dim: int) -> int:
    """Bytes of a compressed vector: one for 4 dimensions, or for more where `dim` is not divisible by 4."""
    return max(m for m in range(1, max(1, dim // 4) + 1) if dim % m == 0)
