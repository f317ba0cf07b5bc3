"""What stands in hidden patches of models that see them all."""

import pytest
import torch

from maerestore.model.hiding import replace_hidden


def areas(mask, size=8):
    grid = int(mask.shape[1] ** 0.5)
    return mask.reshape(-1, 1, grid, grid).repeat_interleave(size, 2).repeat_interleave(size, 3) > 0


def half(n=2):
    mask = torch.zeros(n, 16)
    mask[:, ::3] = 1
    mask[0, 5] = 1
    return mask


def test_the_mean_is_that_of_the_visible_pixels(noise_images):
    images, mask = noise_images(2) + 1, half()
    seen, area = replace_hidden(images, mask, "mean"), areas(half())
    for i in range(2):
        for channel in range(3):
            hidden = area[i, 0]
            expected = images[i, channel][~hidden].mean()
            torch.testing.assert_close(seen[i, channel][hidden], expected.expand(int(hidden.sum())))
            assert torch.equal(seen[i, channel][~hidden], images[i, channel][~hidden])


@pytest.mark.parametrize("hidden", ["noise", "mean"])
def test_what_is_no_number_in_a_hidden_patch_stays_there(tiny_model, noise_images, hidden):
    model, images, mask = tiny_model(hidden=hidden), noise_images(2), half()
    broken = torch.where(areas(mask), float("nan"), images)
    with torch.no_grad():
        pictures = [
            model.reconstruct(each, mask=mask, hidden_noise=noise_images(2, seed=9)) for each in (images, broken)
        ]
    assert torch.equal(*pictures)


def test_the_mean_keeps_the_data_type_and_is_not_summed_in_it():
    images = torch.full((1, 3, 512, 512), 2.0, dtype=torch.float16)  # their sum is far beyond 65,504
    seen = replace_hidden(images, half(1), "mean")
    assert seen.dtype == torch.float16
    assert torch.equal(seen, images)


def test_noise_is_the_one_given_or_normal(noise_images):
    images, mask, noise = noise_images(2), half(), noise_images(2, seed=9)
    area = areas(mask).expand_as(images)
    assert torch.equal(replace_hidden(images, mask, "noise", noise), torch.where(area, noise, images))
    drawn = replace_hidden(torch.full((2, 3, 32, 32), 7.0), mask, "noise")
    assert float(drawn[area].std()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("hidden", ["noise", "mean"])
def test_the_encoder_sees_every_patch_and_never_what_is_hidden(tiny_model, noise_images, hidden):
    model, images, mask = tiny_model(hidden=hidden), noise_images(2), half()
    other = torch.where(areas(mask).expand_as(images), torch.tensor(5.0), images)
    given = {"mask": mask, "hidden_noise": noise_images(2, seed=9)}
    with torch.no_grad():
        latent, returned, ids_restore, key_mask = model.encode(images, **given)
        changed = model.encode(other, **given)[0]
        plain = model.encode(images)[0]
    assert latent.shape == (2, 17, 32)
    assert key_mask is None
    assert torch.equal(returned, mask)
    assert torch.equal(ids_restore, torch.arange(16).expand(2, -1))
    assert torch.equal(latent, changed)
    assert not torch.allclose(latent, plain, atol=1e-3)


@pytest.mark.parametrize("hidden", ["noise", "mean"])
def test_loss_and_reconstruction_use_the_same_convention(tiny_model, noise_images, hidden):
    model, images = tiny_model(hidden=hidden), noise_images(2)
    order = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.manual_seed(3)
        out = model(images, mask_ratio=0.75, noise=order)
        torch.manual_seed(3)
        picture = model.reconstruct(images, mask=out.mask)
    assert out.mask.sum(1).tolist() == [12, 12]
    torch.testing.assert_close(model.patchify(picture), out.pred)


def test_it_does_not_go_with_pixel_masks(tiny_model):
    with pytest.raises(ValueError, match="mask_embed"):
        tiny_model(hidden="mean", mask_embed=True)
    with pytest.raises(ValueError, match="hidden"):
        tiny_model(hidden="black")


def test_transformers_has_no_place_for_it(tiny_model, tmp_path):
    from maerestore.hub.errors import ModelError
    from maerestore.hub.export import export_transformers

    with pytest.raises(ModelError, match="mean"):
        export_transformers(tiny_model(hidden="mean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
