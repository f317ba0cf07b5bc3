"""The perceptual distance, with random weights and files of them: nothing is downloaded."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maerestore.hub.errors import ModelError
from maerestore.train.perceptual import LAYERS, PerceptualLoss

NAME = "squeezenet1_1"


def squeezenet(seed=7):
    """Weights that are not those of "random"."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(models.get_model(NAME, weights=None).state_dict())


def photos(n=2, channels=3, side=32, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Channels(nn.Module):
    """A network whose one layer is the picture itself."""

    def forward(self, x):
        return {"picture": x}


def test_the_distance_by_hand():
    loss = PerceptualLoss(NAME, weights="random")
    loss.extractor = Channels()
    loss.mean.zero_()
    loss.std.fill_(1.0)
    pictures, targets = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)
    pictures[0, :, 0, 0] = torch.tensor([3.0, 4.0, 0.0])  # unit length: (0.6, 0.8, 0)
    targets[0, :, 0, 0] = torch.tensor([7.0, 0.0, 0.0])  # unit length: (1, 0, 0); squared distance 0.16 + 0.64
    pictures[0, :, 0, 1] = targets[0, :, 0, 1] = 1.0
    pictures[1], targets[1] = 1.0, 5.0  # the same direction everywhere
    torch.testing.assert_close(loss(pictures, targets), torch.tensor([0.8 / 2, 0.0]), atol=1e-5, rtol=1e-5)


def test_layers_weigh_alike():
    one, other = (PerceptualLoss(NAME, [layer], weights="random") for layer in ("features.1", "features.7"))
    both = PerceptualLoss(NAME, ["features.1", "features.7"], weights="random")
    a, b = photos(), photos(seed=1)
    torch.testing.assert_close(both(a, b), (one(a, b) + other(a, b)) / 2)


def test_pictures_are_normalised_with_the_statistics_of_imagenet():
    loss = PerceptualLoss(NAME, ["features.0"], weights="random")
    seen = []
    loss.extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss(torch.ones(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))  # the target comes first, gray made RGB
    for values, level in zip(seen, (0.0, 1.0), strict=True):
        expected = [(level - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
        assert values[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_default_layers_go_from_fine_to_coarse(name):
    loss = PerceptualLoss(name, weights="random")
    with torch.no_grad():
        sides = [feature.shape[-1] for feature in loss.extractor(photos(1, side=64)).values()]
    assert len(sides) == 4
    assert sides == sorted(sides, reverse=True)
    assert sides[0] >= 31
    assert 3 <= sides[-1] <= 8


def test_a_layer_is_not_overwritten_by_the_next_one():
    """ReLUs that work in place would turn features.0 into features.1."""
    features = PerceptualLoss(NAME, ["features.0", "features.1"], weights="random").extractor(photos())
    assert float(features["features.0"].min()) < 0
    torch.testing.assert_close(features["features.1"], features["features.0"].relu())


def test_it_is_frozen_and_stays_in_eval_mode():
    loss = PerceptualLoss("mobilenet_v2", ["features.3"], weights="random")  # has batch norms
    nn.ModuleList([loss]).train()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    a = photos().requires_grad_()
    loss(a, photos(seed=1)).sum().backward()
    assert not any(module.training for module in loss.modules())
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert bool(a.grad.isfinite().all())
    assert bool(a.grad.any())


def test_the_gradient_is_finite_where_no_channel_answers():
    loss = PerceptualLoss(NAME, weights="random")
    loss.extractor = Channels()
    loss.mean.zero_()
    black = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss(black, photos(1, side=4)).sum().backward()
    assert bool(black.grad.isfinite().all())


def test_following_its_gradient_brings_a_picture_nearer():
    loss, target = PerceptualLoss(NAME, ["features.1"], weights="random"), photos(1)
    picture = torch.full_like(target, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.02)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(picture, target).mean()
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    first = PerceptualLoss(NAME, weights="random")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    second = PerceptualLoss(NAME, weights="random")
    torch.random.set_rng_state(state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("part", ["all", "features", "half precision"])
def test_weights_come_from_a_file(tmp_path, suffix, part):
    weights = squeezenet()
    if part == "features":
        weights = {name: value for name, value in weights.items() if name.startswith("features.")}
    if part == "half precision":
        weights = {name: value.half() for name, value in weights.items()}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    loss = PerceptualLoss(NAME, weights=path)
    for name, value in loss.extractor.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].float())
    assert not torch.equal(
        loss(photos(), photos(seed=1)), PerceptualLoss(NAME, weights="random")(photos(), photos(seed=1))
    )


def bad(tmp_path, **changes):
    weights = squeezenet()
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del weights[key]
        else:
            weights[key] = value
    save_file(weights, tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features__0__bias": None}, "not weights of squeezenet1_1: 1 missing, the first is features.0.bias"),
        ({"head__weight": torch.zeros(1)}, "not weights of squeezenet1_1: 1 surplus, the first is head.weight"),
        ({"features__0__bias": torch.zeros(3)}, r"features.0.bias has shape \(3,\), expected \(64,\)"),
        ({"features__0__bias": torch.full((64,), torch.nan)}, "features.0.bias holds values that are not finite"),
    ],
)
def test_a_file_that_does_not_fit_gets_one_line(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        PerceptualLoss(NAME, weights=bad(tmp_path, **changes))
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "text.safetensors", "pickle", "checkpoint", "folder"])
def test_a_file_that_cannot_be_read_gets_one_line_and_is_never_run(tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "text.safetensors" else "w.pth")
    if kind.startswith("text"):
        path.write_text("no weights\nat all")
    elif kind == "empty":
        path.touch()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(str(tmp_path / "boom"))))
    elif kind == "checkpoint":
        torch.save({"state_dict": squeezenet()}, path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ModelError, match=r"w\.(pth|safetensors): (no|not) ") as caught:
        PerceptualLoss(NAME, weights=path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg61", "weights": "random"}, r"backbone 'vgg61' .* did you mean .*'vgg16'"),
        ({"backbone": "fcn_resnet50", "weights": "random"}, "backbone 'fcn_resnet50' is no classification network"),
        ({}, "weights of the backbone 'vgg16' are missing: name a .safetensors or .pth file"),
        ({"backbone": "resnet18", "weights": "random"}, "layers of resnet18 must be named: defaults .* vgg16"),
        ({"backbone": NAME, "weights": "random", "layers": "features.1"}, "list of names, got 'features.1'"),
        ({"backbone": NAME, "weights": "random", "layers": []}, r"list of names, got \[\]"),
        ({"backbone": NAME, "weights": "random", "layers": [3]}, r"list of names, got \[3\]"),
        ({"backbone": NAME, "weights": "random", "layers": ["nope"]}, f"layers of {NAME} must name .*'nope'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ModelError, match=message) as caught:
        PerceptualLoss(**settings)
    assert "\n" not in str(caught.value)


def test_any_other_network_works_with_its_layers_named():
    loss = PerceptualLoss("resnet18", ["layer1", "layer2.0.add"], weights="random")
    distance = loss(photos(3), photos(3, seed=1))
    assert distance.shape == (3,)
    assert bool((distance > 0).all())
    assert loss(photos(), photos()).tolist() == [0.0, 0.0]
