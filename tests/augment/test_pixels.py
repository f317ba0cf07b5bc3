from __future__ import annotations

import pytest
import torch

from maerestore.augment.pixels import channel_groups, check_images, from_model, hidden_pixels, paste, scaled, to_model

from .hosts import as_tensor, photos


def test_the_default_device_has_no_say():
    with torch.device("meta"):
        assert channel_groups(5, 3).device.type == "cpu"
        assert to_model(torch.zeros(1, 1, 8, 8, device="cpu"), (8, 8), 3).device.type == "cpu"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("per_group", [1, 3])
def test_channels_come_back_from_their_groups_in_order(channels, per_group):
    images = torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(channels))
    grouped = to_model(images, (8, 8), per_group)
    assert grouped.shape == (2 * -(-channels // per_group), per_group, 8, 8)
    assert torch.allclose(from_model(grouped, channels), images, atol=1e-7)


def test_gray_is_shown_to_a_colour_model_three_times_and_averaged():
    assert channel_groups(1, 3).tolist() == [[0, 0, 0]]
    pictures = torch.tensor([0.0, 0.3, 0.9]).view(1, 3, 1, 1)
    assert torch.allclose(from_model(pictures, 1), torch.tensor(0.4))


def test_bytes_and_floats_reach_the_model_alike():
    levels = as_tensor(photos(2, 50, 40))
    of_bytes, of_floats = to_model(levels, (32, 32), 3), to_model(levels.double() / 255, (32, 32), 3)
    assert of_bytes.dtype == of_floats.dtype == torch.float32
    assert (of_bytes - of_floats).abs().max() < 2 / 255  # bytes are rounded after scaling across, and down


def test_a_pixel_belongs_to_the_patch_that_whole_numbers_say():
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]])  # 2 x 3 patches
    hidden = hidden_pixels(mask, (2, 3), (5, 7))[0, 0].int().tolist()
    # rows 0-2 are in patch row 0 (0 * 2 // 5 ... 2 * 2 // 5), columns 0-2, 3-4, 5-6 in the three patch columns
    assert hidden == [[1, 1, 1, 0, 0, 0, 0]] * 3 + [[0, 0, 0, 0, 0, 1, 1]] * 2


def test_images_smaller_than_the_grid_have_pixels_of_some_patches():
    hidden = hidden_pixels(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), (1, 4), (1, 2))
    assert hidden.flatten().tolist() == [False, False]  # patches 0 and 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("blend", [1.0, 0.25])
def test_pasting_changes_hidden_pixels_only(dtype, blend):
    images = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    images = (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    pictures = torch.full((1, 2, 4, 4), 0.6)
    hidden = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hidden[..., 1:3, 2] = True
    out = paste(images, pictures, hidden, blend)
    everywhere = hidden.expand_as(out)
    assert out.dtype == dtype
    assert torch.equal(out[~everywhere], images[~everywhere])
    scale = 255 if dtype == torch.uint8 else 1
    expected = blend * 0.6 * scale + (1 - blend) * images[everywhere].double()
    rounding = {torch.uint8: 0.51, torch.bfloat16: 4e-3, torch.float16: 1e-3}.get(dtype, 1e-6)
    assert (out[everywhere].double() - expected).abs().max() <= rounding


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("photo.png", "tensor .* got str"),
        (torch.zeros(3, 8, 8), r"\(N, C, H, W\), got shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "got dtype int64"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), "got dtype bool"),
        (torch.zeros(1, 3, 8, 0), r"pixels, got shape \(1, 3, 8, 0\)"),
        (torch.zeros(1, 0, 8, 8), "pixels"),
        (torch.zeros(2, 17, 32, 3), r"looks like \(N, H, W, C\): give images.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 224, 224, 1, dtype=torch.uint8), r"\(2, 224, 224, 1\), which looks like"),
        (torch.zeros(2, 17, 5, 4), r"looks like"),
        (torch.full((1, 1, 2, 2), float("nan")), "not finite"),
        (torch.tensor([[[[0.0, float("inf")]]]]), "not finite"),
        (torch.full((1, 1, 2, 2), 2.0), "from 2 to 2: make the view before the images are normalised"),
        (torch.full((1, 1, 2, 2), -0.5), "from -0.5 to -0.5"),
    ],
)
def test_what_is_no_batch_of_images_is_told(images, words):
    with pytest.raises(ValueError, match=words):
        check_images(images)


def test_an_empty_batch_and_a_plain_one_pass():
    check_images(torch.zeros(0, 3, 8, 8))
    check_images(torch.zeros(1, 3, 8, 8))
    check_images(torch.full((1, 1, 2, 2), 7.0), look=False)
    check_images(torch.zeros(1, 16, 32, 3))  # narrow, and of many channels
    check_images(torch.zeros(1, 17, 32, 5))


def test_what_bicubic_scaling_leaves_passes():
    edges = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    scaled = torch.nn.functional.interpolate(edges * edges.mT, (96, 96), mode="bicubic")
    assert scaled.max() > 1.1
    check_images(scaled)
    with pytest.raises(ValueError, match=r"from -0.3 to -0.3"):
        check_images(torch.full((1, 1, 2, 2), -0.3))


def test_bytes_are_scaled_to_a_single_pixel():
    levels = as_tensor(photos(1, 50, 40))
    assert scaled(levels, (1, 1)).dtype == torch.uint8
    assert (scaled(levels, (1, 1)).double() - levels.double().mean((2, 3), keepdim=True)).abs().max() < 12
