from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from maerestore.features.index import kinds
from maerestore.image import InputError

from .helpers import clustered, cosines


@pytest.mark.parametrize(
    ("n", "wanted", "kind"),
    [
        (0, "auto", "flat"),
        (kinds.FLAT_UNTIL - 1, "auto", "flat"),
        (kinds.FLAT_UNTIL, "auto", "hnsw"),
        (kinds.HNSW_UNTIL, "auto", "ivfpq"),
        (10, "hnsw", "hnsw"),
        (10**7, "flat", "flat"),
        (255, "ivfpq", "flat"),
        (256, "ivfpq", "ivfpq"),
    ],
)
def test_the_kind_follows_the_size_and_the_wish(n: int, wanted: str, kind: str) -> None:
    assert kinds.choose_kind(n, wanted) == kind


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of auto, flat, hnsw, ivfpq, got 'lsh'"):
        kinds.choose_kind(1, "lsh")


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.99), ("ivfpq", 0.97)])
@pytest.mark.parametrize("dead", [0.0, 0.5])
def test_each_kind_finds_the_nearest_that_live(kind: str, least: float, dead: float) -> None:
    features = clustered(3000, 24)
    vectors = kinds.unit(features)
    alive = np.random.default_rng(1).random(3000) >= dead
    queries = kinds.as_float(clustered(50, 24, seed=2))
    scores, rows = kinds.search(kinds.build(kind, vectors), kind, vectors, queries, 10, alive if dead else None)
    exact = np.where(alive, cosines(queries, features), -2)
    truth = np.argsort(-exact, axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)])
    assert recall >= least - (kind == "flat") * 0.01  # float16 may swap neighbours that are equally near
    assert alive[rows].all()
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    assert np.abs(scores - np.take_along_axis(exact, rows, 1)).max() < 2e-3


def test_many_are_clustered_by_a_part_of_them_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_FULL_TRAINING", 1 << 10)
    monkeypatch.setattr(kinds, "_TRAINING_ROWS", 8)
    features = clustered(3000, 24)
    features = features[np.argsort(features[:, 0])]  # the first rows alone would stand for one side of all of them
    vectors, passed = kinds.unit(features), []
    as_float = kinds.as_float
    monkeypatch.setattr(kinds, "as_float", lambda rows: passed.append(rows) or as_float(rows))
    index = kinds.build("ivfpq", vectors)
    assert [len(rows) for rows in passed] == [8 * index.nlist, 3000]
    assert 1 << 10 < len(passed[0]) < 3000
    assert (passed[0][:, 0] > 0).mean() == pytest.approx((vectors[:, 0] > 0).mean(), abs=0.05)
    assert len(np.unique(passed[0], axis=0)) == len(passed[0])
    queries = as_float(clustered(50, 24, seed=2))
    _, rows = kinds.search(index, "ivfpq", vectors, queries, 10)
    truth = np.argsort(-cosines(queries, features), axis=1)[:, :10]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]) >= 0.95


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_rows_that_are_added_are_found(kind: str) -> None:
    vectors = kinds.unit(clustered(600))
    index = kinds.build(kind, vectors[:500])
    kinds.add(index, vectors[500:])
    _, rows = kinds.search(index, kind, vectors, kinds.as_float(vectors[500:]), 1)
    assert (rows[:, 0] == np.arange(500, 600)).mean() >= 0.97


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_missing_neighbours_are_marked(kind: str) -> None:
    vectors = kinds.unit(clustered(300))
    alive = np.zeros(300, bool)
    alive[7] = True
    _, rows = kinds.search(kinds.build(kind, vectors), kind, vectors, kinds.as_float(vectors[:1]), 3, alive)
    assert rows[0].tolist() == [7, -1, -1]


@pytest.mark.parametrize("dim", [1, 2, 7, 13, 30])
def test_any_dimension_is_compressed(dim: int) -> None:
    vectors = kinds.unit(clustered(400, dim))
    _, rows = kinds.search(kinds.build("ivfpq", vectors), "ivfpq", vectors, kinds.as_float(vectors[:5]), 3)
    assert (rows >= 0).all()


def test_clusters_are_outgrown() -> None:
    index = kinds.build("ivfpq", kinds.unit(clustered(640)))
    assert index.nlist == 10
    assert not kinds.outgrown(index, "ivfpq", 1200)
    assert kinds.outgrown(index, "ivfpq", 1300)
    assert not kinds.outgrown(index, "hnsw", 10**6)


def test_vectors_have_length_one_whatever_their_scale() -> None:
    features = clustered(5) * np.float32([[1e-30], [1e-3], [1], [1e3], [1e30]])
    assert np.allclose(np.linalg.norm(kinds.as_float(kinds.unit(features)), axis=1), 1, atol=1e-6)
    assert np.allclose(kinds.unit(features).astype(np.float32), kinds.as_float(clustered(5)), atol=1e-3)
    with pytest.raises(ValueError, match=r"\(N, D\), got shape \(3,\)"):
        kinds.unit(np.zeros(3, np.float32))


@pytest.mark.parametrize(("package", "message"), [("faiss", "needs faiss"), ("pyarrow", "needs pyarrow")])
def test_a_missing_package_is_told(package: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from maerestore.features.index.entries import load_pyarrow

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{message}: pip install 'maerestore\[index\]'"):
        {"faiss": kinds.load_faiss, "pyarrow": load_pyarrow}[package]()


def test_an_index_of_features_needs_no_torch() -> None:
    code = (
        "import sys, tempfile, numpy as np; from features.index.helpers import *; "
        "from maerestore.features.index.image_index import ImageIndex; "
        "index = ImageIndex.build(tempfile.mkdtemp(), toy_table(clustered(9))); index.search(clustered(1)); "
        "index.duplicates(); assert 'torch' not in sys.modules"
    )
    root = str(__file__).rsplit("features", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
