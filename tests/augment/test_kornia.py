"""kornia's self-tests, on ours."""

from __future__ import annotations

import kornia.augmentation as K
import numpy as np
import pytest
import torch

from maerestore.augment.core import MaskedViews
from maerestore.augment.kornia import MAEAugment

from .hosts import as_array, as_tensor, hidden_patches, photos


def images_of(n=2, **kind):
    return as_tensor(photos(n, dtype=np.float32, **kind))


@pytest.fixture
def augment(model):
    return MAEAugment(model=model, mask_ratio=0.5, precision="fp32", p=1)


def test_smoke(augment):
    assert "MAEAugment" in repr(augment)
    assert "strategy=random" in repr(augment)
    assert isinstance(augment, K.IntensityAugmentationBase2D)


@pytest.mark.parametrize(
    ("shape", "keepdim", "out"),
    [((2, 3, 40, 50), False, (2, 3, 40, 50)), ((3, 40, 50), False, (1, 3, 40, 50)), ((40, 50), False, (1, 1, 40, 50)),
     ((3, 40, 50), True, (3, 40, 50)), ((40, 50), True, (40, 50)), ((1, 1, 32, 32), True, (1, 1, 32, 32))],
)  # fmt: skip
def test_cardinality(model, shape, keepdim, out):
    images = torch.rand(shape)
    assert MAEAugment(model=model, p=1, keepdim=keepdim)(images).shape == out
    assert MAEAugment(model=model, p=0, keepdim=keepdim)(images).shape == out


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_keep_their_dtype(augment, dtype):
    images = images_of().to(dtype)
    before = images.clone()
    views = augment(images)
    assert views.dtype == dtype
    assert torch.equal(images, before)
    assert 0.4 < float((views != images).float().mean()) < 0.6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integers_raise_as_kornia_has_it(augment, dtype):
    with pytest.raises(TypeError):
        augment(torch.zeros(1, 3, 32, 32, dtype=dtype))


def test_everything_random_is_in_the_params_and_replays(augment):
    images = images_of(3)
    views = augment(images)
    params = augment._params
    assert params["ratio"].shape == (3,)
    assert params["noise"].shape == (3, 64)
    assert params["seed"].shape == (3,)
    state = torch.get_rng_state()
    assert torch.equal(augment(images, params=params), views)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(images), views)


def test_replay_in_another_process_of_thought(model):
    first, second = (MAEAugment(model=model, p=0.5, strategy="block") for _ in range(2))
    images = images_of(6)
    torch.manual_seed(1)
    views = first(images)
    assert torch.equal(second(images, params=first._params), views)


def test_only_selected_rows_are_computed(model, monkeypatch):
    augment = MAEAugment(model=model, p=0.5)
    images = images_of(8)
    counts = []
    render = MaskedViews.render

    def counted(self, images, draw):
        counts.append(len(images))
        return render(self, images, draw)

    monkeypatch.setattr(MaskedViews, "render", counted)
    for seed in range(4):
        torch.manual_seed(seed)
        views = augment(images)
        chosen = augment._params["batch_prob"] > 0.5
        assert torch.equal((views != images).flatten(1).any(1), chosen)
        assert sum(counts) == int(chosen.sum())
        counts.clear()
    params = augment.forward_parameters(images.shape)
    params["batch_prob"] = torch.zeros(8)
    assert torch.equal(augment(images, params=params), images)
    assert counts == []


def test_rows_have_masks_of_their_own_unless_the_batch_shares_one(model):
    images = images_of(1).repeat(3, 1, 1, 1)
    apart = MAEAugment(model=model, p=1)(images) != images
    alike = MAEAugment(model=model, p=1, same_on_batch=True)(images) != images
    assert not torch.equal(apart[0], apart[1])
    assert torch.equal(alike[0], alike[1])
    assert torch.equal(alike[0], alike[2])


@pytest.mark.parametrize("p", [0, 0.5, 1])
@pytest.mark.parametrize("same", [False, True])
def test_an_empty_batch_stays_empty(model, p, same):
    images = torch.zeros(0, 3, 32, 32)
    assert MAEAugment(model=model, p=p, same_on_batch=same)(images).shape == images.shape


def test_the_default_device_of_torch_does_not_matter(augment):
    images = images_of(2)
    torch.manual_seed(1)
    views = augment(images)
    torch.manual_seed(1)
    with torch.device("meta"):  # stands for an accelerator
        assert torch.equal(augment(images), views)


def test_module_and_sequential(model):
    augment = torch.nn.Sequential(MAEAugment(model=model, p=1), K.RandomHorizontalFlip(p=1))
    assert augment(images_of()).shape == (2, 3, 96, 96)
    assert not any("encoder" in name or "block" in name for name in augment.state_dict())
    assert MAEAugment(model=model).state_dict() == {}
    assert list(MAEAugment(model=model).parameters()) == []


