import numpy as np
import pytest
import torch

from maerestore.train.validate import Validation


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mean_painter(tiny_model):
    """A model that predicts zero everywhere: the mean of the normalisation."""
    model = tiny_model(mask_embed=True)
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    return model


def test_the_figures_of_a_constant_fill_by_hand(tiny_model, images):
    model = mean_painter(tiny_model)
    validation = Validation(images, batch_size=2)
    figures = validation.measure(model)
    squared = (images - model.mean) ** 2
    for family in ("thin", "medium", "thick", "centre"):
        hole = validation.holes[family].expand(-1, 3, -1, -1) > 0
        errors = [float(squared[i][hole[i]].mean()) for i in range(3)]
        assert figures[f"psnr_{family}"] == pytest.approx(np.mean([-10 * np.log10(e) for e in errors]), abs=1e-3)
    normalised = float(model.normalize(images).square().mean())
    assert figures["masked_mse"] == pytest.approx(normalised, rel=0.2)  # 12 of 16 patches of each


def test_figures_are_finite_and_repeat(tiny_model, images):
    model = tiny_model(mask_embed=True)
    first, second = Validation(images).measure(model), Validation(images).measure(model)
    assert first == second
    assert set(first) == {"psnr_thin", "psnr_medium", "psnr_thick", "psnr_centre", "masked_mse"}
    assert all(np.isfinite(value) for value in first.values())


def test_a_fill_keeps_known_pixels_and_never_sees_unknown_ones(tiny_model, images):
    model = tiny_model()
    hole = torch.zeros(3, 1, 32, 32)
    hole[:, :, 6:20, 9:30] = 1
    with torch.inference_mode():
        filled = Validation.fill(model, images, hole)
        other = Validation.fill(model, torch.where(hole > 0, 1 - images, images), hole)
    known = (hole == 0).expand_as(images)
    assert torch.equal(filled[known], images[known])
    assert torch.equal(filled[~known], other[~known])
    assert not torch.equal(filled[~known], images[~known])
    assert 0 <= float(filled.min()) <= float(filled.max()) <= 1


def test_the_picture_shows_photo_and_every_family_masked_and_filled(tiny_model, images):
    validation = Validation(images)
    sheet = np.asarray(validation.picture(tiny_model(mask_embed=True), rows=2))
    assert sheet.shape == (2 * 32, 9 * 32, 3)
    assert np.array_equal(sheet[:32, :32], (images[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8))
    masked = sheet[:32, 7 * 32 : 8 * 32]  # the centre family
    assert (masked[8:24, 8:24] == 128).all()
    assert np.array_equal(masked[:8], sheet[:8, :32])


def test_more_patches_than_4096_can_be_validated(tiny_model):
    model = tiny_model(patch_size=2, image_size=130, depth=1, embed_dim=8, decoder_embed_dim=8)
    figures = Validation(torch.rand(1, 3, 130, 130)).measure(model)
    assert np.isfinite(figures["masked_mse"])


def test_figures_of_a_model_that_is_shown_noise_repeat(tiny_model, images):
    model = tiny_model(hidden="noise")
    validation = Validation(images)
    first, picture = validation.measure(model), np.asarray(validation.picture(model))
    torch.rand(7)  # the global generator has gone on
    assert first == validation.measure(model)
    assert np.array_equal(picture, np.asarray(validation.picture(model)))


def test_the_masked_mse_is_that_of_the_model_itself(tiny_model, images):
    model = tiny_model(mask_embed=True)
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(1234))
    with torch.inference_mode():
        expected = float(model(model.normalize(images), 0.75, noise).loss)
    assert Validation(images).measure(model)["masked_mse"] == expected


def test_a_last_batch_of_few_photographs_weighs_as_much_as_they_are(tiny_model, images):
    model = tiny_model(mask_embed=True)
    images = torch.cat([images, images[:1] ** 3])
    whole, parts = (Validation(images, batch_size=n).measure(model)["masked_mse"] for n in (4, 3))
    assert parts == pytest.approx(whole, rel=1e-5)
