from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maerestore import MaerestoreError
from maerestore.features.classify.linear import RATES, LinearHead, Standardize, fit_linear
from maerestore.features.classify.logistic import fit_logistic


def accuracy(head, x, y):
    return float((head.probabilities(x).argmax(1) == y).double().mean())


def alone(x, y, classes, rate, steps, seed):
    """One head at its own learning rate, with torch's SGD and no grid: what the grid has to equal."""
    generator = torch.Generator().manual_seed(seed)
    standardize = Standardize.of(x)
    z, batch = standardize(x), min(128, len(x))
    layer = torch.nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(classes, x.shape[1]).normal_(0, 0.01, generator=generator))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * batch / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(x), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        F.cross_entropy(layer(z[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return standardize.fold(layer.weight.detach(), layer.bias.detach())


def test_heads_trained_at_once_are_what_each_is_alone(clouds):
    x, y = clouds(60)
    rates = (1e-3, 0.1)
    for rate in rates:
        # Only this candidate can be the best: the other's labels are what it never says.
        expected = alone(x, y, 3, rate, 40, seed=3)
        val_y = expected.probabilities(x).argmax(1)
        head, chosen = fit_linear(x, y, 3, x, val_y, rates, steps=40, seed=3)
        assert chosen["lr"] == rate
        assert torch.allclose(head.weight, expected.weight, atol=1e-4)
        assert torch.allclose(head.bias, expected.bias, atol=1e-4)


def test_standardising_is_folded_into_the_head():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100, 0.01, 0]) + 5
    standardize = Standardize.of(x)
    z = standardize(x)
    assert torch.allclose(z.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]), atol=1e-3)
    weight, bias = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.2, 0.3])
    folded = standardize.fold(weight, bias)
    assert torch.allclose(folded.probabilities(x), LinearHead(weight, bias).probabilities(z), atol=1e-3)


def test_the_best_rate_of_the_validation_is_taken_and_generalises(clouds):
    x, y = clouds(60, spread=1.5)
    val_x, val_y = clouds(40, spread=1.5, seed=1)
    test_x, test_y = clouds(40, spread=1.5, seed=2)
    head, chosen = fit_linear(x, y, 3, val_x, val_y, steps=100)
    assert len(chosen["tried"]) == len(RATES)
    assert chosen["tried"][f"{chosen['lr']:g}"] == max(chosen["tried"].values())
    assert accuracy(head, val_x, val_y) == pytest.approx(max(chosen["tried"].values()), abs=1e-5)
    assert accuracy(head, test_x, test_y) > 0.85


def test_the_seed_decides(clouds):
    x, y = clouds(60, spread=2.0)
    first, again, other = (fit_linear(x, y, 3, rates=[0.1], steps=30, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_what_does_not_fit_a_linear_probe_is_named(clouds):
    x, y = clouds(5)
    with pytest.raises(MaerestoreError, match="validation set"):
        fit_linear(x, y, 3)
    with pytest.raises(MaerestoreError, match="rates must be positive"):
        fit_linear(x, y, 3, rates=[0.1, -1])


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_scikit_learns(clouds, classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = clouds(30, classes=classes, spread=1.5)
    test_x, _ = clouds(10, classes=classes, spread=1.5, seed=1)
    head, chosen = fit_logistic(x, y, classes, strengths=[0.1])
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x.numpy(), y.numpy())
    assert chosen == {"C": 0.1}
    assert np.allclose(head.probabilities(test_x).numpy(), theirs.predict_proba(test_x.numpy()), atol=2e-3)


def test_the_strength_is_chosen_inside_the_training_part(clouds):
    x, y = clouds(30, spread=3.0)
    head, chosen = fit_logistic(x, y, 3, strengths=(1e-4, 1e-2, 1))
    assert chosen["by"] == "5-fold cross-validation"
    assert chosen["tried"][f"{chosen['C']:g}"] == max(chosen["tried"].values())
    # What the validation holds must not move it.
    other, same = fit_logistic(x, y, 3, x, (y + 1) % 3, strengths=(1e-4, 1e-2, 1))
    assert same == chosen
    assert torch.equal(head.weight, other.weight)


def test_the_strength_is_chosen_by_validation_where_a_class_has_one_image(clouds):
    x, y = clouds(10, spread=1.0)
    x, y = x[:21], y[:21]  # one image of the last class
    val = clouds(10, seed=1)
    head, chosen = fit_logistic(x, y, 3, *val, strengths=(1e-5, 1))
    assert (chosen["by"], chosen["C"]) == ("validation", 1)
    assert accuracy(head, *val) == pytest.approx(chosen["tried"]["1"], abs=1e-5)
    with pytest.raises(MaerestoreError, match="validation set"):
        fit_logistic(x, y, 3, strengths=(1e-5, 1))
    with pytest.raises(MaerestoreError, match="class 3 has no training image"):
        fit_logistic(x, y, 4)
