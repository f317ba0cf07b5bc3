"""Original, masked, reconstruction, composite: the arrays, and the sheet they are drawn on."""

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.errors import MaerestoreError
from maerestore.show import COLUMNS, draw_grid, fit_image, show_arrays, show_grid


def photo(height=32, width=48, channels=3, seed=0):
    """(H, W, C) uint8 of random values."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def patch_shares(hidden, p=8):
    """(rows, columns): the share of each patch that is hidden."""
    height, width = hidden.shape
    return hidden.reshape(height // p, p, width // p, p).mean((1, 3))


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_four_pictures_fit_each_other(tiny_model, channels):
    statistics = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    model = tiny_model(in_chans=channels, **statistics)
    (row,) = show_arrays(model, photo(), mask_ratios=(0.5,))
    assert row.hidden.shape == (32, 48)
    hidden = np.repeat(row.hidden[..., None], channels, axis=2)
    for name in COLUMNS:
        array = getattr(row, name)
        assert array.shape == (32, 48, channels)
        assert array.dtype == np.float32
        assert array.min() >= 0
        assert array.max() <= 1
    assert np.array_equal(row.masked[~hidden], row.original[~hidden])
    assert np.all(row.masked[hidden] == 0.5)
    assert np.array_equal(row.composite[~hidden], row.original[~hidden])
    assert np.array_equal(row.composite[hidden], row.reconstruction[hidden])
    truth = photo().astype(np.float32) / 255
    np.testing.assert_allclose(row.original, truth if channels == 3 else truth.mean(2, keepdims=True), atol=1e-6)
    shares = patch_shares(row.hidden)
    assert set(shares.flatten().tolist()) == {0.0, 1.0}
    assert shares.sum() == 12


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_reconstruction_is_the_models(tiny_model, norm_pix_loss):
    model = tiny_model(norm_pix_loss=norm_pix_loss)
    (row,) = show_arrays(model, photo())
    images = model.normalize(torch.from_numpy(row.original).permute(2, 0, 1)[None])
    mask = torch.from_numpy(patch_shares(row.hidden)).float().reshape(1, -1)
    with torch.no_grad():
        expected = model.denormalize(model.reconstruct(images, mask=mask)).clamp(0, 1)[0].permute(1, 2, 0)
    np.testing.assert_allclose(row.reconstruction, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("mask_embed", [False, True])
def test_what_is_hidden_does_not_reach_the_model(tiny_model, mask_embed):
    model, first, second = tiny_model(mask_embed=mask_embed), photo(), photo(seed=1)
    mask = np.zeros((32, 48), bool)
    mask[3:21, 5:30] = True
    for settings in ({"mask": mask}, {"policy": "random"}, {"policy": "block"}):
        hidden = show_arrays(model, first, **settings)[0].hidden
        mixed = np.where(hidden[..., None], second, first)
        one, other = show_arrays(model, first, **settings)[0], show_arrays(model, mixed, **settings)[0]
        assert not np.array_equal(one.original, other.original)
        np.testing.assert_allclose(one.reconstruction, other.reconstruction, atol=1e-6)


def test_a_row_for_each_ratio_and_seed(tiny_model):
    rows = show_arrays(tiny_model(), photo(), mask_ratios=(0.25, 0.75), seeds=(0, 3, 0))
    assert [row.label for row in rows] == [
        ("25 % hidden", "seed 0"), ("25 % hidden", "seed 3"), ("75 % hidden", "seed 0"), ("75 % hidden", "seed 3"),
    ]  # fmt: skip
    assert [float(row.hidden.mean()) for row in rows] == [0.25, 0.25, 0.75, 0.75]
    assert not np.array_equal(rows[0].hidden, rows[1].hidden)
    again = show_arrays(tiny_model(), photo(), mask_ratios=(0.25,), seeds=(3,))[0]
    assert np.array_equal(again.composite, rows[1].composite)


@pytest.mark.parametrize("mask", [None, np.arange(48) < np.full((32, 1), 20)])
def test_noise_in_hidden_patches_is_the_same_each_time(tiny_model, mask):
    before = torch.get_rng_state()
    one, other = (show_arrays(tiny_model(hidden="noise"), photo(), mask=mask)[0] for _ in range(2))
    assert np.array_equal(one.reconstruction, other.reconstruction)
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_hides_what_the_class_token_looks_at(tiny_model):
    model = tiny_model()
    high, low = (show_arrays(model, photo(), policy=policy)[0] for policy in ("attention", "attention-keep"))
    images = model.normalize(torch.from_numpy(high.original).permute(2, 0, 1)[None])
    with torch.no_grad():
        responses = model.responses(images)[0].numpy()
    kept = [responses[patch_shares(row.hidden).flatten() == 0].mean() for row in (high, low)]
    assert kept[0] < responses.mean() < kept[1]
    assert low.label == ("75 % hidden", "seed 0", "attention", "keep")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_and_everything_can_be_hidden(tiny_model, ratio):
    (row,) = show_arrays(tiny_model(), photo(), mask_ratios=(ratio,))
    assert np.all(row.hidden == bool(ratio))
    assert np.array_equal(row.composite, row.reconstruction if ratio else row.original)


def test_a_mask_is_taken_as_it_is_where_the_model_knows_partial_patches(tiny_model):
    mask = np.zeros((32, 48), bool)
    mask[3:12, 5:30] = True
    (row,) = show_arrays(tiny_model(mask_embed=True), photo(), mask_ratios=(0.1, 0.2), mask=mask)
    assert np.array_equal(row.hidden, mask)
    assert row.label == ("mask", f"{100 * mask.mean():.0f} % hidden")


def test_without_mask_embed_every_patch_that_the_mask_touches_is_hidden(tiny_model):
    mask = np.zeros((32, 48), bool)
    mask[7:9, 20] = True
    (row,) = show_arrays(tiny_model(), photo(), mask=mask)
    expected = np.zeros((4, 6))
    expected[0:2, 2] = 1
    assert np.array_equal(patch_shares(row.hidden), expected)


def test_a_mask_is_scaled_and_cut_with_the_photo(tiny_model):
    mask = np.zeros((70, 130), bool)
    mask[:35] = True
    (row,) = show_arrays(tiny_model(mask_embed=True), photo(70, 130), mask=mask)
    assert row.hidden.shape == (32, 56)
    assert row.hidden[:16].all()
    assert not row.hidden[16:].any()
    line = np.zeros((320, 320), bool)
    line[100] = True  # a tenth of a pixel of the model
    assert show_arrays(tiny_model(mask_embed=True), photo(320, 320), mask=line)[0].hidden.sum() == 32


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((32, 48), None, (32, 48)), ((64, 100), None, (32, 48)), ((100, 64), None, (48, 32)), ((9, 9), None, (32, 32)),
     ((64, 64), 20, (16, 16)), ((33, 40), 64, (64, 72)), ((8, 8), 8, (8, 8))],
)  # fmt: skip
def test_the_short_side_is_scaled_and_both_cut_to_whole_patches(tiny_model, shape, size, expected):
    fitted = fit_image(torch.rand(*shape, 3), tiny_model().config, size)
    assert tuple(fitted.shape) == (1, 3, *expected)
    assert float(fitted.min()) >= 0
    assert float(fitted.max()) <= 1


def test_what_is_cut_is_cut_evenly(tiny_model):
    image = torch.zeros(32, 44, 3)
    image[:, 2:42] = 1
    assert float(fit_image(image, tiny_model().config).min()) == 1
    assert float(fit_image(image.transpose(0, 1), tiny_model().config).min()) == 1


def test_a_photo_is_scaled_without_moving_or_aliasing(tiny_model):
    ramp = torch.linspace(0, 1, 320).expand(320, 320)
    noise = torch.rand(320, 320, generator=torch.Generator().manual_seed(0))
    fitted = fit_image(torch.stack([ramp, noise, ramp.T], dim=2), tiny_model().config)[0]
    assert float((fitted[0] - torch.linspace(0, 1, 32)).abs().max()) < 0.02
    assert float(fitted[1].std()) < 0.06  # the mean of 100 pixels; single ones deviate by 0.29


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [((32, 32), 7, "size 7 is smaller than a patch .* at least 8"), ((32, 32), -1, "size -1 is smaller"),
     ((2, 9000), None, "18000 patches, more than 16384"), ((64, 64), 2000, "250 x 250 patches")],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_named(tiny_model, shape, size, message):
    with pytest.raises(MaerestoreError, match=message):
        show_arrays(tiny_model(), photo(*shape), size=size)


# --- kinds of images --------------------------------------------------------------------------------------------------


def test_every_kind_of_image_is_taken(tiny_model):
    model, array = tiny_model(), photo()
    expected = show_arrays(model, array)[0].composite
    for image in (
        Image.fromarray(array), Image.fromarray(array).convert("RGBA"), array.astype(np.uint16) * 257,
        array.astype(np.float32) / 255, torch.from_numpy(array).permute(2, 0, 1),
    ):  # fmt: skip
        np.testing.assert_allclose(show_arrays(model, image)[0].composite, expected, atol=1e-5)
    gray = show_arrays(model, array[..., 0])[0].original
    assert np.array_equal(gray[..., 0], gray[..., 2])


def test_what_cannot_be_shown_is_named(tiny_model):
    with pytest.raises(MaerestoreError, match="encoder only"):
        show_arrays(tiny_model(decoder_depth=0), photo())
    with pytest.raises(MaerestoreError, match="got str"):
        show_arrays(tiny_model(), "photo.png")
    with pytest.raises(MaerestoreError, match="mask is 10x10, the image 48x32"):
        show_arrays(tiny_model(), photo(), mask=np.zeros((10, 10), bool))
    with pytest.raises(ValueError, match="unknown masking policy 'stripes'"):
        show_arrays(tiny_model(), photo(), policy="stripes")
    with pytest.raises(ValueError, match=r"mask_ratio must lie in \[0, 1\], got 1.5"):
        show_arrays(tiny_model(), photo(), mask_ratios=(1.5,))


# --- the sheet --------------------------------------------------------------------------------------------------------


def panels(sheet, rows, height, width):
    """The pictures on a sheet, found by their size: {(row, column): (H, W, 3)}, and where the first one starts."""
    array = np.asarray(sheet)
    left, top = sheet.width - 4 * (width + 8), 8 + 20 + 4
    return {
        (i, j): array[top + i * (height + 8) :, left + j * (width + 8) :][:height, :width]
        for i in range(rows)
        for j in range(4)
    }, (top, left)


def test_the_pictures_stand_side_by_side_in_the_order_of_the_labels(tiny_model):
    model = tiny_model()
    rows = show_arrays(model, photo(), mask_ratios=(0.5, 0.75))
    sheet = show_grid(model, photo(), mask_ratios=(0.5, 0.75))
    assert sheet.mode == "RGB"
    found, _ = panels(sheet, 2, 32 * 7, 48 * 7)
    for i, row in enumerate(rows):
        for j, name in enumerate(COLUMNS):
            expected = (getattr(row, name) * 255 + 0.5).astype(np.uint8).repeat(7, 0).repeat(7, 1)
            assert np.array_equal(found[i, j], expected), (i, name)


@pytest.mark.parametrize(("side", "factor"), [(28, 8), (32, 7), (128, 2), (224, 1), (512, 1)])
def test_small_pictures_are_enlarged_by_a_whole_factor(tiny_model, side, factor):
    model = tiny_model(image_size=side, patch_size=side // 4, embed_dim=8, decoder_embed_dim=8)
    sheet = show_grid(model, photo(side, side))
    assert sheet.height == 8 + 20 + 4 + side * factor + 8
    found, _ = panels(sheet, 1, side * factor, side * factor)
    assert np.array_equal(found[0, 0], photo(side, side).repeat(factor, 0).repeat(factor, 1))


def test_columns_and_rows_are_labelled_and_nothing_is_cut_off(tiny_model):
    sheet = show_grid(tiny_model(), photo(), mask_ratios=(0.125,), seeds=(123456789,), policy="attention-keep")
    array = np.asarray(sheet).astype(int)
    _, (top, left) = panels(sheet, 1, 224, 336)
    dark = array.sum(2) < 384
    for column in range(4):
        start = left + column * (336 + 8)
        text = dark[:top, start : start + 336]
        assert text.sum() > 50
        assert not text[:2].any()
    gutter = dark[top:-8, :left]
    assert gutter.sum() > 200
    assert not gutter[:, :4].any()  # the longest label ends before the border
    assert not gutter[:, -4:].any()  # and before the picture


def test_a_model_of_normalised_pixels_gets_a_note(tiny_model):
    with_note = show_grid(tiny_model(norm_pix_loss=True), photo())
    without = show_grid(tiny_model(), photo())
    assert with_note.width == without.width
    assert with_note.height > without.height
    strip = np.asarray(with_note)[without.height :].astype(int)
    assert (strip.sum(2) < 384).sum() > 100
    assert not (np.asarray(with_note)[-3:] < 255).any()


def test_gray_pictures_are_drawn_gray(tiny_model):
    model = tiny_model(in_chans=1, mean=(0.5,), std=(0.25,))
    array = np.asarray(draw_grid(show_arrays(model, photo()))).astype(int)
    assert np.array_equal(array[..., 0], array[..., 2])
