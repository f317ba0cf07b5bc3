import json

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.train.crops import centre_boxes, cut
from maerestore.train.packing import DataError, held_out, pack
from maerestore.train.resident import ResidentCorpus

from .conftest import file_names, gradient

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pack_images(tmp_path, images, short_side=40):
    source = tmp_path / "photos"
    source.mkdir()
    for name, image in zip(file_names(len(images), False), images, strict=True):
        image.save(source / name)
    pack([source], tmp_path / "packed", short_side)
    photos = ResidentCorpus.from_packed(tmp_path / "packed", CPU)
    names = json.loads((tmp_path / "packed/index.json").read_text())["names"]
    order = [names.index(name) for name in file_names(len(images), False)]
    return photos, torch.tensor(order)


def crops(photos, ids, out, boxes, flip):
    return cut(photos.pixels[ids], photos.sizes[ids], boxes, flip, out)


def centre_crops(photos, ids, out):
    return crops(photos, ids, out, centre_boxes(photos.sizes[ids]), torch.zeros(len(ids), dtype=torch.bool))


def random_crops(photos, count, out, scale, generator):
    return photos.random_crops(count, slice(0, count), out, scale, generator)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


# --- photographs ----------------------------------------------------------------------------------------------------


def test_held_out_photos_are_never_trained_on(packed):
    photos = ResidentCorpus.from_packed(packed, CPU)
    names = json.loads((packed / "index.json").read_text())["names"]
    assert len(photos.train_ids) == 14
    assert [held_out(names[i]) for i in photos.held_ids] == [True] * 3
    assert sorted([*photos.train_ids.tolist(), *photos.held_ids.tolist()]) == list(range(17))


def test_a_folder_that_was_not_packed_is_refused(tmp_path):
    with pytest.raises(DataError, match="prepare_data"):
        ResidentCorpus.from_packed(tmp_path, CPU)


def test_centre_crops_are_upright_for_portraits_and_landscapes(tmp_path):
    portrait, landscape, square = gradient(40, 56, 1), gradient(56, 40, 2), gradient(40, 40, 3)
    photos, ids = pack_images(tmp_path, [portrait, landscape, square])
    crops = centre_crops(photos, ids, 40)
    expected = [portrait.crop((0, 8, 40, 48)), landscape.crop((8, 0, 48, 40)), square]
    for crop, image in zip(crops, expected, strict=True):
        torch.testing.assert_close(crop, as_tensor(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("out", [16, 20, 32])
def test_crops_are_scaled_like_a_direct_resize(tmp_path, out):
    portrait = gradient(40, 56, 1)
    photos, ids = pack_images(tmp_path, [portrait])
    expected = portrait.crop((0, 8, 40, 48)).resize((out, out), Image.Resampling.BOX)
    torch.testing.assert_close(centre_crops(photos, ids, out)[0], as_tensor(expected), atol=0.02, rtol=0)


def test_shrinking_averages_fine_detail_away(tmp_path):
    """Independent pixels of deviation 0.29: the mean of 16 has 0.07, bilinear sampling alone would leave 0.15."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    photos, ids = pack_images(tmp_path, [Image.fromarray(noise)])
    assert float(centre_crops(photos, ids, 10).std()) < 0.1


def test_a_box_cuts_the_pixels_it_names(tmp_path):
    landscape = gradient(56, 40, 2)
    photos, ids = pack_images(tmp_path, [landscape])
    crop = crops(photos, ids, 16, torch.tensor([[4.0, 30.0, 16.0, 16.0]]), torch.tensor([False]))
    # 40 / 16 is sampled twice finer than needed, then averaged
    torch.testing.assert_close(crop[0], as_tensor(landscape.crop((30, 4, 46, 20))), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(56, 40), (40, 56)])
def test_a_flip_mirrors_left_and_right(tmp_path, size):
    photos, ids = pack_images(tmp_path, [gradient(*size)])
    box = torch.tensor([[3.0, 5.0, 30.0, 32.0]])
    plain, flipped = (crops(photos, ids, 20, box, torch.tensor([flip])) for flip in (False, True))
    assert torch.equal(flipped, plain.flip(3))
    assert not torch.allclose(plain, plain.flip(3), atol=0.01)


def test_random_crops_repeat_with_the_seed_and_look_like_pictures(packed):
    photos = ResidentCorpus.from_packed(packed, CPU)
    first = random_crops(photos, 6, 16, (0.25, 1.0), generator(1))
    assert first.shape == (6, 3, 16, 16)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, random_crops(photos, 6, 16, (0.25, 1.0), generator(1)))
    assert not torch.equal(first, random_crops(photos, 6, 16, (0.25, 1.0), generator(2)))


def white(width, height):
    return Image.new("RGB", (width, height), "white")


def test_random_crops_show_training_photos_only(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for name in file_names(3, False):
        white(60, 40).save(source / name)
    for name in file_names(3, True):
        Image.new("RGB", (60, 40), "black").save(source / name)
    pack([source], tmp_path / "packed", 40)
    photos = ResidentCorpus.from_packed(tmp_path / "packed", CPU)
    assert float(random_crops(photos, 32, 16, (0.8, 1.0), generator()).min()) > 0.999
    assert float(photos.centre_crops(8, 16).max()) == 0


def test_shrunk_random_crops_stay_inside_the_photo(tmp_path):
    photos, _ = pack_images(tmp_path, [white(40, 40), white(44, 40), white(40, 50)])
    assert float(random_crops(photos, 64, 16, (0.8, 1.0), generator()).min()) > 0.999


def test_enlarged_crops_do_not_mix_in_the_padding_of_the_canvas(tmp_path):
    photos, ids = pack_images(tmp_path, [white(40, 40), white(40, 50)])
    boxes = torch.tensor([[20.0, 20.0, 20.0, 20.0], [20.0, 30.0, 20.0, 20.0]])
    assert float(crops(photos, ids, 40, boxes, torch.zeros(2, dtype=torch.bool)).min()) > 0.999
