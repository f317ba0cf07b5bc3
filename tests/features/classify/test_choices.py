"""What seeds and settings of a fit decide."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maerestore.features.classify.fit import FitSettings, fit_tables
from maerestore.features.classify.knn import fit_knn
from maerestore.features.classify.logistic import fit_logistic


@pytest.mark.parametrize("validated", [True, False])
def test_neighbours_vote_at_the_temperature_of_the_fit(clouds, validated):
    x, y = clouds(20, spread=2.0)
    query, labels = clouds(10, spread=2.0, seed=1)
    hot, cold = (
        fit_knn(x, y, 3, *((query, labels, (5, 9)) if validated else (None, None, (5,))), temperature=t)
        for t in (0.5, 0.05)
    )
    assert [(head.temperature, chosen["temperature"]) for head, chosen in (hot, cold)] == [(0.5, 0.5), (0.05, 0.05)]
    ours = hot[0].probabilities(query)
    assert torch.equal(ours, replace(cold[0], temperature=0.5, k=hot[0].k).probabilities(query))
    assert (ours - cold[0].probabilities(query)).abs().max() > 0.05


def test_the_settings_of_a_fit_hold_the_temperature(clouds, table):
    x, y = clouds(20)
    settings = FitSettings("knn", ks=(5,), temperature=0.3)
    fitted = fit_tables(table(x, [f"class {i}" for i in y.tolist()]), None, settings)
    assert (fitted.head.temperature, fitted.config.chosen["temperature"]) == (0.3, 0.3)


def test_of_equally_good_numbers_of_neighbours_the_smallest_is_taken(clouds):
    x, y = clouds(20, spread=0.1)
    head, chosen = fit_knn(x, y, 3, *clouds(5, spread=0.1, seed=1), ks=(9, 3, 15))
    assert set(chosen["tried"].values()) == {1.0}
    assert head.k == chosen["k"] == 3


def test_the_seed_decides_the_folds_of_logistic_regression(clouds):
    x, y = clouds(12, spread=4.0)
    three, again, four = (fit_logistic(x, y, 3, seed=seed)[1] for seed in (3, 3, 4))
    assert three == again
    assert three["tried"] != four["tried"]


@pytest.mark.parametrize("method", ["linear", "logistic"])
def test_the_seed_of_the_settings_reaches_the_fit(clouds, table, method):
    (x, y), (val_x, val_y) = clouds(12, spread=4.0), clouds(6, spread=4.0, seed=1)
    train, held = (table(a, [f"class {i}" for i in b.tolist()], p) for a, b, p in ((x, y, "t"), (val_x, val_y, "v")))
    three, again, four = (fit_tables(train, held, FitSettings(method, seed=seed)) for seed in (3, 3, 4))
    drawn = [(fit.config.chosen, fit.head.weight.tolist()) for fit in (three, again, four)]
    assert drawn[0] == drawn[1] != drawn[2]
