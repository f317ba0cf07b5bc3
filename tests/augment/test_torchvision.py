"""torchvision's self-tests, on ours."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from maerestore.augment.torchvision import MAEAugment

from .hosts import as_tensor, photos


@pytest.fixture
def augment(model):
    return MAEAugment(model=model, mask_ratio=0.5, precision="fp32", p=1)


def image_of(n=None, **kind):
    images = as_tensor(photos(n or 1, **kind))
    return tv_tensors.Image(images if n else images[0])


def share(view, image):
    return float((torch.as_tensor(view) != torch.as_tensor(image)).any(-3).float().mean())


def test_only_what_torchvision_asks_for_is_overridden():
    assert "forward" not in vars(MAEAugment)
    assert {"make_params", "transform"} <= set(vars(MAEAugment))


@pytest.mark.parametrize("make", [
    lambda: image_of(), lambda: image_of(3), lambda: tv_tensors.Video(as_tensor(photos(3))),
    lambda: as_tensor(photos(1))[0], lambda: image_of(dtype=np.float32), lambda: image_of(2, channels=1),
    lambda: tv_tensors.Image(torch.rand(2, 3, 3, 40, 50)), lambda: image_of(height=50, width=100),
    lambda: tv_tensors.Video(torch.rand(2, 2, 3, 40, 50)),
])  # fmt: skip
def test_type_shape_and_dtype_are_kept_and_nothing_is_changed_in_place(augment, make):
    image = make()
    before = image.clone()
    view = augment(image)
    assert type(view) is type(image)
    assert (view.shape, view.dtype, view.device) == (image.shape, image.dtype, image.device)
    assert view.is_contiguous()
    assert torch.equal(image, before)
    assert 0.4 < share(view, image) < 0.6


@pytest.mark.parametrize(("mode", "kept"), [("L", 0), ("RGB", 0), ("LA", 1), ("RGBA", 1)])
def test_pil_images_keep_mode_and_alpha(augment, mode, kept):
    channels = len(mode)
    array = photos(1, 60, 80, channels)[0]
    image = PIL.Image.fromarray(array[..., 0] if channels == 1 else array, mode=None).convert(mode)
    if channels in (2, 4):
        image.putalpha(PIL.Image.fromarray(array[..., -1]))
    before = np.array(image)
    view = augment(image)
    assert isinstance(view, PIL.Image.Image)
    assert (view.mode, view.size) == (mode, image.size)
    after = np.array(view)
    assert np.array_equal(np.array(image), before)
    assert not np.array_equal(after, before)
    if kept:
        assert np.array_equal(after[..., -1], before[..., -1])


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "I", "F"])
def test_other_pil_modes_are_refused(augment, mode):
    with pytest.raises(ValueError, match=f"image must be of mode L, RGB, LA, RGBA, got {mode}"):
        augment(PIL.Image.new(mode, (40, 40)))


@pytest.mark.parametrize("container", [dict, OrderedDict, list, tuple])
def test_samples_keep_their_structure_and_all_but_images_are_the_same_objects(augment, container):
    others = [
        tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(96, 96)),
        tv_tensors.Mask(torch.zeros(96, 96, dtype=torch.uint8)), torch.tensor(3), torch.rand(3, 8, 8),
        "name", 7, None, np.zeros(3), object(),
    ]  # fmt: skip
    entries = [image_of(), tv_tensors.Video(as_tensor(photos(2))), *others]
    sample = container(enumerate(entries)) if container in (dict, OrderedDict) else container(entries)
    out = augment(sample)
    assert type(out) is type(sample)
    got = list(out.values()) if isinstance(out, dict) else list(out)
    assert all(a is b for a, b in zip(got[2:], others, strict=True))
    assert share(got[0], entries[0]) > 0
    assert share(got[1], entries[1]) > 0


def test_several_arguments_come_back_as_a_tuple(augment):
    image, label = image_of(), 3
    view, same = augment(image, label)
    assert share(view, image) > 0
    assert same is label


def test_of_plain_tensors_only_the_first_is_an_image(augment):
    first, second = as_tensor(photos(1))[0], as_tensor(photos(1))[0]
    out = augment({"a": first, "b": second})
    assert share(out["a"], first) > 0
    assert out["b"] is second
    beside = augment({"tensor": first, "image": image_of()})
    assert beside["tensor"] is first


def test_every_image_of_a_batch_has_a_mask_of_its_own(augment):
    image = image_of()
    batch = tv_tensors.Image(torch.stack([image] * 4))
    view = augment(batch)
    changed = (view != batch).any(1)
    assert not any(torch.equal(changed[0], changed[i]) for i in range(1, 4))


@pytest.mark.parametrize("strategy", ["random", "attention", "attention-keep"])
def test_frames_of_a_video_share_a_mask_and_videos_do_not(model, strategy):
    frames = as_tensor(photos(3, dtype=np.float32))
    frames[1] = 1 - frames[1].flip(-1)
    videos = tv_tensors.Video(frames.expand(2, -1, -1, -1, -1).clone())
    augment = MAEAugment(model=model, mask_ratio=0.5, precision="fp32", p=1, strategy=strategy)
    changed = (augment(videos) != videos).any(2)
    assert torch.equal(changed[0, 0], changed[0, 1])
    assert torch.equal(changed[0, 0], changed[0, 2])
    assert not torch.equal(changed[0, 0], changed[1, 0])


def test_entries_of_a_sample_are_hidden_alike(augment):
    left, right = image_of(), image_of()
    out = augment({"left": left, "right": right})
    assert torch.equal(out["left"] != left, out["right"] != right)


def test_a_batch_equals_its_images(augment):
    batch = image_of(3, dtype=np.float32)
    params = augment.make_params([batch])
    whole = augment.transform(batch, params)
    from maerestore.augment.core import MaskedViews

    draw = augment._views.draw(3, np.random.default_rng(params["seed"]))
    assert isinstance(augment._views, MaskedViews)
    rows = [augment._views.render(batch[i : i + 1].as_subclass(torch.Tensor), draw[i : i + 1]) for i in range(3)]
    assert torch.allclose(whole.as_subclass(torch.Tensor), torch.cat(rows), atol=1e-5)


def test_rows_that_were_not_chosen_are_untouched(model):
    augment = MAEAugment(model=model, p=0.5)
    batch = image_of(8, dtype=np.float32)
    params = augment.make_params([batch])
    params["chosen"] = np.arange(8) % 3 == 0
    changed = (augment.transform(batch, params) != batch).flatten(1).any(1)
    assert changed.tolist() == params["chosen"].tolist()


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (2, 0, 3, 32, 32)])
def test_empty_batches_pass(augment, shape):
    image = tv_tensors.Image(torch.zeros(shape, dtype=torch.uint8))
    assert augment(image).shape == shape


def test_an_image_that_is_left_alone_is_the_same_object(model, no_model):
    augment = MAEAugment(model=model, p=0)
    for image in (image_of(), image_of(3), as_tensor(photos(1))[0], PIL.Image.new("RGB", (9, 9))):
        assert augment(image) is image


def test_the_default_device_of_torch_does_not_matter(augment):
    images = image_of(2)
    torch.manual_seed(1)
    views = augment(images)
    torch.manual_seed(1)
    with torch.device("meta"):  # stands for an accelerator
        assert torch.equal(augment(images), views)


def test_it_is_a_module_without_weights(augment):
    augment(image_of())
    assert dict(augment.state_dict()) == {}
    assert list(augment.parameters()) == []
    assert list(augment.modules()) == [augment]
    augment.to(torch.float16)
    assert augment(image_of()).dtype == torch.uint8
    assert "strategy=random" in repr(augment)


def test_it_composes(model):
    transform = v2.Compose([
        v2.ToImage(), v2.RandomResizedCrop(64), MAEAugment(model=model, p=1), v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([MAEAugment(model=model, p=1)], p=1),
    ])  # fmt: skip
    out, box = transform(
        PIL.Image.fromarray(photos(1)[0]),
        tv_tensors.BoundingBoxes([[1, 2, 30, 40]], format="XYXY", canvas_size=(96, 96)),
    )
    assert type(out) is tv_tensors.Image
    assert (out.shape, out.dtype) == ((3, 64, 64), torch.float32)
    assert type(box) is tv_tensors.BoundingBoxes


def test_a_tensor_that_is_no_image_is_told(augment):
    with pytest.raises(ValueError, match=r"\(\.\.\., C, H, W\)"):
        augment(torch.rand(8, 8))
