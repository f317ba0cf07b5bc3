import json

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.masking import rim
from maerestore.train.data import MaskBank, PackedPhotos
from maerestore.train.packing import DataError, held_out, pack

from .conftest import file_names, gradient

CPU = torch.device("cpu")
MIX = {"strokes": 1.0, "boxes": 1.0, "blobs": 1.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pack_images(tmp_path, images, short_side=40):
    source = tmp_path / "photos"
    source.mkdir()
    for name, image in zip(file_names(len(images), False), images, strict=True):
        image.save(source / name)
    pack([source], tmp_path / "packed", short_side)
    photos = PackedPhotos(tmp_path / "packed", CPU)
    names = json.loads((tmp_path / "packed/index.json").read_text())["names"]
    order = [names.index(name) for name in file_names(len(images), False)]
    return photos, torch.tensor(order)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


# --- photographs ----------------------------------------------------------------------------------------------------


def test_held_out_photos_are_never_trained_on(packed):
    photos = PackedPhotos(packed, CPU)
    names = json.loads((packed / "index.json").read_text())["names"]
    assert len(photos.train_ids) == 14
    assert [held_out(names[i]) for i in photos.held_ids] == [True] * 3
    assert sorted([*photos.train_ids.tolist(), *photos.held_ids.tolist()]) == list(range(17))


def test_a_folder_that_was_not_packed_is_refused(tmp_path):
    with pytest.raises(DataError, match="prepare_data"):
        PackedPhotos(tmp_path, CPU)


def test_centre_crops_are_upright_for_portraits_and_landscapes(tmp_path):
    portrait, landscape, square = gradient(40, 56, 1), gradient(56, 40, 2), gradient(40, 40, 3)
    photos, ids = pack_images(tmp_path, [portrait, landscape, square])
    crops = photos.centre_crops(ids, 40)
    expected = [portrait.crop((0, 8, 40, 48)), landscape.crop((8, 0, 48, 40)), square]
    for crop, image in zip(crops, expected, strict=True):
        torch.testing.assert_close(crop, as_tensor(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("out", [16, 20, 32])
def test_crops_are_scaled_like_a_direct_resize(tmp_path, out):
    portrait = gradient(40, 56, 1)
    photos, ids = pack_images(tmp_path, [portrait])
    expected = portrait.crop((0, 8, 40, 48)).resize((out, out), Image.Resampling.BOX)
    torch.testing.assert_close(photos.centre_crops(ids, out)[0], as_tensor(expected), atol=0.02, rtol=0)


def test_shrinking_averages_fine_detail_away(tmp_path):
    """Independent pixels of deviation 0.29: the mean of 16 has 0.07, bilinear sampling alone would leave 0.15."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    photos, ids = pack_images(tmp_path, [Image.fromarray(noise)])
    assert float(photos.centre_crops(ids, 10).std()) < 0.1


def test_a_box_cuts_the_pixels_it_names(tmp_path):
    landscape = gradient(56, 40, 2)
    photos, ids = pack_images(tmp_path, [landscape])
    crop = photos.crops(ids, 16, torch.tensor([[4.0, 30.0, 16.0, 16.0]]), torch.tensor([False]))
    # 40 / 16 is sampled twice finer than needed, then averaged
    torch.testing.assert_close(crop[0], as_tensor(landscape.crop((30, 4, 46, 20))), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(56, 40), (40, 56)])
def test_a_flip_mirrors_left_and_right(tmp_path, size):
    photos, ids = pack_images(tmp_path, [gradient(*size)])
    box = torch.tensor([[3.0, 5.0, 30.0, 32.0]])
    plain, flipped = (photos.crops(ids, 20, box, torch.tensor([flip])) for flip in (False, True))
    assert torch.equal(flipped, plain.flip(3))
    assert not torch.allclose(plain, plain.flip(3), atol=0.01)


def test_random_crops_repeat_with_the_seed_and_look_like_pictures(packed):
    photos = PackedPhotos(packed, CPU)
    first = photos.random_crops(6, 16, (0.25, 1.0), generator(1))
    assert first.shape == (6, 3, 16, 16)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, photos.random_crops(6, 16, (0.25, 1.0), generator(1)))
    assert not torch.equal(first, photos.random_crops(6, 16, (0.25, 1.0), generator(2)))


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
    photos = PackedPhotos(tmp_path / "packed", CPU)
    assert float(photos.random_crops(32, 16, (0.8, 1.0), generator()).min()) > 0.999
    assert float(photos.centre_crops(photos.held_ids, 16).max()) == 0


def test_shrunk_random_crops_stay_inside_the_photo(tmp_path):
    photos, _ = pack_images(tmp_path, [white(40, 40), white(44, 40), white(40, 50)])
    assert float(photos.random_crops(64, 16, (0.8, 1.0), generator()).min()) > 0.999


def test_enlarged_crops_do_not_mix_in_the_padding_of_the_canvas(tmp_path):
    photos, ids = pack_images(tmp_path, [white(40, 40), white(40, 50)])
    boxes = torch.tensor([[20.0, 20.0, 20.0, 20.0], [20.0, 30.0, 20.0, 20.0]])
    assert float(photos.crops(ids, 40, boxes, torch.zeros(2, dtype=torch.bool)).min()) > 0.999


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank():
    return MaskBank(48, 8, MIX, 64, rim_width=2, rim_weight=0.25, seed=0, device=CPU)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9])
def test_random_patches_keep_the_same_number_in_every_row(bank, ratio):
    batch = bank.random_patches(5, ratio, generator())
    assert batch.num_visible == int(36 * (1 - ratio))
    assert batch.mask.sum(1).tolist() == [36 - batch.num_visible] * 5
    assert batch.pixel_mask is None
    assert batch.pixel_weight is None
    if ratio > 0:
        assert len({tuple(row.tolist()) for row in batch.mask}) > 1


@pytest.mark.parametrize("drop", [0.0, 0.4])
@pytest.mark.parametrize("bucket", range(MaskBank.BUCKETS))
def test_free_form_rows_keep_the_same_number_and_never_a_hole_patch(bank, bucket, drop):
    batch = bank.free_form(6, generator(bucket), bucket, drop)
    assert batch.num_visible >= 1
    assert batch.mask.sum(1).tolist() == [36 - batch.num_visible] * 6
    hole = batch.pixel_mask.reshape(6, 6, 8, 6, 8).amin((2, 4)).flatten(1)  # 1 where every pixel is unknown
    assert not ((hole == 1) & (batch.mask == 0)).any()
    assert batch.pixel_mask.shape == (6, 1, 48, 48)
    assert set(batch.pixel_mask.unique().tolist()) == {0.0, 1.0}


def test_drop_removes_a_share_of_the_visible_patches(bank):
    for bucket in range(MaskBank.BUCKETS):
        plain = bank.free_form(4, generator(), bucket).num_visible
        assert bank.free_form(4, generator(), bucket, 0.5).num_visible == max(1, int(plain * 0.5))


def test_the_first_bucket_hides_most(bank):
    kept = [bank.free_form(2, generator(), bucket).num_visible for bucket in range(MaskBank.BUCKETS)]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


def test_without_drop_a_full_row_of_its_bucket_loses_only_hole_patches(bank):
    """The hole that hides most of a bucket sets what the others keep: at least one row of many is exact."""
    batch = bank.free_form(64, generator(3), 2)
    unseen = batch.mask.sum(1)
    wholly_unknown = batch.pixel_mask.reshape(64, 6, 8, 6, 8).amin((2, 4)).sum((1, 2))
    assert bool((wholly_unknown <= unseen).all())
    assert bool((wholly_unknown == unseen).any())


def test_pixel_weight_is_one_where_hidden_and_the_rim_weight_around_a_hole(bank):
    batch = bank.free_form(6, generator(4), 5, drop=0.3)
    removed = batch.mask.reshape(6, 1, 6, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    hidden = torch.maximum(removed, batch.pixel_mask)
    for row in range(6):
        hole = batch.pixel_mask[row, 0].numpy().astype(np.uint8)
        # OpenCV's small ellipses are not the same both ways, and the bank turns holes together with their rims
        borders = [torch.from_numpy(border).float() for border in (rim(hole, 2), rim(hole.T.copy(), 2).T.copy())]
        expected = [torch.where(hidden[row, 0] > 0, 1.0, 0.25 * border) for border in borders]
        assert any(torch.equal(batch.pixel_weight[row, 0], one) for one in expected)
    assert set(batch.pixel_weight.unique().tolist()) == {0.0, 0.25, 1.0}


def test_mask_batches_repeat_with_the_seed_and_differ_between_rows(bank):
    first, second = bank.free_form(8, generator(6), 4, 0.2), bank.free_form(8, generator(6), 4, 0.2)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.pixel_mask, second.pixel_mask)
    assert len({row.numpy().tobytes() for row in first.pixel_mask}) > 3


def test_holes_are_turned_and_mirrored():
    """One hole in the bank shows up in all eight positions."""
    single = MaskBank(48, 8, {"thick": 1.0}, 8, 2, 0.25, seed=1, device=CPU)
    shown = single.free_form(64, generator(), 0).pixel_mask
    assert len({row.numpy().tobytes() for row in shown}) == 8


def test_fewer_holes_than_buckets_still_work():
    small = MaskBank(32, 8, MIX, 4, 2, 0.25, seed=1, device=CPU)
    for bucket in range(MaskBank.BUCKETS):
        assert small.free_form(2, generator(), bucket).num_visible >= 1
