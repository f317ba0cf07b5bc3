from __future__ import annotations

import numpy as np
import pytest
import torch

from maerestore import MaerestoreError
from maerestore.features.classify import knn
from maerestore.features.classify.knn import KNNHead, fit_knn


def by_hand(train, labels, query, classes, k, temperature):
    """The protocol, one query at a time, in NumPy's double precision."""
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    rows = []
    for q in query:
        similarity = train @ (q / np.linalg.norm(q))
        nearest = np.argsort(-similarity)[:k]
        votes = np.zeros(classes)
        for i in nearest:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        rows.append(votes / votes.sum())
    return np.array(rows)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_votes_are_those_of_the_protocol(clouds, k):
    x, y = clouds(20)
    query, _ = clouds(5, seed=1)
    head, chosen = fit_knn(x, y, 3, ks=[k])
    expected = by_hand(x.double().numpy(), y.numpy(), query.double().numpy(), 3, k, 0.07)
    assert chosen == {"k": k, "temperature": 0.07}
    assert np.allclose(head.probabilities(query).numpy(), expected, atol=5e-3)  # features are kept as halves


def test_the_best_k_of_the_validation_is_taken(clouds):
    x, y = clouds(40, spread=2.5)
    val_x, val_y = clouds(30, spread=2.5, seed=1)
    head, chosen = fit_knn(x, y, 3, val_x, val_y, ks=[1, 5, 30])
    right = {
        k: float((fit_knn(x, y, 3, ks=[k])[0].probabilities(val_x).argmax(1) == val_y).double().mean())
        for k in (1, 5, 30)
    }
    assert len(set(right.values())) > 1
    assert {int(k): value for k, value in chosen["tried"].items()} == pytest.approx(right, abs=1e-5)
    assert right[head.k] == max(right.values())
    assert head.k == chosen["k"] == min(k for k in right if right[k] == max(right.values()))


def test_candidates_over_the_training_set_count_as_its_size(clouds):
    x, y = clouds(4)
    head, chosen = fit_knn(x, y, 3, *clouds(2, seed=1))
    assert set(chosen["tried"]) == {"10", "12"}
    assert head.features.dtype == torch.float16


def test_many_queries_give_what_each_gives_alone(clouds, monkeypatch):
    x, y = clouds(20)
    query, _ = clouds(9, seed=2)
    head, _ = fit_knn(x, y, 3, ks=[5])
    alone = torch.cat([head.probabilities(q[None]) for q in query])
    monkeypatch.setattr(knn, "_CHUNK", 4 * len(x))  # parts of four queries
    assert torch.allclose(head.probabilities(query), alone, atol=1e-6)
    assert head.probabilities(query[:0]).shape == (0, 3)


def test_the_order_of_the_training_images_does_not_matter(clouds):
    x, y = clouds(10)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    query, _ = clouds(5, seed=2)
    first, second = (fit_knn(a, b, 3, ks=[5])[0].probabilities(query) for a, b in ((x, y), (x[order], y[order])))
    assert torch.allclose(first, second, atol=1e-6)


def test_what_does_not_fit_is_named(clouds):
    x, y = clouds(5)
    with pytest.raises(MaerestoreError, match="validation set"):
        fit_knn(x, y, 3)
    with pytest.raises(MaerestoreError, match=r"ks must .* got \[0\]"):
        fit_knn(x, y, 3, ks=[0])
    with pytest.raises(MaerestoreError, match="k must lie in 1 to the 15"):
        KNNHead(x.half(), y, 3, k=16)
    with pytest.raises(MaerestoreError, match="temperature"):
        KNNHead(x.half(), y, 3, k=1, temperature=0)
