"""Each loss against a case worked out by hand: gray pictures of 4 x 4 pixels in four patches of 2 x 2."""

import math
from urllib.error import URLError

import pytest
import torch

from maerestore.errors import MaerestoreError
from maerestore.train.losses import (
    OPTIONS,
    Criterion,
    binary_cross_entropy,
    composite,
    parse_terms,
)
from maerestore.train.restorer_losses import RestorerCriterion

PERCEPTUAL = {"backbone": "squeezenet1_1", "weights": "random", "layers": ["features.1", "features.4"]}
ALL = {"masked_mse": 1.0, "mse": 0.5, "bce": 0.25, "perceptual": {"weight": 2.0, **PERCEPTUAL}}


@pytest.fixture
def four_patches(tiny_model):
    """make(**settings): a gray model on 4 x 4 pixels in four 2 x 2 patches, whose pixels are those of the picture."""

    def make(**settings):
        return tiny_model(
            **{"image_size": 4, "patch_size": 2, "in_chans": 1, "mean": (0.0,), "std": (1.0,), **settings}
        )

    return make


def levels(*values):
    """(1, 4, 4): a prediction that is flat in each patch."""
    return torch.tensor(values)[None, :, None].expand(1, 4, 4)


def first_patch(*values):
    """(1, 1, 4, 4): a picture of zeros but for its first patch."""
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, :2, :2] = torch.tensor(values).reshape(2, 2)
    return images


ONLY_FIRST = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


def measure(model, terms, images, pred, mask, pixel_weight=None):
    total, parts = Criterion(terms, model.config)(model, images, pred, mask, pixel_weight)
    return float(total), {name: float(value) for name, value in parts.items()}


# --- squared errors ---------------------------------------------------------------------------------------------------


def test_the_default_is_the_squared_error_over_what_was_hidden(four_patches):
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    total, parts = measure(four_patches(), None, torch.zeros(1, 1, 4, 4), levels(1.0, 2.0, 3.0, 4.0), mask)
    assert total == pytest.approx((1 + 9) / 2)
    assert parts == {"masked_mse": pytest.approx(5.0)}


def test_all_pixels_and_twice_the_hidden_ones(four_patches):
    terms = {"mse": 1.0, "masked_mse": {"weight": 2.0}}
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    total, parts = measure(four_patches(), terms, torch.zeros(1, 1, 4, 4), levels(1.0, 2.0, 3.0, 4.0), mask)
    assert parts == {"mse": pytest.approx((1 + 4 + 9 + 16) / 4), "masked_mse": pytest.approx(5.0)}
    assert total == pytest.approx(7.5 + 2 * 5.0)


def test_squared_errors_of_normalised_pixels(four_patches):
    model = four_patches(norm_pix_loss=True)
    # The first patch has mean 3 and unbiased variance (9 + 1 + 1 + 9) / 3; the others are flat, so their targets are 0.
    images, pred = first_patch(0.0, 2.0, 4.0, 6.0), levels(0.0, 1.0, 0.0, 0.0)
    expected = (9 + 1 + 1 + 9) / (20 / 3 + 1e-6) / 4
    _, parts = measure(model, {"masked_mse": 1, "mse": 1}, images, pred, ONLY_FIRST)
    assert parts["masked_mse"] == pytest.approx(expected, rel=1e-5)
    assert parts["mse"] == pytest.approx((expected + 1) / 4, rel=1e-5)  # the second patch is off by 1


def test_a_pixel_weight_says_where_the_hidden_terms_look(four_patches):
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 0, 0], weight[0, 0, 3, 3] = 1.0, 0.5  # in the first and the last patch
    _, parts = measure(
        four_patches(), {"masked_mse": 1, "mse": 1}, torch.zeros(1, 1, 4, 4), levels(1.0, 2.0, 3.0, 4.0), ONLY_FIRST,
        weight,
    )  # fmt: skip
    assert parts["masked_mse"] == pytest.approx((1 * 1 + 0.5 * 16) / 1.5)
    assert parts["mse"] == pytest.approx(7.5)


# --- binary cross entropy ---------------------------------------------------------------------------------------------


