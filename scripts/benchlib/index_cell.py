"""One index of one kind and size, built and queried, each in a process of its own, so that memory is its own too."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.image_index import ImageIndex
from maerestore.features.table import FeatureTable

K = 10


def measure(kind: str, stored: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """Build an index of features, open it, and query it one feature at a time.

    Args:
        kind: of `kinds.KINDS`.
        stored, asked: (N, D) and (Q, D) float16.

    Returns:
        seconds of building (written to disk and all) and of adding one image, bytes on disk, growth of the resident
        memory by building (at its peak) and by opening and querying, milliseconds a query (of the clock and of the
        processor), recall against exact search.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "stored.npy", stored)
        np.save(Path(folder) / "asked.npy", asked)
        built = _in_process(_build, folder, kind)
        used = _in_process(_use, folder)
    return {"kind": kind, "images": len(stored), "queries": len(asked), **built, **used}


def exact_neighbours(stored: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(Q, K) rows of the nearest, by comparing all in float32."""
    vectors, queries = kinds.as_float(stored), kinds.as_float(asked)
    return np.concatenate([np.argsort(-(queries[i : i + 64] @ vectors.T), 1)[:, :K] for i in range(0, len(asked), 64)])


def _in_process(work: Callable[..., dict[str, Any]], *arguments: str) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def _build(folder: str, kind: str) -> dict[str, Any]:
    features = np.load(Path(folder) / "stored.npy").astype(np.float32)
    _warm_up(folder, features.shape[1])
    table = _table(features)
    before = _resident()
    start = time.perf_counter(), time.process_time()
    index = ImageIndex.build(Path(folder) / "index", table, kind=kind)
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = _peak()
    disk = sum(path.stat().st_size for path in index.folder.rglob("*") if path.is_file())
    # To a copy: one that was removed again would stay in the graph as a dead row, which searches have to avoid.
    copy = ImageIndex.open(shutil.copytree(index.folder, Path(folder) / "copy"))
    start_adding = time.perf_counter()
    copy.add(_table(features[:1] + features[1:2], len(features)))
    adding = time.perf_counter() - start_adding
    shutil.rmtree(copy.folder)
    return {"build_s": seconds, "build_cpu_s": cpu, "build_peak_mb": _mb(peak, before), "disk_mb": disk / 1e6,
            "add_one_s": adding}  # fmt: skip


def _use(folder: str) -> dict[str, Any]:
    stored, asked = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("stored", "asked"))
    queries = np.array(asked, np.float32)
    _warm_up(folder, queries.shape[1])
    before = _resident()
    start = time.perf_counter()
    index = ImageIndex.open(Path(folder) / "index")
    index.search(queries[:1], K)
    opened = time.perf_counter() - start
    times, cpu, found = [], [], []
    for query in queries:
        clock, processor = time.perf_counter(), time.process_time()
        [hits] = index.search(query[None], K)
        times.append(time.perf_counter() - clock)
        cpu.append(time.process_time() - processor)
        found.append([int(hit.name.removesuffix(".png")) for hit in hits])
    after = _resident()
    truth = exact_neighbours(np.array(stored), asked)
    hit = [len(set(a) & set(b)) / len(b) for a, b in zip(found, truth.tolist(), strict=True)]
    quantiles = {
        f"{name}_p{q}_ms": 1e3 * float(np.percentile(values, q))
        for name, values in (("query", times), ("query_cpu", cpu))
        for q in (50, 99)
    }
    return {"open_s": opened, "resident_mb": _mb(after, before), "recall": float(np.mean(hit)), **quantiles}


def _warm_up(folder: str, dim: int) -> None:
    """Load what every index loads, so that it is not counted."""
    features = np.random.default_rng(0).normal(size=(300, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=folder) as small:
        ImageIndex.build(Path(small) / "index", _table(features), kind="hnsw").search(features[:1], K)


def _table(features: np.ndarray, first: int = 0) -> FeatureTable:
    n = len(features)
    names = [f"{i}.png" for i in range(first, first + n)]
    return FeatureTable(names, features, [None] * n, [None] * n, {}, np.zeros(n, np.int64), np.zeros(n, np.int64))


def _resident() -> int | None:
    """Bytes of this process in memory; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _peak() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def _mb(after: int | None, before: int | None) -> float | None:
    return None if after is None or before is None else max(0, after - before) / 1e6
