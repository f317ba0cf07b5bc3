"""albumentations' self-tests, on ours."""

from __future__ import annotations

import io
import json
import warnings

import albumentations as A
import numpy as np
import pytest

from maerestore.augment.albumentations import MAEAugment

from .hosts import hidden_patches, photos


def compose(model, seed=137, **settings):
    return A.Compose([MAEAugment(model=model, p=1, **settings)], seed=seed)


def test_it_is_a_transform_of_images_only():
    assert issubclass(MAEAugment, A.ImageOnlyTransform)
    assert set(MAEAugment().targets) == {"image", "images", "volume", "volumes"}


@pytest.mark.parametrize("shape", [(101, 99, 3), (101, 99), (40, 60, 1), (64, 64, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gray_colour_and_multichannel_keep_their_shape_and_are_contiguous(model, shape, dtype):
    image = photos(1, *shape[:2], shape[2] if len(shape) == 3 else 1, dtype)[0].reshape(shape)
    before = image.copy()
    view = compose(model)(image=image)["image"]
    assert (view.shape, view.dtype) == (image.shape, image.dtype)
    assert view.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, before)
    assert not np.array_equal(view, image)


def test_arrays_of_any_layout_are_taken(model):
    image = photos(1)[0]
    view = compose(model)(image=image)["image"]
    other = np.asfortranarray(image)
    fixed = image.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(compose(model)(image=other)["image"], view)
        assert np.array_equal(compose(model)(image=fixed)["image"], view)
    assert np.array_equal(compose(model)(image=image[:, ::-1])["image"].shape, view.shape)


def test_other_targets_pass(model):
    image = photos(1)[0]
    mask, masks = np.arange(96 * 96).reshape(96, 96).astype(np.uint8), np.zeros((2, 96, 96), np.uint8)
    transform = A.Compose(
        [MAEAugment(model=model, p=1)],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        keypoint_params=A.KeypointParams(format="xy"),
    )
    boxes, points = np.array([[1.0, 2.0, 30.0, 40.0]]), np.array([[5.0, 6.0]])
    meta = object()
    out = transform(image=image, mask=mask, masks=masks, bboxes=boxes, keypoints=points, labels=["cat"], meta=meta)
    assert np.array_equal(out["mask"], mask)
    assert np.array_equal(out["masks"], masks)
    assert np.allclose(out["bboxes"], boxes)
    assert np.allclose(out["keypoints"], points)
    assert out["labels"] == ["cat"]
    assert out["meta"] is meta
    direct = MAEAugment(model=model, p=1)(image=image, mask=mask, meta=meta)
    assert direct["mask"] is mask
    assert direct["meta"] is meta


def test_additional_targets_are_hidden_alike(model):
    image = photos(1)[0]
    transform = A.Compose([MAEAugment(model=model, p=1)], additional_targets={"image2": "image", "more": "mask"})
    out = transform(image=image, image2=image.copy(), more=image[..., 0])
    assert np.array_equal(out["image"], out["image2"])
    assert np.array_equal(out["more"], image[..., 0])


def test_targets_of_other_sizes_are_taken(model):
    transform = A.Compose([MAEAugment(model=model, p=1)], additional_targets={"wide": "image"}, is_check_shapes=False)
    out = transform(image=photos(1)[0], wide=photos(1, 40, 130)[0])
    assert out["wide"].shape == (40, 130, 3)


@pytest.mark.parametrize("shape", [(101, 99, 3), (101, 99)])
def test_images_are_a_target_in_one_batch(model, shape, monkeypatch):
    image = photos(1, 101, 99, 3)[0].reshape(101, 99, 3)[..., : shape[2] if len(shape) == 3 else 1].reshape(shape)
    transform = MAEAugment(model=model, p=1, precision="fp32")
    transform.set_random_seed(0)
    single = transform(image=image)["image"]
    calls = []
    render = transform._views.render

    def counted(images, draw):
        calls.append(len(images))
        return render(images, draw)

    monkeypatch.setattr(transform._views, "render", counted)
    for images in (np.stack([image] * 3), [image] * 3):
        transform.set_random_seed(0)
        out = transform(images=images)["images"]
        assert out.shape == (3, *shape)
        assert np.array_equal(out[0], out[1])
        assert np.array_equal(out[0], out[2])
        assert np.abs(out[0].astype(int) - single).max() <= 1
    assert calls == [3, 3]


@pytest.mark.parametrize(("key", "leading"), [("volume", (3,)), ("volumes", (2, 3))])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_volumes_are_one_batch(model, key, leading, channels):
    stack = photos(int(np.prod(leading)), 40, 40, *channels or (1,)).reshape(*leading, 40, 40, *channels)
    out = compose(model)(**{key: stack})[key]
    assert out.shape == stack.shape
    assert out.flags["C_CONTIGUOUS"]
    flat, views = stack.reshape(-1, 40, 40, *channels or (1,)), out.reshape(-1, 40, 40, *channels or (1,))
    hidden = [hidden_patches(a, b) for a, b in zip(flat, views, strict=True)]
    assert all(np.array_equal(h, hidden[0]) for h in hidden)


def test_it_serialises_with_the_name_of_the_model_only(model):
    transform = compose(model, mask_ratio=(0.3, 0.6), strategy="grid", blend=0.75, size=64, precision="fp32")
    image = photos(1)[0]
    view = transform(image=image)["image"]
    described = A.to_dict(transform)
    text = json.dumps(described)
    assert len(text) < 2000
    inner = described["transform"]["transforms"][0]
    assert inner["__class_fullname__"] == "maerestore.augment.albumentations.MAEAugment"
    assert {key: value for key, value in inner.items() if key != "__class_fullname__"} == {
        "mask_ratio": (0.3, 0.6), "strategy": "grid", "blend": 0.75, "model": model, "size": 64,
        "precision": "fp32", "p": 1,
    }  # fmt: skip
    for kind in ("json", "yaml"):
        file = io.StringIO()
        A.save(transform, file, data_format=kind)
        file.seek(0)
        again = A.load(file, data_format=kind)
        again.set_random_seed(137)
        assert np.array_equal(again(image=image)["image"], view)
    again = A.from_dict(json.loads(text))
    again.set_random_seed(137)
    assert np.array_equal(again(image=image)["image"], view)
    assert A.to_dict(again) == described


@pytest.mark.parametrize("p", [0.5, 1])
def test_replay_makes_the_same_views(model, p):
    transform = A.ReplayCompose([MAEAugment(model=model, p=p), A.HorizontalFlip(p=0.5)])
    image = photos(1)[0]
    changed = 0
    for _ in range(6):
        out = transform(image=image)
        changed += not np.array_equal(out["image"], image)
        again = A.ReplayCompose.replay(out["replay"], image=image)["image"]
        assert np.array_equal(again, out["image"])
        assert len(json.dumps(out["replay"]["transforms"][0], default=str)) < 2000
    assert changed >= 1


def test_a_seed_of_compose_fixes_the_views(model):
    image = photos(1)[0]
    one, same, other = compose(model), compose(model), compose(model, seed=138)
    first = [one(image=image)["image"] for _ in range(2)]
    assert all(np.array_equal(a, same(image=image)["image"]) for a in first)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other(image=image)["image"])


def test_two_of_them_in_a_pipeline_draw_apart(model):
    pair = A.Compose([MAEAugment(model=model), MAEAugment(model=model, strategy="block")], seed=1)
    first, second = pair.transforms
    applied = [(first.should_apply(), second.should_apply()) for _ in range(40)]
    assert len(set(applied)) == 4
    assert first.get_params() != second.get_params()


def test_no_global_generator_is_touched(model):
    import random

    import torch

    transform, image = compose(model, strategy="block"), photos(1)[0]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    transform(image=image)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_generators_that_are_given_are_used(model):
    import random

    transform = MAEAugment(model=model)
    generator, py_random = np.random.default_rng(5), random.Random(5)
    transform.set_random_state(generator, py_random)
    assert transform.random_generator is generator
    assert transform.should_apply() == (random.Random(5).random() < 0.5)
    assert transform.get_params() == {"view_seed": int(np.random.default_rng(5).integers(2**63 - 1))}


def test_unknown_arguments_are_told_as_the_host_does():
    with pytest.warns(UserWarning, match="colour"):
        MAEAugment(colour=1)
    with pytest.raises(ValueError, match="colour"):
        MAEAugment(colour=1, strict=True)
