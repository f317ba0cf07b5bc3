"""What fine-tuning sees of an image, and which weights decay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maerestore.features.classify.finetune import FineTuneSettings, Network, _batches, _optimizer, _view, encoder_of
from maerestore.features.classify.linear import LinearHead, Standardize

RAMPS = np.stack(np.broadcast_arrays(np.arange(200)[:, None], np.arange(200), 0), -1).astype(np.uint8)
"""(200, 200, 3): a pixel's first value is its row, its second its column."""


def seen(view: torch.Tensor) -> tuple[float, float]:
    """Rows and columns that a view spans, as shares of the image."""
    ends = view[:2].amax((1, 2)) - view[:2].amin((1, 2))
    return tuple((255 * ends / 200).tolist())


@pytest.mark.parametrize("min_area", [0.25, 0.81])
def test_the_least_crop_covers_the_least_area(min_area: float) -> None:
    draw = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.9])
    assert seen(_view(lambda _: RAMPS, 0, draw, 100, min_area)) == pytest.approx((min_area**0.5,) * 2, abs=0.02)
    draw[0] = 1
    assert seen(_view(lambda _: RAMPS, 0, draw, 100, min_area)) == pytest.approx((1, 1), abs=0.02)


def test_a_view_is_mirrored_by_its_last_draw() -> None:
    plain, mirrored = (_view(lambda _: RAMPS, 0, torch.tensor([1, 0.5, 0, 0, u]), 64, 0.3) for u in (0.5, 0.49))
    assert torch.equal(mirrored, plain.flip(2))
    assert (plain[1].diff(dim=1) > 0).all()


def test_half_of_an_epochs_views_are_mirrored_and_crops_heed_the_settings() -> None:
    from concurrent.futures import ThreadPoolExecutor

    settings = FineTuneSettings(batch_size=100, min_area=0.64)
    with ThreadPoolExecutor(1) as threads:
        [(views, numbers)] = _batches(lambda _: RAMPS, 100, 16, settings, torch.Generator().manual_seed(0), threads)
    assert sorted(numbers.tolist()) == list(range(100))
    mirrored = views[:, 1, :, 0] > views[:, 1, :, -1]
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.15)
    areas = np.array([rows * columns for rows, columns in map(seen, views)])
    assert areas.min() > 0.55  # the outermost of 16 pixels is the mean of some
    assert areas.min() < 0.7


def test_kernels_and_matrices_decay_alone(tiny_model) -> None:
    head = LinearHead(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    network = Network(encoder_of(tiny_model()), head, Standardize(torch.zeros(32), torch.ones(32)))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in _optimizer(network, FineTuneSettings(weight_decay=0.2)).param_groups
        for parameter in group["params"]
    }
    assert set(decays.values()) == {0.0, 0.2}
    for name, decay in decays.items():
        kernel = name.endswith("weight") and "norm" not in name
        assert decay == (0.2 if kernel else 0.0), name
    assert decays["encoder.cls_token"] == decays["classifier.bias"] == 0.0
    assert decays["classifier.weight"] == decays["encoder.blocks.0.attn.qkv.weight"] == 0.2
