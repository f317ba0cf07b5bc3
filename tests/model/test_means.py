"""Weighted means by hand."""

import pytest
import torch

from maerestore.model.means import weighted_mean


def picture(*values):
    """(1, 3, 1, n), each value in all three channels."""
    return torch.tensor(values).expand(1, 3, 1, -1).contiguous()


def weights(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def test_a_mean_over_images_of_each_ones_own_mean():
    error = torch.cat([picture(1.0, 2.0, 3.0), picture(10.0, 0.0, 5.0), picture(7.0, 7.0, 7.0)])
    weight = torch.cat([weights(1.0, 1.0, 1.0), weights(0.0, 0.0, 2.0), weights(0.0, 0.0, 0.0)])
    assert float(weighted_mean(error, weight)) == pytest.approx((2 + 5 + 0) / 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6])
def test_only_the_weights_among_each_other_count(scale):
    error, weight = picture(1.0, 2.0, 6.0), scale * weights(3.0, 0.0, 1.0)
    assert float(weighted_mean(error, weight)) == pytest.approx(9 / 4)


def test_an_image_without_weight_gets_a_slope_of_zero_whatever_the_loss_is_multiplied_with():
    error = torch.cat([picture(1.0, 2.0), picture(3.0, 4.0)]).requires_grad_()
    (1e20 * weighted_mean(error, torch.cat([weights(0.0, 0.0), weights(1.0, 1.0)]))).backward()
    assert not error.grad[0].any()
    assert bool(error.grad.isfinite().all())


def test_errors_in_half_precision_are_summed_in_full():
    error = torch.full((1, 3, 64, 64), 100.0, dtype=torch.float16)
    assert float(weighted_mean(error, torch.ones(1, 1, 64, 64))) == 100
