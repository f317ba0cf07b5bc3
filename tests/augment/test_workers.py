"""In the workers of a DataLoader: other views in each worker and epoch, the same for a seed, fork and spawn."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from maerestore.augment import models
from maerestore.augment.albumentations import MAEAugment
from maerestore.augment.batch import BatchMAEAugment

from .hosts import HOSTS, photos

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


class Masks(Dataset):
    """The same image every time; an item is which patches of its view are hidden, and who made it."""

    def __init__(self, transforms, items=4):
        self.transforms, self.items = transforms, items
        self.image = photos(1, 32, 32, dtype=np.float32)

    def __len__(self):
        return self.items

    def __getitem__(self, index):
        rows = []
        for host, transform in self.transforms.items():
            view = HOSTS[host].views(transform, self.image, seed=None)
            rows.append((view != self.image).any(-1)[0, 2::4, 2::4].ravel())
        worker = get_worker_info()
        state = torch.tensor([worker.id, torch.get_num_threads(), os.getpid(), models.is_loaded(transform_model(self))])
        return torch.from_numpy(np.stack(rows)), state


def transform_model(dataset):
    return next(iter(dataset.transforms.values()))._views.settings.model


def epochs(loader, n=2):
    """(epoch, item, host, patch) bool, and the states (epoch, item, 4)."""
    runs = [list(zip(*loader, strict=True)) for _ in range(n)]
    masks, states = zip(*((torch.cat(run[0]), torch.cat(run[1])) for run in runs), strict=True)
    return torch.stack(masks), torch.stack(states)


def loader_of(dataset, seed=0, workers=2, **settings):
    settings = {"multiprocessing_context": "fork", **settings}
    return DataLoader(dataset, 1, num_workers=workers, generator=torch.Generator().manual_seed(seed), **settings)


@needs_fork
@pytest.mark.parametrize(("persistent", "seed"), [(False, 137), (True, None)])
def test_views_differ_by_worker_and_epoch_and_follow_from_the_seeds(model, persistent, seed):
    import albumentations as A

    def fresh():
        transform = MAEAugment(model=model, mask_ratio=0.5, size=128, p=1)
        A.Compose([transform], seed=seed)  # seeds it
        transforms = {"albumentations": transform}
        for host in ("torchvision", "kornia"):
            transforms[host] = HOSTS[host].transform(model=model, mask_ratio=0.5, p=1)
        return Masks(transforms)

    masks, states = epochs(loader_of(fresh(), persistent_workers=persistent))
    assert states[..., 0].unique().tolist() == [0, 1]
    assert states[..., 1].unique().tolist() == [1]  # one thread
    for host in range(3):
        assert len({tuple(row.tolist()) for row in masks[:, :, host].flatten(0, 1)}) == 8  # 2 epochs of 4 items
    again, _ = epochs(loader_of(fresh(), persistent_workers=persistent))
    assert torch.equal(masks, again)
    other, _ = epochs(loader_of(fresh(), seed=1, persistent_workers=persistent), 1)
    assert not any(torch.equal(masks[0, :, host], other[0, :, host]) for host in range(3))


@needs_fork
def test_whether_an_image_changes_differs_by_worker_too(model):
    dataset = Masks({"albumentations": MAEAugment(model=model, p=0.5)}, items=24)
    dataset.transforms["albumentations"].set_random_seed(3)
    masks, states = epochs(loader_of(dataset), 1)
    changed = masks[0, :, 0].any(1)
    by_worker = [changed[states[0, :, 0] == worker].tolist() for worker in (0, 1)]
    assert by_worker[0] != by_worker[1]
    assert 3 <= int(changed.sum()) <= 21


@needs_fork
def test_a_seed_set_in_a_worker_holds(model):
    """As for the transforms of albumentations itself."""

    def init(worker):
        get_worker_info().dataset.transforms["albumentations"].set_random_seed(seed)

    for seed in (5, None):
        dataset = Masks({"albumentations": MAEAugment(model=model, mask_ratio=0.5, size=128, p=1)}, items=2)
        masks, states = epochs(loader_of(dataset, worker_init_fn=init), 1)
        assert states[0, :, 0].tolist() == [0, 1]
        assert torch.equal(masks[0, 0], masks[0, 1]) == (seed == 5)


class SeededBySample(Dataset):
    """Every sample has the views of its own number, whoever makes it and when."""

    def __init__(self, model):
        import albumentations as A

        transforms = [A.HorizontalFlip(p=0.5), MAEAugment(model=model, size=128, p=1)]
        self.pipeline, self.image = A.Compose(transforms, seed=9), photos(1, 32, 32)[0]

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.pipeline.set_random_seed(index)
        return np.stack([self.pipeline(image=self.image)["image"] for _ in range(2)])


@needs_fork
def test_samples_that_are_seeded_one_by_one_are_the_same_in_any_worker_and_epoch(model):
    dataset = SeededBySample(model)
    expected = np.stack([dataset[i] for i in range(6)])
    assert len({view.tobytes() for view in expected.reshape(12, -1)}) == 12
    for workers in (1, 2):
        loader = loader_of(dataset, workers=workers, persistent_workers=True)
        for _ in range(2):
            assert np.array_equal(torch.cat(list(loader)).numpy(), expected)


@needs_fork
def test_the_model_is_loaded_in_the_worker_or_comes_with_the_fork(model, monkeypatch):
    monkeypatch.setattr(models, "_models", {})
    dataset = Masks({"torchvision": HOSTS["torchvision"].transform(model=model, p=1)}, items=2)
    _, states = epochs(loader_of(dataset, workers=1), 1)
    assert states[0, :, 3].tolist() == [1, 1]
    assert not models.is_loaded(model)  # lazily, there
    models.preload(model)
    monkeypatch.setattr(models, "load_autoencoder", None)  # a worker that reads it again fails
    _, states = epochs(loader_of(dataset, workers=2), 1)
    assert states[0, :, 3].tolist() == [1, 1]
    assert states[0, :, 2].unique().numel() == 2


@needs_fork
def test_batches_are_made_in_workers(model):
    augment = BatchMAEAugment(model=model, p=1)
    data = [(torch.rand(3, 32, 32), i) for i in range(4)]
    loader = DataLoader(data, 2, num_workers=1, collate_fn=augment.collate, multiprocessing_context="fork")
    images, labels = next(iter(loader))
    assert labels.tolist() == [0, 1]
    assert (images != torch.stack([data[0][0], data[1][0]])).flatten(1).any(1).tolist() == [True, True]


def test_spawned_workers_work(model):
    dataset = Masks({host: HOSTS[host].transform(model=model, mask_ratio=0.5, p=1) for host in HOSTS}, items=2)
    dataset.transforms["albumentations"].set_random_seed(1)
    spawned, states = epochs(loader_of(dataset, workers=1, multiprocessing_context="spawn"), 1)
    assert states[0, :, 1].tolist() == [1, 1]
    assert states[0, 0, 2] != os.getpid()
    assert int(spawned.sum()) == 2 * 3 * 32
    if hasattr(os, "fork"):
        forked, _ = epochs(loader_of(dataset, workers=1), 1)
        assert torch.equal(spawned, forked)


@needs_fork
def test_two_of_the_same_settings_draw_apart_in_a_worker(model):
    """As for the two views of an image that contrastive learning compares."""
    import albumentations as A

    class Pairs(Dataset):
        def __init__(self):
            self.first, self.second = (A.Compose([MAEAugment(model=model, size=32, p=1)]) for _ in range(2))
            self.image = photos(1, 32, 32, dtype=np.float32)[0]

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return np.stack([pipeline(image=self.image)["image"] for pipeline in (self.first, self.second)])

    def pairs():
        return torch.cat(list(loader_of(Pairs(), workers=1)))

    views = pairs()
    assert any(not torch.equal(first, second) for first, second in views)
    assert torch.equal(views, pairs())