def test_cross_entropy_by_hand(four_patches):
    pred = levels(0.0, 9.0, 9.0, 9.0).clone()
    pred[0, 0] = torch.tensor([0.5, 0.8, 0.25, 0.9])
    expected = (
        -math.log(0.5)  # target 0
        - math.log(0.8)  # target 1
        - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)  # target 0.25
        - 0.5 * math.log(0.9) - 0.5 * math.log(0.1)  # target 0.5
    ) / 4  # fmt: skip
    images = first_patch(0.0, 1.0, 0.25, 0.5)
    assert measure(four_patches(), {"bce": 1.0}, images, pred, ONLY_FIRST)[0] == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_reads_the_picture_not_the_normalised_values(four_patches):
    model = four_patches(mean=(0.5,), std=(0.25,))
    images = model.normalize(first_patch(1.0, 1.0, 1.0, 1.0))
    pred = levels(1.0, 0.0, 0.0, 0.0)  # 0.5 + 0.25
    assert measure(model, {"bce": 1.0}, images, pred, ONLY_FIRST)[0] == pytest.approx(-math.log(0.75), rel=1e-5)


def test_cross_entropy_goes_on_as_a_parabola_outside_the_range(four_patches):
    images = first_patch(1.0, 1.0, 1.0, 1.0)
    pred = levels(-0.5, 0.0, 0.0, 0.0)
    # -log 0.1 at the end of the range, then ((-0.5 - 1)^2 - (0.1 - 1)^2) / (2 * 0.1 * 0.9) = (2.25 - 0.81) / 0.18
    total, _ = measure(four_patches(), {"bce": {"eps": 0.1}}, images, pred, ONLY_FIRST)
    assert total == pytest.approx(-math.log(0.1) + 8.0, rel=1e-5)


@pytest.mark.parametrize("target", [0.0, 0.004, 0.3, 0.5, 1.0])
def test_cross_entropy_is_least_at_the_target_and_pulls_towards_it_from_everywhere(four_patches, target):
    model = four_patches()
    images = first_patch(*[target] * 4)

    def slope(value):
        pred = levels(value, 0.0, 0.0, 0.0).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(binary_cross_entropy(model, images, pred, ONLY_FIRST), pred)
        return float(gradient[0, 0].sum())

    assert slope(target) == pytest.approx(0.0, abs=1e-4)
    below = [slope(target - step) for step in (3.0, 1.0, 0.3, 0.02)]
    above = [slope(target + step) for step in (0.02, 0.3, 1.0, 3.0)]
    assert max(below) < 0 < min(above)
    assert math.isfinite(min(below))
    assert math.isfinite(max(above))
    # (p - t) / (p (1 - p)), the derivative by hand, at p = 0.2 inside the range
    assert slope(0.2) == pytest.approx((0.2 - target) / (0.2 * 0.8), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_cross_entropy_with_a_pixel_weight(four_patches, scale):
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 0, 0], weight[0, 0, 0, 2] = 2.0 * scale, 1.0 * scale
    pred = levels(0.5, 0.2, 0.0, 0.0)
    total, _ = measure(four_patches(), {"bce": 1}, first_patch(1.0, 0.0, 0.0, 0.0), pred, ONLY_FIRST, weight)
    assert total == pytest.approx((2 * -math.log(0.5) + 1 * -math.log(0.8)) / 3, rel=1e-5)


def test_cross_entropy_undoes_the_normalisation_of_patches(four_patches):
    model = four_patches(norm_pix_loss=True)
    # A prediction of 0 is the patch's mean, 0.3: the mean of t is 0.3 too.
    total, _ = measure(model, {"bce": 1}, first_patch(0.0, 0.2, 0.4, 0.6), levels(0.0, 0.0, 0.0, 0.0), ONLY_FIRST)
    assert total == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7), rel=1e-5)


def test_an_image_that_hides_nothing_counts_nothing(four_patches):
    images, pred = torch.zeros(2, 1, 4, 4), torch.full((2, 4, 4), 0.5)
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert measure(four_patches(), {"bce": 1}, images, pred, mask)[0] == pytest.approx(math.log(2) / 2, rel=1e-5)


# --- the composited picture -------------------------------------------------------------------------------------------


