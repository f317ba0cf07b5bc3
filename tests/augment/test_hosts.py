"""What holds of `MAEAugment` in every host."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest

from maerestore.augment import models

from .hosts import HOSTS, hidden_patches, photos

SHARED = ("mask_ratio", "strategy", "blend", "model", "size", "precision", "p")


@pytest.fixture(params=list(HOSTS))
def host(request):
    return HOSTS[request.param]


def kinds(host):
    return [np.uint8, np.float32] if host.bytes else [np.float32]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(96, 96), (101, 99), (60, 130)])
def test_shape_and_dtype_are_kept_and_the_input_is_not_modified(host, model, channels, size):
    for dtype in kinds(host):
        images = photos(2, *size, channels, dtype)
        before = images.copy()
        views = host.views(host.transform(model=model, p=1), images)
        assert views.shape == images.shape
        assert views.dtype == images.dtype
        assert np.array_equal(images, before)
        assert 0.3 < (views != images).mean() < 0.85
        assert np.isfinite(views).all()
        assert views.min() >= 0
        assert views.max() <= (255 if dtype == np.uint8 else 1)


def test_whole_patches_change_and_the_others_are_the_same_bits(host, model):
    for dtype in kinds(host):
        images = photos(3, 100, 90, 3, dtype)
        views = host.views(host.transform(model=model, mask_ratio=0.5, p=1), images)
        grid = (8, 8)  # 100 x 90 at 128 px squared: 135 x 121, in patches of 16 px
        hidden = [hidden_patches(image, view, grid) for image, view in zip(images, views, strict=True)]
        assert [int(h.sum()) for h in hidden] == [32, 32, 32]
        assert not np.array_equal(hidden[0], hidden[1])  # a mask of its own for each
        assert not np.array_equal(hidden[1], hidden[2])


@pytest.mark.parametrize("strategy", ["random", "block", "grid", "attention", "attention-keep"])
def test_every_strategy_hides_the_share_that_was_asked_for(host, model, strategy):
    images = photos(1, dtype=np.float32)
    view = host.views(host.transform(strategy=strategy, mask_ratio=0.75, model=model, p=1), images)
    assert int(hidden_patches(images[0], view[0]).sum()) == 48


def test_bytes_match_floats(host, model):
    if not host.bytes:
        pytest.skip("takes no bytes")
    images = photos(2, 120, 120)
    transform = host.transform(model=model, precision="fp32", p=1)
    of_bytes = host.views(transform, images).astype(int)
    of_floats = host.views(transform, images.astype(np.float32) / 255) * 255
    assert np.abs(of_bytes - of_floats).max() < 3


def test_a_seed_fixes_the_views_and_another_gives_others(host, model):
    images = photos(8, dtype=np.float32)  # as many as leave no chance that none of them is chosen, or the same ones
    transform = host.transform(model=model, p=0.7)
    first = [host.views(transform, images, seed=3), host.views(transform, images, seed=None)]
    again = [host.views(transform, images, seed=3), host.views(transform, images, seed=None)]
    other = [host.views(transform, images, seed=4), host.views(transform, images, seed=None)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not np.array_equal(first[0], first[1])


def test_with_p_0_the_image_comes_back_and_no_model_is_asked_for(host, no_model):
    images = photos(2, dtype=np.float32)
    assert np.array_equal(host.views(host.transform(p=0), images), images)
    assert not models.is_loaded("augment")


@pytest.mark.parametrize("settings", [{"blend": 0}, {"mask_ratio": 0}])
def test_where_nothing_would_change_no_weights_are_loaded(host, model, settings, monkeypatch):
    monkeypatch.setattr(models, "_models", {})
    images = photos(2, dtype=np.float32)
    assert np.array_equal(host.views(host.transform(model=model, p=1, **settings), images), images)
    assert not models.is_loaded(model)


def test_p_chooses_images_one_by_one(host, model):
    images = np.repeat(photos(1, 32, 32, dtype=np.float32), 60, 0)
    views = host.views(host.transform(model=model, size=32, p=0.3), images)
    changed = (views != images).any((1, 2, 3)).sum()
    assert 6 <= changed <= 32  # 18 expected, 3.5 a standard deviation


def test_it_pickles_small_and_the_copy_makes_the_same_views(host, model):
    images = photos(2, dtype=np.float32)
    transform = host.transform(model=model, p=1)
    views = host.views(transform, images)
    stored = pickle.dumps(transform)
    assert len(stored) < 10_000
    assert np.array_equal(host.views(pickle.loads(stored), images), views)
    assert np.array_equal(host.views(copy.deepcopy(transform), images), views)


def test_transforms_of_one_model_share_it(host, model):
    images = photos(1, dtype=np.float32)
    for _ in range(3):
        host.views(host.transform(model=model, p=1), images)
    assert sum(name == model for name, _ in models._models) == 1


WRONG = [
    {"mask_ratio": 1.5}, {"mask_ratio": -0.1}, {"mask_ratio": (0.7, 0.3)}, {"mask_ratio": float("nan")},
    {"mask_ratio": "half"}, {"mask_ratio": (0.1, 0.2, 0.3)}, {"strategy": "spiral"}, {"strategy": None},
    {"blend": 2}, {"blend": -0.5}, {"model": ""}, {"model": 7}, {"size": 0}, {"size": 1.5}, {"precision": "fp8"},
    {"p": 1.5}, {"p": -1},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_arguments_are_refused_at_construction(host, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError) as caught:
        host.transform(**wrong)
    assert name in str(caught.value)
    assert str(value) in str(caught.value)


def test_images_that_are_none_are_refused(host, model):
    transform = host.transform(model=model, p=1)
    nan = photos(1, dtype=np.float32)
    nan[0, 3, 4, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        host.views(transform, nan)
    with pytest.raises(ValueError, match=r"\[0, 1\], got values from -2"):
        host.views(transform, photos(1, dtype=np.float32) * 6 - 3)
    if host.bytes:
        with pytest.raises(ValueError, match="int32"):
            host.views(transform, photos(1).astype(np.int32))
        with pytest.raises(ValueError, match="pixels"):
            host.views(transform, np.zeros((1, 0, 8, 3), np.uint8))


def test_a_size_smaller_than_a_patch_is_refused(host, model):
    with pytest.raises(ValueError, match="size must be at least a patch of the model, 16 pixels, got 8"):
        host.views(host.transform(model=model, size=8, p=1), photos(1, dtype=np.float32))


def test_a_missing_model_is_told_when_it_is_needed(host, tmp_path):
    transform = host.transform(model=str(tmp_path / "nowhere"), p=1)
    with pytest.raises(ValueError, match="no model"):
        host.views(transform, photos(1, dtype=np.float32))


def test_the_arguments_are_the_same_everywhere(host):
    there = {name: value.default for name, value in inspect.signature(host.transform).parameters.items()}
    assert [name for name in there if name in SHARED] == list(SHARED)
    other = inspect.signature(HOSTS["torchvision"].transform).parameters
    assert all(there[name] == other[name].default for name in SHARED)
