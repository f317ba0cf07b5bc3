"""The restorer's losses by hand, and its adversary's on a small discriminator."""

import math

import pytest
import torch
from torch import nn

from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restored, Restorer
from maerestore.train.adversary import Adversary, build_adversary
from maerestore.train.discriminator import PatchDiscriminator
from maerestore.train.losses import Composite, LossError
from maerestore.train.restorer_losses import RestorerCriterion, paste


def picture(*values):
    """(1, 3, 1, n), each value in all three channels."""
    return torch.tensor(values).expand(1, 3, 1, -1).contiguous()


def weights(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


PHOTO = picture(0.0, 1.0, 2.0)
RESTORED = Restored(picture(9.0, 9.0, 9.0), mean=picture(1.0, 3.0, 2.5), sharp=picture(0.5, 0.0, 6.0))
PASTED = Composite(PHOTO, PHOTO, weights(0.0, 1.0, 0.0))


def test_mse_is_of_the_mean_picture_and_l1_of_the_sharp_one_with_weights():
    total, parts = RestorerCriterion({"mse": 2.0, "l1": 0.5})(PHOTO, RESTORED, weights(0.25, 1.0, 0.0), PASTED)
    # squared errors 1 and 4, absolute ones 0.5 and 1; weights .25 and 1 in each channel
    assert float(parts["mse"]) == pytest.approx((0.25 * 1 + 4) / 1.25)
    assert float(parts["l1"]) == pytest.approx((0.25 * 0.5 + 1) / 1.25)
    assert float(total) == pytest.approx(2 * 3.4 + 0.5 * 0.9)


def test_weights_that_are_small_give_the_mean_all_the_same():
    _, parts = RestorerCriterion({"mse": 1.0, "l1": 1.0})(PHOTO, RESTORED, weights(0.025, 0.1, 0.0), PASTED)
    assert float(parts["mse"]) == pytest.approx(3.4)
    assert float(parts["l1"]) == pytest.approx(0.9)


def test_only_the_picture_that_a_term_looks_at_gets_a_gradient():
    for term, (mean, sharp) in {"mse": (True, False), "l1": (False, True)}.items():
        restored = Restored(*(x.clone().requires_grad_() for x in RESTORED))
        RestorerCriterion({term: 1.0})(PHOTO, restored, weights(1.0, 1.0, 1.0), PASTED)[0].backward()
        assert [x.grad is not None for x in restored] == [False, mean, sharp]


class Channels(nn.Module):
    """A network whose one layer is the picture itself."""

    def forward(self, x):
        return {"picture": x}


def test_the_perceptual_term_sees_the_pasted_picture_only():
    criterion = RestorerCriterion({"perceptual": {"backbone": "squeezenet1_1", "weights": "random", "weight": 3.0}})
    criterion.perceptual.extractor = Channels()
    criterion.perceptual.mean.zero_()
    criterion.perceptual.std.fill_(1.0)
    shown, true = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    shown[0, :, 0, 0] = torch.tensor([3.0, 4.0, 0.0])  # unit length: (0.6, 0.8, 0)
    true[0, :, 0, 0] = torch.tensor([7.0, 0.0, 0.0])  # unit length: (1, 0, 0); squared distance 0.16 + 0.64
    pasted = Composite(shown.requires_grad_(), true, weights(1.0, 0.0))
    restored = Restored(*(x.clone().requires_grad_() for x in RESTORED))
    total, parts = criterion(PHOTO, restored, weights(1.0, 1.0, 1.0), pasted)
    assert float(parts["perceptual"]) == pytest.approx(0.8 / 2, rel=1e-5)
    assert float(total) == pytest.approx(3 * 0.4, rel=1e-5)
    total.backward()
    assert bool(shown.grad.any())
    assert all(x.grad is None for x in restored)


def test_a_term_of_weight_zero_is_measured_only():
    total, parts = RestorerCriterion({"mse": 1.0, "l1": 0.0})(PHOTO, RESTORED, weights(1.0, 1.0, 1.0), PASTED)
    assert float(parts["l1"]) > 0
    assert float(total) == float(parts["mse"])


@pytest.mark.parametrize("terms", [{}, {"masked_mse": 1}, {"mse": -1}, {"mse": 0}, {"l1": {"layers": 1}}])
def test_terms_that_do_not_fit_are_refused(terms):
    with pytest.raises(LossError) as caught:
        RestorerCriterion(terms)
    assert "\n" not in str(caught.value)


def test_what_is_pasted_is_the_sharp_picture_in_the_hole_as_a_picture(tiny_model):
    model = tiny_model(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 0.125))
    refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1,)))
    sharp = picture(0.5, 0.0, 6.0)
    pasted = paste(Restorer(model, refiner), PHOTO, sharp, weights(0.0, 0.0, 1.0))
    assert pasted.photo[0, :, 0].tolist() == [[0.5, 1.0, 1.5], [0.25, 0.5, 0.75], [0.0, 0.125, 0.25]]
    assert pasted.picture[0, :, 0].tolist() == [[0.5, 1.0, 3.5], [0.25, 0.5, 1.75], [0.0, 0.125, 0.75]]
    assert pasted.hidden.flatten().tolist() == [0, 0, 1]