def test_a_composite_holds_predicted_pixels_where_they_were_hidden_only(four_patches):
    model = four_patches(mean=(0.5,), std=(0.25,))
    photo = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 3, 3] = 0.25  # a rim counts as predicted
    pred = levels(1.0, -1.0, 2.0, -2.0)
    pasted = composite(model, model.normalize(photo), pred, ONLY_FIRST, weight)
    expected = photo.clone()
    expected[0, 0, :2, :2] = 0.75
    expected[0, 0, 3, 3] = 0.0
    torch.testing.assert_close(pasted.picture, expected)
    torch.testing.assert_close(pasted.photo, photo)
    assert pasted.hidden[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_normalised_predictions_become_what_reconstruct_shows(tiny_model, noise_images):
    model, images = tiny_model(norm_pix_loss=True), noise_images(2)
    mask = torch.zeros(2, 16)
    mask[:, 3:9] = 1
    with torch.no_grad():
        pred = model(images, mask=mask).pred
        shown = model.reconstruct(images, mask=mask)
    torch.testing.assert_close(model.unpatchify(model.predicted_pixels(images, pred), (32, 32)), shown)


def test_the_perceptual_term_compares_the_composite_with_the_photo(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2)
    criterion = Criterion({"perceptual": PERCEPTUAL}, model.config)
    mask = torch.zeros(2, 16)
    mask[:, :8] = 1
    truth = model.patchify(images)
    # What is predicted where nothing was hidden does not matter.
    elsewhere = torch.where(mask[..., None] > 0, truth, 7.0)
    assert float(criterion(model, images, elsewhere, mask)[0]) == pytest.approx(0.0, abs=1e-9)
    gray = torch.where(mask[..., None] > 0, 0.0, truth)  # the mean colour in the hidden patches
    total = criterion(model, images, gray, mask)[0]
    picture, photo = (model.denormalize(model.unpatchify(p, (32, 32))) for p in (gray, truth))
    assert float(total) == pytest.approx(float(criterion.perceptual(picture, photo).mean()), rel=1e-5)
    assert float(total) > 0.01


# --- what holds for every term ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_of_two_halves_is_the_whole(tiny_model, noise_images, norm_pix_loss, weighted):
    model, images = tiny_model(norm_pix_loss=norm_pix_loss), noise_images(4)
    generator = torch.Generator().manual_seed(1)
    pred = torch.randn(4, 16, 192, generator=generator)
    mask = torch.zeros(4, 16).scatter_(1, torch.rand(4, 16, generator=generator).argsort(1)[:, :12], 1.0)
    weight = None
    if weighted:  # very unequal: the first image counts a hundred times as many pixels as the last
        weight = torch.rand(4, 1, 32, 32, generator=generator)
        weight *= torch.rand(4, 1, 32, 32, generator=generator) < torch.tensor([1.0, 0.5, 0.1, 0.01]).view(4, 1, 1, 1)
    criterion = Criterion(ALL, model.config)
    total, parts = criterion(model, images, pred, mask, weight)
    halves = [
        criterion(model, images[s], pred[s], mask[s], None if weight is None else weight[s])
        for s in (slice(0, 2), slice(2, 4))
    ]
    assert set(parts) == set(OPTIONS)
    for name, value in parts.items():
        torch.testing.assert_close(value, (halves[0][1][name] + halves[1][1][name]) / 2, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(total, (halves[0][0] + halves[1][0]) / 2, rtol=1e-6, atol=1e-7)


def test_the_total_is_the_weighted_sum_and_the_parts_are_not_weighted(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2)
    pred, mask = noise_images(2, 16, 192, 1, seed=3)[:, 0], torch.ones(2, 16)
    total, parts = Criterion(ALL, model.config)(model, images, pred, mask)
    expected = parts["masked_mse"] + 0.5 * parts["mse"] + 0.25 * parts["bce"] + 2 * parts["perceptual"]
    torch.testing.assert_close(total, expected)
    alone = Criterion({"bce": 3.0}, model.config)(model, images, pred, mask)
    torch.testing.assert_close(alone[1]["bce"], parts["bce"])
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_term_has_a_gradient_where_something_was_hidden(tiny_model, noise_images, name):
    model, images = tiny_model(), noise_images(2)
    pred = torch.zeros(2, 16, 192, requires_grad=True)
    mask = torch.zeros(2, 16)
    mask[:, 5] = 1
    options = PERCEPTUAL if name == "perceptual" else {}
    Criterion({name: options}, model.config)(model, images, pred, mask)[0].backward()
    assert bool(pred.grad[:, 5].ne(0).any(-1).all())
    assert bool(pred.grad[:, 6].any()) == (name == "mse")


@pytest.mark.parametrize("name", ["masked_mse", "mse", "bce"])
def test_a_term_made_small_makes_the_picture_right(tiny_model, name):
    model = tiny_model()
    images = model.normalize(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    pred = torch.zeros(1, 16, 192, requires_grad=True)
    criterion, mask = Criterion({name: 1.0}, model.config), torch.ones(1, 16)
    optimizer = torch.optim.Adam([pred], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(model, images, pred, mask)[0].backward()
        optimizer.step()
    assert float(((model.unpatchify(pred.detach(), (32, 32)) - images) ** 2).mean()) < 0.1


@pytest.mark.parametrize("autocast", [False, True])
def test_predictions_in_half_precision_are_compared_in_full(tiny_model, noise_images, autocast):
    model, images = tiny_model(), noise_images(2)
    pred = (0.3 * torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(0))).bfloat16()
    terms = {name: value for name, value in ALL.items() if name != "perceptual"}  # its network runs in bfloat16
    criterion, mask = Criterion(terms, model.config), torch.ones(2, 16)
    expected = criterion(model, images, pred.float(), mask)[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = criterion(model, images, pred, mask)[0]
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)


def test_a_term_of_weight_zero_is_measured_and_not_trained_on(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2)
    mask = torch.zeros(2, 16)
    mask[:, 0] = 1
    pred = torch.ones(2, 16, 192, requires_grad=True)
    total, parts = Criterion({"masked_mse": 1.0, "mse": 0}, model.config)(model, images, pred, mask)
    total.backward()
    assert float(parts["mse"]) > 0
    assert float(total.detach()) == pytest.approx(float(parts["masked_mse"]))
    assert not pred.grad[:, 1:].any()


def test_only_the_perceptual_network_has_weights_and_none_is_trained(tiny_model):
    assert list(Criterion({"mse": 1, "bce": 1}, tiny_model().config).parameters()) == []
    criterion = Criterion({"perceptual": PERCEPTUAL}, tiny_model().config)
    assert list(criterion.parameters())
    assert not any(p.requires_grad for p in criterion.parameters())


# --- bad terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"ssim": 1.0}, r"unknown loss 'ssim': choose from masked_mse, mse, bce, perceptual"),
        ({"mse": -1}, r"weight of the loss mse .* got -1"),
        ({"mse": "much"}, r"weight of the loss mse .* got 'much'"),
        ({"mse": True}, r"weight of the loss mse .* got True"),
        ({"mse": None}, r"positive weight, got \{'mse': None\}"),
        ({"perceptual": {"weight": 0, "weights": "nowhere"}}, r"positive weight"),
        ({"mse": float("nan")}, r"weight of the loss mse .* got nan"),
        ({"mse": {"weight": float("inf")}}, r"weight of the loss mse .* got inf"),
        ({"mse": {"weigth": 2.0}}, r"the loss mse has no option 'weigth': it takes weight"),
        ({"bce": {"eps": 0.5}}, r"eps of the loss bce .* got 0.5"),
        ({"bce": {"eps": 0}}, r"eps of the loss bce .* got 0"),
        ({"bce": {"eps": "tiny"}}, r"eps of the loss bce .* got 'tiny'"),
        ({"perceptual": {"weight": 1, "network": "vgg16"}}, r"perceptual has no option 'network': .*backbone"),
        ({}, r"positive weight, got \{\}"),
        ({"mse": 0.0}, r"positive weight, got \{'mse': 0.0\}"),
        (["mse"], r"losses must map names to weights, got \['mse'\]"),
    ],
)
def test_terms_that_do_not_fit_are_named(tiny_model, terms, message):
    with pytest.raises(MaerestoreError, match=message) as caught:
        parse_terms(terms)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        Criterion(terms, tiny_model().config)


def test_a_perceptual_term_without_weights_says_so(tiny_model):
    with pytest.raises(MaerestoreError, match="weights of the backbone 'vgg16' are missing"):
        Criterion({"perceptual": 1.0}, tiny_model().config)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


@pytest.mark.parametrize("kind", ["pretrain", "restorer"])
def test_without_a_network_the_way_out_is_named(tiny_model, no_network, kind):
    terms = {"mse": 1.0, "perceptual": {"weights": "torchvision", "backbone": "squeezenet1_1"}}
    with pytest.raises(MaerestoreError, match="no network") as caught:
        Criterion(terms, tiny_model().config) if kind == "pretrain" else RestorerCriterion(terms)
    for words in ("--set loss.perceptual.weights=FILE", "--set loss.perceptual.weight=0"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("perceptual", [None, 0, {"weight": 0.0, "weights": "torchvision"}, {"weight": "0e0"}])
@pytest.mark.parametrize("kind", ["pretrain", "restorer"])
def test_a_perceptual_term_that_is_switched_off_loads_nothing(tiny_model, no_network, kind, perceptual):
    terms = {"mse": 1.0, "perceptual": perceptual}
    criterion = Criterion(terms, tiny_model().config) if kind == "pretrain" else RestorerCriterion(terms)
    assert criterion.perceptual is None
    assert set(criterion.terms) == {"mse"}


def test_an_encoder_has_no_reconstruction_loss(tiny_model):
    with pytest.raises(MaerestoreError, match="without a decoder"):
        Criterion(None, tiny_model(decoder_depth=0).config)


def test_a_weight_may_be_written_as_yaml_reads_it():
    assert parse_terms({"mse": "3e-3"})["mse"].weight == 3e-3
