"""The refiner by itself, and with an autoencoder as a restorer."""

import pytest
import torch

from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer, shrink
from maerestore.model.smooth import smooth_fill

SIZES = {"feature_dim": 16, "feature_layer": 1, "widths": (4, 4, 8, 8), "dilations": (1, 2)}


def make_refiner(seed=0, trained=True, **settings):
    """Trained: none of its weights is zero, gains included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refiner = Refiner(RefinerConfig(**{**SIZES, **settings}))
        if trained:
            with torch.no_grad():
                for parameter in refiner.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
    return refiner.eval()


def inputs(n=2, height=40, width=56, seed=0):
    """photo, mask, coarse, smooth, tokens and attention of a 5 x 7 grid."""
    draw = torch.Generator().manual_seed(seed)
    photo, coarse, smooth = (torch.randn(n, 3, height, width, generator=draw) for _ in range(3))
    mask = torch.zeros(n, 1, height, width)
    for i in range(n):
        mask[i, :, 8 : 20 + 4 * i, 5 + 3 * i : 30] = 1
    tokens = torch.randn(n, 16, 5, 7, generator=draw)
    return photo, mask, coarse, smooth, tokens, torch.rand(n, 35, 35, generator=draw).softmax(-1)


@torch.no_grad()
def run(network, *arguments):
    return torch.cat(network(*arguments)[-2:], 1)


def test_untrained_it_gives_back_the_coarse_fill():
    photo, mask, *rest = inputs()
    out = make_refiner(trained=False)(photo, mask, *rest)
    for picture in (out.mean, out.sharp):
        assert torch.equal(picture, torch.where(mask > 0, rest[0], photo))
    assert not torch.allclose(make_refiner()(photo, mask, *rest).sharp, out.sharp)


@pytest.mark.parametrize("size", [(40, 56), (41, 50), (7, 9), (33, 64)])
def test_sizes_need_be_no_multiple_of_eight(size):
    out = run(make_refiner(), *inputs(2, *size))
    assert out.shape == (2, 6, *size)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("width", [8, 16])
def test_the_smallest_photos_are_refined_whatever_the_width(width):
    refiner = Refiner(RefinerConfig(feature_dim=8, widths=(4, 4, 8, width), dilations=(1,))).eval()
    given = [torch.zeros(1, channels, 4, 4) for channels in (3, 1, 3, 3)]
    assert refiner(*given, torch.zeros(1, 8, 1, 1)).sharp.shape == (1, 3, 4, 4)


def test_what_the_photo_holds_in_the_hole_and_fills_outside_it_are_never_seen():
    photo, mask, coarse, smooth, *rest = inputs()
    refiner = make_refiner()
    expected = run(refiner, photo, mask, coarse, smooth, *rest)
    hole = mask > 0
    changed = torch.where(hole, float("nan"), photo)
    assert torch.equal(run(refiner, changed, mask, coarse, smooth, *rest), expected)
    fills = [torch.where(hole, fill, 1e4) for fill in (coarse, smooth)]
    assert torch.equal(run(refiner, photo, mask, *fills, *rest), expected)
    for i in range(2):  # while in the hole each of them counts
        moved = [coarse, smooth]
        moved[i] = moved[i] + 1
        assert not torch.allclose(run(refiner, photo, mask, *moved, *rest), expected, atol=1e-3)


def test_a_batch_equals_its_images_one_by_one():
    batch, refiner = inputs(3), make_refiner()
    single = torch.cat([run(refiner, *(x[i : i + 1] for x in batch)) for i in range(3)])
    torch.testing.assert_close(run(refiner, *batch), single, atol=1e-4, rtol=1e-4)


def test_tokens_and_attention_come_in_through_gains_that_start_at_zero():
    refiner = make_refiner(trained=False)
    torch.nn.init.normal_(refiner.head.weight, std=0.1)
    batch = inputs()
    before = run(refiner, *batch)
    assert torch.equal(run(refiner, *batch[:4], 5 * batch[4], None), before)
    sum(picture.square().sum() for picture in refiner(*batch)).backward()
    gains = [(name, p) for name, p in refiner.named_parameters() if name.endswith("gain")]
    assert [name for name, _ in gains] == ["tokens.0.gain", "tokens.1.gain", "tokens.2.gain", "copied.gain"]
    for name, gain in gains:
        assert float(gain.grad.abs().min()) > 0, name
        with torch.no_grad():
            gain.fill_(0.5)
        assert not torch.allclose(run(refiner, *batch), before, atol=1e-4), name
        with torch.no_grad():
            gain.zero_()


def test_attention_brings_features_to_hidden_cells_only():
    refiner = make_refiner()
    _, mask, *_ = inputs(1)
    x = torch.randn(1, 8, 5, 7)  # one cell a token
    attention = torch.zeros(1, 35, 35)
    attention[..., 3] = 1  # every token takes from token 3
    brought = refiner._copy(x, mask, attention, (5, 7))
    share = torch.nn.functional.avg_pool2d(mask, 8)
    torch.testing.assert_close(brought, x[:, :, :1, 3:4] * share)


@pytest.mark.parametrize(("name", "value"), [
    ("feature_dim", 0), ("feature_dim", True), ("feature_layer", 1.5), ("widths", [4, 4, 8]), ("widths", (4, 4, 8, 12)),
    ("widths", 8), ("widths", [4, 4, 8, "8"]), ("dilations", []), ("dilations", [0]), ("attention_copy", 1),
])  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        RefinerConfig(**{**SIZES, name: value})


def test_settings_go_to_json_and_back():
    config = RefinerConfig(**SIZES, attention_copy=False)
    stated = config.to_dict()
    assert (stated["widths"], stated["dilations"]) == ([4, 4, 8, 8], [1, 2])
    assert RefinerConfig(**stated) == config


# --- the decoder's states ------------------------------------------------------------------------------------------


def holes(n=3, side=32):
    """One of them hides whole patches, one parts of some, one nothing."""
    mask = torch.zeros(n, 1, side, side)
    mask[0, :, 8:24, :20] = 1
    mask[1, :, 3:9, 5:30] = 1
    return mask


def test_states_come_with_the_same_prediction_and_attention_to_known_tokens_only(tiny_model, noise_images):
    model = tiny_model(mask_embed=True, decoder_depth=3)
    with torch.no_grad():
        latent, hidden, ids_restore, key_mask = model.encode(noise_images(3), pixel_mask=holes())
        pred = model.decode(latent, ids_restore, (4, 4), key_mask)
        layers = [model.decode_states(latent, ids_restore, (4, 4), key_mask, i, hidden) for i in (1, 2, 3)]
        silent = model.decode_states(latent, ids_restore, (4, 4), key_mask, 2)
    assert hidden.sum(1).tolist() == [4, 0, 0]
    assert silent.attention is None
    for states in (*layers, silent):
        assert torch.equal(states.pred, pred)
        assert states.tokens.shape == (3, 16, 4, 4)
    attention = layers[0].attention
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 16))
    assert float((attention * hidden[:, None]).max()) < 1e-6
    assert float((attention[0, :, hidden[0] == 0]).min()) > 1e-4
    # The last layer's tokens are what the prediction is made from.
    last = model.decoder_pred(model.decoder_norm(layers[2].tokens.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(last, pred, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layers[0].tokens, layers[1].tokens, atol=1e-3)
    for layer in (0, 4):
        with pytest.raises(ValueError, match="1 to 3"):
            model.decode_states(latent, ids_restore, (4, 4), key_mask, layer)


def test_where_nothing_is_known_attention_is_even(tiny_model, noise_images):
    model = tiny_model(mask_embed=True)
    with torch.no_grad():
        latent, hidden, ids_restore, key_mask = model.encode(noise_images(1), pixel_mask=torch.ones(1, 1, 32, 32))
        attention = model.decode_states(latent, ids_restore, (4, 4), key_mask, 1, hidden).attention
    torch.testing.assert_close(attention, torch.full((1, 16, 16), 1 / 16))


# --- the restorer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_embed", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (48, 40)])
def test_a_restorer_never_sees_unknown_pixels_at_any_size(tiny_model, noise_images, size, mask_embed):
    restorer = Restorer(tiny_model(mask_embed=mask_embed, norm_pix_loss=True), make_refiner()).eval()
    photo, mask = noise_images(3, 36, 40), torch.nn.functional.pad(holes(), (4, 4, 2, 2))
    with torch.no_grad():
        smooth = smooth_fill(photo, mask)
        out = restorer(photo, mask, smooth, size)
        changed = torch.where(mask > 0, float("nan"), photo)
        again = restorer(changed, mask, smooth_fill(changed, mask), size)
    for one, other in zip(out, again, strict=True):
        assert one.shape == photo.shape
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert torch.equal(torch.where(mask > 0, 0, out.coarse), torch.where(mask > 0, 0, photo))


def test_a_restored_batch_equals_its_images_one_by_one(tiny_model, noise_images):
    restorer = Restorer(tiny_model(mask_embed=True), make_refiner()).eval()
    photo, mask = noise_images(3), holes()
    smooth = smooth_fill(photo, mask)
    whole = run(restorer, photo, mask, smooth, (16, 16))
    single = [run(restorer, photo[i : i + 1], mask[i : i + 1], smooth[i : i + 1], (16, 16)) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(single), atol=1e-4, rtol=1e-4)


def test_at_its_own_size_the_coarse_fill_is_the_reconstruction(tiny_model, noise_images):
    model = tiny_model(mask_embed=True)
    photo, mask = noise_images(3), holes()
    with torch.no_grad():
        coarse = Restorer(model, make_refiner())(photo, mask, smooth_fill(photo, mask), (32, 32)).coarse
        expected = model.reconstruct(photo, pixel_mask=mask)
    torch.testing.assert_close(coarse, torch.where(mask > 0, expected, photo), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_a_frozen_autoencoder_gets_no_gradient(tiny_model, noise_images, trained):
    model = tiny_model(mask_embed=True)
    model.requires_grad_(trained)
    restorer = Restorer(model, make_refiner())
    photo, mask = noise_images(3), holes()
    restorer(photo, mask, smooth_fill(photo, mask), (32, 32)).mean.square().sum().backward()
    assert all(p.grad is not None for p in restorer.refiner.parameters())
    assert (model.decoder_embed.weight.grad is not None) == trained
    assert (model.patch_embed.proj.weight.grad is not None) == trained


def test_networks_that_do_not_fit_are_refused(tiny_model):
    for settings, refiner, message in (
        ({"in_chans": 1, "mean": (0.5,), "std": (0.5,)}, {}, "RGB"),
        ({"decoder_depth": 0}, {}, "decoder"),
        ({"hidden": "noise"}, {}, "noise"),
        ({}, {"feature_dim": 8}, "8 wide"),
        ({}, {"feature_layer": 2}, "block 2"),
    ):
        with pytest.raises(ValueError, match=message):
            Restorer(tiny_model(**settings), make_refiner(**refiner))


def test_a_smaller_mask_is_unknown_where_half_is():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, 0] = mask[..., 2, 2] = 1
    picture, small = shrink(torch.arange(16.0).view(1, 1, 4, 4), mask, (2, 2))
    assert small.tolist() == [[[[1, 0], [0, 0]]]]
    assert picture.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
