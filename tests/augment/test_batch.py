from __future__ import annotations

import pickle
from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest
import torch

from maerestore import BatchMAEAugment
from maerestore.augment import models

from .hosts import as_tensor, photos


def images_of(n=8, dtype=np.uint8):
    return as_tensor(photos(n, dtype=dtype))


def chosen(views, images):
    return (views != images).flatten(1).any(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_share_of_the_batch_becomes_views(model, dtype):
    augment = BatchMAEAugment(model=model, p=0.5)
    images = images_of(dtype=dtype)
    before = images.clone()
    seen = torch.zeros(8)
    for seed in range(12):
        torch.manual_seed(seed)
        views = augment(images)
        assert (views.shape, views.dtype) == (images.shape, images.dtype)
        assert int(chosen(views, images).sum()) == 4  # as many every time: static shapes
        seen += chosen(views, images)
    assert torch.equal(images, before)
    assert 1 <= seen.min() < seen.max() <= 11  # 6 expected


def test_what_is_no_whole_number_is_rounded_by_chance(model):
    augment = BatchMAEAugment(model=model, p=0.3, size=32)
    images = as_tensor(photos(5, 32, 32))
    torch.manual_seed(0)
    counts = [int(chosen(augment(images), images).sum()) for _ in range(60)]
    assert set(counts) == {1, 2}
    assert 1.25 < np.mean(counts) < 1.75


def test_labels_come_back_as_they_are(model):
    labels, meta = torch.arange(8), object()
    views, same, other = BatchMAEAugment(model=model, p=1)(images_of(), labels, meta)
    assert same is labels
    assert other is meta
    assert bool(chosen(views, images_of()).all())


def test_a_seed_fixes_the_views(model):
    augment, images = BatchMAEAugment(model=model), images_of()
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(augment(images))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_the_default_device_of_torch_does_not_matter(model):
    augment, images = BatchMAEAugment(model=model, p=0.5), images_of()
    augment(images)
    torch.manual_seed(1)
    views = augment(images)
    torch.manual_seed(1)
    with torch.device("meta"):  # stands for an accelerator
        assert torch.equal(augment(images), views)


def test_it_rests_in_evaluation_and_with_p_0(model, no_model):
    images = images_of()
    assert BatchMAEAugment(model=model, p=1).eval()(images) is images
    assert BatchMAEAugment(model=model, p=0)(images) is images
    assert BatchMAEAugment(model=model, blend=0, p=1)(images) is images


def test_it_is_a_module_without_weights_and_pickles_small(model):
    network = torch.nn.Sequential(BatchMAEAugment(model=model, p=1), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    network(images_of(dtype=np.float32)).sum().backward()  # nothing in the way of training
    assert set(network.state_dict()) == {"2.weight", "2.bias"}
    assert models.is_loaded(model)
    assert len(pickle.dumps(network[0])) < 10_000
    assert "p=1" in repr(network[0])


def test_it_collates(model):
    augment = BatchMAEAugment(model=model, p=1)
    image = as_tensor(photos(1))[0]
    for samples in ([(image, 1)] * 3, [[image, 1]] * 3):
        views, labels = augment.collate(samples)
        assert labels.tolist() == [1, 1, 1]
        assert bool(chosen(views, torch.stack([image] * 3)).all())
    for key in ("image", "images", "pixel_values"):
        batch = augment.collate([{key: image, "label": 1}] * 2)
        assert batch["label"].tolist() == [1, 1]
        assert bool(chosen(batch[key], torch.stack([image] * 2)).all())
    assert augment.collate([image] * 2).shape == (2, 3, 96, 96)


def test_collating_keeps_types_as_the_default_does(model):
    augment = BatchMAEAugment(model=model, p=1)
    image = as_tensor(photos(1))[0]
    pair = namedtuple("Pair", "image label")
    batch = augment.collate([pair(image, 1)] * 2)
    assert type(batch) is pair
    assert batch.label.tolist() == [1, 1]
    assert bool(chosen(batch.image, torch.stack([image] * 2)).all())
    for kind in (OrderedDict, UserDict):
        sample = kind(image=image, label=1)
        batch = augment.collate([sample] * 2)
        assert type(batch) is kind
        assert bool(chosen(batch["image"], torch.stack([image] * 2)).all())
        assert sample["image"] is image


@pytest.mark.parametrize(("samples", "words"), [([{"x": 1}], r"looked for image.*\['x'\]"), (["a"], "got str")])
def test_samples_without_images_are_refused(samples, words):
    with pytest.raises(ValueError, match=words):
        BatchMAEAugment().collate(samples)


def test_an_empty_batch_stays_empty(model):
    assert BatchMAEAugment(model=model, p=1)(torch.zeros(0, 3, 32, 32)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("images", [torch.rand(3, 32, 32), torch.full((2, 3, 32, 32), 3.0), [1, 2]])
def test_what_is_no_batch_is_refused(model, images):
    with pytest.raises(ValueError, match="images"):
        BatchMAEAugment(model=model, p=1)(images)


@pytest.mark.parametrize("wrong", [{"p": 2}, {"mask_ratio": -1}, {"precision": "half"}, {"strategy": "x"}])
def test_wrong_arguments_are_refused_at_construction(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchMAEAugment(**wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_it_works_where_the_batch_is(model):
    images = images_of(dtype=np.float32).cuda()
    views = BatchMAEAugment(model=model, p=0.5)(images)
    assert views.is_cuda
    assert int(chosen(views, images).sum()) == 4
