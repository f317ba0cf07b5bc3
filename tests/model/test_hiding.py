"""What is hidden from the encoder stays hidden, and everything else gets there."""

import re

import pytest
import torch


def random_mask(counts, length=16, seed=0):
    """(len(counts), length): row i removes counts[i] random patches."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(counts), length)
    for row, count in zip(mask, counts, strict=True):
        row[torch.randperm(length, generator=generator)[:count]] = 1
    return mask


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 0.75, 0.9, 0.99])
def test_the_patches_with_the_lowest_noise_are_kept(tiny_model, noise_images, ratio):
    model = tiny_model()
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        out = model(noise_images(2), mask_ratio=ratio, noise=noise)
    keep = int(16 * (1 - ratio))
    for row in range(2):
        lowest = set(noise[row].argsort()[:keep].tolist())
        assert set(torch.nonzero(out.mask[row] == 0).flatten().tolist()) == lowest
    assert out.latent.shape[1] == 1 + keep
    assert out.mask.dtype == torch.float32
    assert out.ids_restore.dtype == torch.int64


def test_latent_holds_the_visible_patches_in_shuffled_order(tiny_model, noise_images):
    """Kept tokens come in the order of their noise: permuting the noise of the kept permutes the latent."""
    model, images = tiny_model(), noise_images(1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    noise = torch.empty(1, 16)
    noise[0, order] = torch.arange(16.0)
    with torch.no_grad():
        shuffled = model.encode(images, 0.0, noise)
        raster = model.encode(images, 0.0, torch.arange(16.0)[None])
    torch.testing.assert_close(shuffled[0][:, 1:], raster[0][:, 1:][:, order], atol=1e-5, rtol=1e-5)
    restored = shuffled[0][:, 1:].gather(1, shuffled[2][:, :, None].expand(-1, -1, 32))
    torch.testing.assert_close(restored, raster[0][:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(tiny_model, noise_images, ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        tiny_model()(noise_images(1), mask_ratio=ratio)


def test_rows_that_remove_different_numbers_equal_rows_run_alone(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(5)
    mask = random_mask([3, 12, 0, 16, 9])
    with torch.no_grad():
        together = model(images, mask=mask)
        for i in range(5):
            alone = model(images[i : i + 1], mask=mask[i : i + 1])
            torch.testing.assert_close(together.pred[i], alone.pred[0], atol=1e-5, rtol=1e-5)
            count = alone.latent.shape[1]
            assert count == 1 + int(16 - mask[i].sum())
            torch.testing.assert_close(together.latent[i, :count], alone.latent[0], atol=1e-5, rtol=1e-5)


def test_key_mask_is_none_where_rows_keep_equally_many(tiny_model, noise_images):
    model = tiny_model()
    with torch.no_grad():
        assert model.encode(noise_images(2), mask=random_mask([5, 5]))[3] is None
        key_mask = model.encode(noise_images(2), mask=random_mask([5, 7]))[3]
    assert key_mask.shape == (2, 1, 1, 12)
    assert key_mask.sum((1, 2, 3)).tolist() == [12, 10]


def test_num_visible_shortcut_equals_the_general_path(tiny_model, noise_images):
    model, images, mask = tiny_model(), noise_images(3), random_mask([10, 10, 10])
    with torch.no_grad():
        general, shortcut = model(images, mask=mask), model(images, mask=mask, num_visible=6)
    assert torch.equal(general.pred, shortcut.pred)
    assert torch.equal(general.latent, shortcut.latent)
    assert torch.equal(general.ids_restore, shortcut.ids_restore)


def test_noise_and_the_mask_it_makes_predict_the_same(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        drawn = model(images, mask_ratio=0.6, noise=noise)
        given = model(images, mask=drawn.mask)
    torch.testing.assert_close(drawn.pred, given.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn.loss, given.loss, atol=1e-5, rtol=1e-5)


def test_a_boolean_mask_is_taken_like_a_float_one(tiny_model, noise_images):
    model, images, mask = tiny_model(), noise_images(2), random_mask([4, 9])
    with torch.no_grad():
        assert torch.equal(model(images, mask=mask.bool()).pred, model(images, mask=mask).pred)


def test_pixels_of_removed_patches_never_influence_the_prediction(tiny_model, noise_images):
    model, images, mask = tiny_model(), noise_images(2), random_mask([6, 11])
    removed = model.unpatchify(mask[:, :, None].expand(-1, -1, 192), (32, 32)).bool()
    with torch.no_grad():
        before = model(images, mask=mask).pred
        hidden_changed = model(torch.where(removed, 1e3, images), mask=mask).pred
        hidden_broken = model.reconstruct(torch.where(removed, float("nan"), images), mask=mask)
        visible_changed = model(torch.where(removed, images, images + 1), mask=mask).pred
    assert torch.equal(before, hidden_changed)
    assert torch.equal(before, model.patchify(hidden_broken))
    assert not torch.allclose(before, visible_changed, atol=1e-3)


@pytest.mark.parametrize("name", ["mask", "noise"])
@pytest.mark.parametrize("shape", [(2, 9), (2, 25), (1, 16), (2, 4, 4)])
def test_masks_and_noise_for_other_patches_are_refused(tiny_model, noise_images, name, shape):
    with pytest.raises(ValueError, match=rf"{name} must be \(N, L\), here \(2, 16\), got {re.escape(str(shape))}"):
        tiny_model().encode(noise_images(2), 0.5, **{name: torch.zeros(shape)})
    if name == "mask":
        with pytest.raises(ValueError, match="mask must be"):
            tiny_model()(noise_images(2), mask=torch.zeros(shape), pixel_mask=torch.zeros(2, 1, 32, 32))


def scribble():
    """(2, 1, 32, 32): a band off the grid, with one patch wholly unknown; and a single unknown pixel."""
    pixel_mask = torch.zeros(2, 1, 32, 32)
    pixel_mask[0, :, 5:18, 3:19] = 1
    pixel_mask[1, :, 20, 20] = 1
    return pixel_mask


def test_unknown_pixels_never_influence_the_prediction(tiny_model, noise_images):
    model, images, pixel_mask = tiny_model(mask_embed=True), noise_images(2), scribble()
    changed = torch.where(pixel_mask > 0, noise_images(2, seed=8) * 1e3, images)
    with torch.no_grad():
        assert torch.equal(model(images, pixel_mask=pixel_mask).pred, model(changed, pixel_mask=pixel_mask).pred)
        assert torch.equal(model.reconstruct(images, pixel_mask=pixel_mask),
                           model.reconstruct(changed, pixel_mask=pixel_mask))  # fmt: skip


def test_known_pixels_of_partly_known_patches_do_influence_the_prediction(tiny_model, noise_images):
    model, images, pixel_mask = tiny_model(mask_embed=True), noise_images(2), scribble()
    changed = images.clone()
    changed[0, :, 4, 3] += 5  # the row above the band, in a patch that the band cuts
    with torch.no_grad():
        before, after = model(images, pixel_mask=pixel_mask).pred, model(changed, pixel_mask=pixel_mask).pred
    assert not torch.allclose(before[0], after[0], atol=1e-3)
    assert torch.equal(before[1], after[1])


def test_the_pixel_mask_itself_is_seen_by_a_model_with_mask_embed(tiny_model):
    """Black pixels and unknown ones must not look the same."""
    model, images = tiny_model(mask_embed=True), torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        known = model(images, pixel_mask=torch.zeros(1, 1, 32, 32)).pred
        unknown = model(images, pixel_mask=scribble()[1:]).pred
    assert not torch.allclose(known, unknown, atol=1e-3)


def test_only_wholly_unknown_patches_are_removed_with_mask_embed(tiny_model):
    hidden = tiny_model(mask_embed=True).hidden_patches(scribble())
    assert torch.nonzero(hidden[0]).flatten().tolist() == [5]
    assert not hidden[1].any()
    almost = torch.ones(1, 1, 32, 32)
    almost[0, 0, 9, 9] = 0
    assert torch.nonzero(1 - tiny_model(mask_embed=True).hidden_patches(almost)[0]).flatten().tolist() == [5]


def test_masks_of_whole_numbers_remove_the_same_patches(tiny_model):
    pixel_mask = torch.zeros(1, 1, 32, 32)
    pixel_mask[0, 0, :4, :8] = 1  # exactly half of patch 0
    for levels in (pixel_mask.bool(), (pixel_mask * 255).byte(), pixel_mask.long()):
        assert not tiny_model().hidden_patches(levels).any()


def test_one_known_pixel_keeps_a_large_patch(tiny_model):
    almost = torch.ones(1, 1, 64, 64)
    almost[0, 0, 9, 9] = 0
    assert tiny_model(image_size=64, patch_size=32, mask_embed=True).hidden_patches(almost)[0, 0] == 0


def test_patches_more_than_half_unknown_are_removed_without_mask_embed(tiny_model):
    pixel_mask = torch.zeros(1, 1, 32, 32)
    pixel_mask[0, 0, :4, :8] = 1  # exactly half of patch 0
    pixel_mask[0, 0, :4, 8:16] = 1
    pixel_mask[0, 0, 4, 8] = 1  # a pixel more than half of patch 1
    assert torch.nonzero(tiny_model().hidden_patches(pixel_mask)[0]).flatten().tolist() == [1]


def test_a_pixel_mask_hides_on_top_of_a_patch_mask(tiny_model, noise_images):
    model, mask = tiny_model(mask_embed=True), torch.zeros(2, 16)
    mask[:, 0] = 1
    with torch.no_grad():
        out = model(noise_images(2), mask=mask, pixel_mask=scribble())
    assert [torch.nonzero(row).flatten().tolist() for row in out.mask] == [[0, 5], [0]]


def test_mask_embed_starts_at_zero_so_other_weights_load_unchanged(tiny_model, tiny_settings, noise_images):
    from maerestore.model import MAEConfig, MaskedAutoencoder

    plain, images = tiny_model(), noise_images(2)
    fresh = MaskedAutoencoder(MAEConfig(**tiny_settings, mask_embed=True)).eval()
    result = fresh.load_state_dict(plain.state_dict(), strict=False)
    assert result.missing_keys == ["patch_embed.mask_proj.weight"]
    mask = random_mask([9, 9])
    with torch.no_grad():
        assert torch.equal(plain(images, mask=mask).pred, fresh(images, mask=mask).pred)
        nothing_unknown = fresh(images, mask=mask, pixel_mask=torch.zeros(2, 1, 32, 32)).pred
        torch.testing.assert_close(plain(images, mask=mask).pred, nothing_unknown, atol=1e-6, rtol=1e-6)
        partly_unknown = fresh(images, mask=mask, pixel_mask=scribble())
        black = plain(images * (1 - scribble()), mask=partly_unknown.mask).pred
        torch.testing.assert_close(black, partly_unknown.pred, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(1, 3, 33, 32), (1, 3, 32, 31), (1, 1, 32, 32), (3, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)]
)
def test_images_that_do_not_fit_are_refused(tiny_model, shape):
    with pytest.raises(ValueError, match="image"):
        tiny_model()(torch.zeros(shape))


def test_everything_hidden_still_predicts(tiny_model, noise_images):
    model = tiny_model(mask_embed=True)
    with torch.no_grad():
        out = model(noise_images(2), pixel_mask=torch.ones(2, 1, 32, 32))
    assert out.latent.shape == (2, 1, 32)
    assert bool(out.pred.isfinite().all())


def test_encode_hides_nothing_by_default(tiny_model, noise_images):
    with torch.no_grad():
        latent, mask, _, key_mask = tiny_model().encode(noise_images(2))
    assert latent.shape == (2, 17, 32)
    assert not mask.any()
    assert key_mask is None


def test_a_feature_pass_is_deterministic_and_in_raster_order(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2)
    with torch.no_grad():
        first, second = model.encode(images), model.encode(images)
    assert torch.equal(first[0], second[0])
    assert first[2].tolist() == [list(range(16))] * 2


def test_a_feature_pass_leaves_the_random_generator_alone(tiny_model, noise_images):
    model = tiny_model()
    before = torch.get_rng_state()
    with torch.no_grad():
        model.encode(noise_images(1))
    assert torch.equal(before, torch.get_rng_state())