# --- the adversary -------------------------------------------------------------------------------------------------


class Brightness(PatchDiscriminator):
    """Three times the mean of each 2 x 2 cell less one, through one activation."""

    def __init__(self):
        super().__init__(1, 1, 1, "none")
        conv = nn.Conv2d(1, 1, 2, stride=2)
        nn.init.constant_(conv.weight, 0.75)
        nn.init.constant_(conv.bias, -1.0)
        self.steps = nn.Sequential(conv, nn.LeakyReLU(0.2))


def cells(*values):
    """(1, 1, 4, 4) of values in [0, 1], from those that its four 2 x 2 cells have on the discriminator's scale."""
    scaled = torch.tensor(values).reshape(1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (scaled + 1) / 2  # discriminators see 2 x - 1


def softplus(x):
    return math.log1p(math.exp(x))


def test_adversarial_and_feature_matching_terms_by_hand():
    adversary = Adversary(Brightness(), r1=0.0, weight=0.1, feature_matching=7.0)
    assert adversary.weights == {"adversarial": 0.1, "feature_matching": 7.0}
    real, fake = cells(1.0, 0.0, 0.5, 1.0), cells(1.0, 1.0, 0.0, 1.0)
    hidden = torch.zeros(1, 1, 4, 4)
    hidden[0, 0, 0, 2] = hidden[0, 0, 3, 0] = 1  # one pixel in the second and in the third cell
    fake.requires_grad_()
    terms = adversary.generator_terms(real, fake, hidden)
    # Fake cells: 3 - 1 = 2 and -1 -> -0.2; in the real ones these are -0.2 and 0.5.
    assert float(terms["adversarial"]) == pytest.approx((softplus(-2.0) + softplus(0.2)) / 2, rel=1e-5)
    assert float(terms["feature_matching"]) == pytest.approx((2.2 + 0.7) / 4, rel=1e-5)
    terms["adversarial"].backward(retain_graph=True)
    assert (fake.grad != 0).flatten().tolist() == [False, False, True, True] * 2 + [True, True, False, False] * 2
    assert all(p.grad is None for p in adversary.discriminator.parameters())


def test_the_discriminator_calls_only_hidden_cells_fake():
    adversary = Adversary(Brightness(), r1=0.0, feature_matching=1.0)
    real = cells(1.0, 0.0, 0.5, 1.0)
    hidden = torch.zeros(1, 1, 4, 4)
    hidden[0, 0, 1, 1] = 1
    parts = adversary.discriminator_loss(real, real, hidden)
    verdicts = [2.0, -0.2, 0.5, 2.0]
    as_real = [softplus(-v) for v in verdicts]
    assert float(parts["real"]) == pytest.approx(sum(as_real) / 4, rel=1e-5)
    assert float(parts["fake"]) == pytest.approx((softplus(2.0) + sum(as_real[1:])) / 4, rel=1e-5)


def test_layers_are_those_of_the_pass_itself():
    discriminator = PatchDiscriminator(width=4, layers=2).eval()
    pictures = torch.rand(2, 3, 16, 16)
    verdict, found = discriminator.layers(pictures)
    assert torch.equal(verdict, discriminator(pictures))
    assert [tuple(x.shape) for x in found] == [(2, 4, 8, 8), (2, 8, 4, 4), (2, 16, 4, 4)]
    x = nn.functional.leaky_relu(discriminator.steps[0](2 * pictures - 1), 0.2)
    torch.testing.assert_close(found[0], x)


def test_feature_matching_is_nothing_between_equals_and_left_out_without_a_weight():
    real = torch.rand(1, 3, 16, 16)
    options = {"width": 4, "layers": 1, "feature_matching": 2.0}
    terms = build_adversary(options, 3, torch.device("cpu")).generator_terms(real, real, real[:, :1])
    assert float(terms["feature_matching"]) == 0
    plain = build_adversary({**options, "feature_matching": 0}, 3, torch.device("cpu"))
    assert set(plain.generator_terms(real, real, real[:, :1])) == {"adversarial"}


def test_feature_matching_of_a_network_that_hides_its_layers_is_refused():
    with pytest.raises(ValueError, match="feature_matching"):
        Adversary(nn.Conv2d(3, 1, 1), feature_matching=1.0)
