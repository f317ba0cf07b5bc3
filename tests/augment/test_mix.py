"""Pairs of images in one: what is pasted, what is rebuilt, and what the labels say of it."""

from __future__ import annotations

import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore import MAEMix, MaerestoreError
from maerestore.augment.mix import draw_box
from maerestore.augment.pixels import hidden_pixels

from .hosts import as_tensor, photos


def images_of(n=6, dtype=np.uint8):
    return as_tensor(photos(n, dtype=dtype))


def mixed(mix, images, labels, seed=0):
    torch.manual_seed(seed)
    return mix(images, labels)


# --- the box


@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12), area=st.floats(0, 1), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_seam_is_what_touches_the_box_and_nothing_else(rows, columns, area, seed):
    box, seam = (part.reshape(rows, columns) for part in draw_box((rows, columns), area, np.random.default_rng(seed)))
    assert box.any()
    touched = np.zeros((rows + 2, columns + 2), bool)
    for down in range(3):
        for right in range(3):
            touched[down : down + rows, right : right + columns] |= box
    np.testing.assert_array_equal(seam, touched[1:-1, 1:-1] & ~box)


def test_the_area_is_what_is_asked_for_where_nothing_is_cut_off():
    whole = [draw_box((40, 40), 0.25, np.random.default_rng(seed))[0].mean() for seed in range(200)]
    assert max(whole) == 0.25
    assert 0.1 < np.mean(whole) < 0.25


# --- a batch


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_pixel_is_of_one_image_or_the_other_but_for_the_seam(model, dtype):
    mix, images = MAEMix(6, p=1, model=model), images_of(dtype=dtype)
    before = images.clone()
    grid = mix._views.grid(tuple(images.shape[2:]))
    seams = 0
    for seed in range(8):
        views, labels = mixed(mix, images, torch.arange(6), seed)
        assert (views.shape, views.dtype, labels.dtype) == (images.shape, images.dtype, torch.float32)
        torch.testing.assert_close(labels.sum(1), torch.ones(6))
        torch.manual_seed(seed)
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        rng.random()
        box, seam = draw_box(grid, float(rng.beta(1, 1)), rng)
        partner = rng.permutation(6)
        inside, between = (
            hidden_pixels(torch.from_numpy(part[None].astype(np.float32)), grid, tuple(images.shape[2:]))
            for part in (box, seam)
        )
        pasted = torch.where(inside, images[partner], images)
        assert torch.equal(views.where(~between, pasted), pasted)
        for row in range(6):
            expected = torch.zeros(6)
            expected[row] += 1 - float(box.mean())
            expected[partner[row]] += float(box.mean())
            torch.testing.assert_close(labels[row], expected)
        if seam.any():
            seams += 1
            assert not torch.equal(views.where(between, pasted), pasted)
    assert seams > 4
    assert torch.equal(images, before)


def test_p_is_the_share_of_batches_that_are_mixed(model):
    mix, images = MAEMix(6, p=0.3, model=model, size=32), as_tensor(photos(2, 32, 32))
    torch.manual_seed(0)
    count = sum(not torch.equal(mix(images, torch.tensor([0, 1]))[0], images) for _ in range(100))
    assert 10 < count < 45  # of 30; a permutation of two is none half of the time


def test_unmixed_labels_are_probabilities_too(model):
    views, labels = MAEMix(4, p=0, model=model)(images_of(3), torch.tensor([3, 0, 1]))
    assert torch.equal(labels, torch.eye(4)[[3, 0, 1]])
    assert torch.equal(views, images_of(3))


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_to_mix(model, n):
    views, labels = MAEMix(2, p=1, model=model)(images_of(2)[:n], torch.zeros(n, dtype=torch.long))
    assert (len(views), labels.shape) == (n, (n, 2))


def test_eval_turns_it_off(model):
    images, labels = images_of(2), torch.tensor([0, 1])
    views, same = MAEMix(2, p=1, model=model).eval()(images, labels)
    assert views is images
    assert same is labels


def test_probabilities_are_mixed_as_they_are(model):
    labels = torch.tensor([[0.5, 0.5, 0], [0, 0, 1.0]])
    _, out = mixed(MAEMix(p=1, model=model), images_of(2), labels, 3)
    torch.testing.assert_close(out.sum(1), torch.ones(2))
    assert out.shape == (2, 3)


def test_a_seed_fixes_the_batch(model):
    mix, images = MAEMix(6, model=model), images_of()
    batches = [mixed(mix, images, torch.arange(6), seed) for seed in (5, 5, 6, 7)]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert any(not torch.equal(batches[0][0], other[0]) for other in batches[2:])


def test_it_pickles_and_has_no_weights(model):
    mix = MAEMix(6, alpha=0.5, p=1, model=model)
    mixed(mix, images_of(), torch.arange(6))
    again = pickle.loads(pickle.dumps(mix))
    assert len(pickle.dumps(mix)) < 5000
    assert not mix.state_dict()
    assert repr(again) == repr(mix)
    assert torch.equal(mixed(again, images_of(), torch.arange(6))[0], mixed(mix, images_of(), torch.arange(6))[0])


# --- a loader


def test_collate_mixes_pairs_mappings_and_named_tuples(model):
    mix, images = MAEMix(6, p=1, model=model), images_of()
    pairs = list(zip(images, range(6), strict=True))
    torch.manual_seed(0)
    views, labels = mix.collate(pairs)
    expected = mixed(mix, images, torch.arange(6))
    assert torch.equal(views, expected[0])
    assert torch.equal(labels, expected[1])
    torch.manual_seed(0)
    batch = mix.collate([{"pixel_values": image, "label": i, "id": i} for image, i in pairs])
    assert torch.equal(batch["pixel_values"], expected[0])
    assert torch.equal(batch["label"], expected[1])
    assert torch.equal(batch["id"], torch.arange(6))
    sample = namedtuple("sample", "image label weight")
    torch.manual_seed(0)
    batch = mix.collate([sample(image, i, 1.0) for image, i in pairs])
    assert torch.equal(batch.label, expected[1])
    assert torch.equal(batch.weight, torch.ones(6, dtype=batch.weight.dtype))


@pytest.mark.parametrize("samples", [[torch.zeros(3, 8, 8)], [{"image": torch.zeros(3, 8, 8)}], [(torch.zeros(3),)]])
def test_samples_without_a_label_are_refused(model, samples):
    with pytest.raises(MaerestoreError, match="no image and label"):
        MAEMix(2, model=model).collate(samples)


# --- what does not fit


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_classes", 0), ("num_classes", 2.5), ("num_classes", True), ("alpha", 0), ("alpha", float("nan")),
     ("alpha", float("inf")), ("alpha", "1"), ("p", 1.5), ("size", 0), ("precision", "half")],
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_named(name, value):
    with pytest.raises(MaerestoreError, match=name):
        MAEMix(**{name: value})


@pytest.mark.parametrize(
    ("labels", "words"),
    [(torch.tensor([0, 9]), "0 to 2"), (torch.tensor([0, -1]), "0 to 2"), (torch.tensor([0]), "class indices"),
     (torch.tensor([0.5, 1.0]), "class indices"), (torch.zeros(2, 4), "of 4 classes"), ([0, 1], "tensor")],
)  # fmt: skip
def test_labels_that_do_not_go_with_the_images(labels, words):
    with pytest.raises(MaerestoreError, match=words):
        MAEMix(3)(torch.zeros(2, 3, 16, 16), labels)


def test_indices_need_the_number_of_classes():
    with pytest.raises(MaerestoreError, match="num_classes"):
        MAEMix()(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))