def test_the_transformation_is_the_identity(augment):
    augment(images_of())
    assert torch.equal(augment.transform_matrix, torch.eye(3).expand(2, 3, 3))


def test_masks_boxes_keypoints_and_classes_pass(model):
    keys = ["input", "mask", "bbox_xyxy", "keypoints", "class"]
    augment = K.AugmentationSequential(MAEAugment(model=model, p=1), data_keys=keys)
    images, masks = images_of(), torch.rand(2, 1, 96, 96)
    boxes, points = torch.tensor([[[1.0, 2.0, 30.0, 40.0]]] * 2), torch.tensor([[[5.0, 6.0]]] * 2)
    classes = torch.tensor([3, 4])
    out = augment(images, masks, boxes, points, classes)
    assert not torch.equal(out[0], images)
    for before, after in zip((masks, boxes, points, classes), out[1:], strict=True):
        assert torch.equal(before, after)
    again = augment(images, masks, boxes, points, classes, params=augment._params)
    assert torch.equal(again[0], out[0])


def test_videos_share_a_mask_over_their_frames(model):
    video = K.VideoSequential(MAEAugment(model=model, p=1, precision="fp32"), data_format="BTCHW")
    frames = images_of(1)[:, None].repeat(2, 3, 1, 1, 1)
    changed = video(frames) != frames
    assert torch.equal(changed[0, 0], changed[0, 1])
    assert torch.equal(changed[0, 0], changed[0, 2])
    assert not torch.equal(changed[0, 0], changed[1, 0])


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("strategy", ["random", "block", "attention"])
def test_parameters_of_one_shape_serve_another(model, strategy, same):
    """kornia 0.8.0 asks for those of the first shape even after `PadTo`."""
    augment = MAEAugment(model=model, mask_ratio=0.5, strategy=strategy, precision="fp32", p=1, same_on_batch=same)
    params = augment.forward_parameters((3, 3, 48, 64))  # 7 x 9 patches
    images = images_of(1).repeat(3, 1, 1, 1)  # 8 x 8
    views = augment(images, params=params)
    hidden = np.stack(
        [hidden_patches(image, view) for image, view in zip(as_array(images), as_array(views), strict=True)]
    )
    assert hidden.sum((1, 2)).tolist() == [32, 32, 32]
    assert np.array_equal(hidden[0], hidden[1]) == np.array_equal(hidden[0], hidden[2]) == same
    assert torch.equal(augment(images, params=params), views)
    assert params["noise"].shape == (3, 63)


def test_selected_rows_alone_as_kornia_0_8_hands_them_over(augment):
    """With parameters of theirs, but for "batch_prob", which is of the whole batch."""
    augment.p = 0.5
    images = images_of(2)
    params = augment.generate_parameters(images.shape) | {"batch_prob": torch.tensor([0.0, 1.0, 1.0])}
    assert torch.equal((augment.apply_transform(images, params, {}) != images).flatten(1).any(1), torch.ones(2) > 0)


def test_two_inputs_of_different_sizes(model):
    augment = K.AugmentationSequential(
        MAEAugment(model=model, p=0.5, precision="fp32"), data_keys=["input", "input"], same_on_batch=False
    )
    first, second = images_of(6, height=64, width=80), images_of(6)
    torch.manual_seed(0)
    out = augment(first, second)
    changed = [(after != before).flatten(1).any(1) for after, before in zip(out, (first, second), strict=True)]
    assert torch.equal(changed[0], changed[1])
    assert 0 < int(changed[0].sum()) < 6
    again = augment(first, second, params=augment._params)
    assert all(torch.equal(a, b) for a, b in zip(out, again, strict=True))


def test_an_empty_batch_takes_parameters_of_another_shape(augment):
    params = augment.forward_parameters((0, 3, 48, 64))
    assert augment(torch.zeros(0, 3, 96, 96), params=params).shape == (0, 3, 96, 96)


def test_gradients_pass(model):
    images = images_of(4).requires_grad_()
    augment = MAEAugment(model=model, p=0.5, blend=0.5)
    torch.manual_seed(0)
    augment(images).sum().backward()
    assert sorted(images.grad.unique().tolist()) == [0.5, 1.0]


def test_masks_do_not_depend_on_the_dtype_or_default_device(augment):
    images = images_of()
    torch.manual_seed(3)
    views = augment(images)
    torch.manual_seed(3)
    halved = augment.to(torch.float64)(images.double())
    assert torch.equal(halved != images.double(), views != images)
