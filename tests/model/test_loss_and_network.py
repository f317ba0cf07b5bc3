import pytest
import torch
import torch.nn.functional as F

from maerestore.model.blocks import attend, by_convolution, by_product


def four_patches(tiny_model, **settings):
    """A gray model on 4 x 4 pixels in four 2 x 2 patches."""
    return tiny_model(image_size=4, patch_size=2, in_chans=1, mean=(0.0,), std=(1.0,), **settings)


def test_loss_is_the_mean_over_removed_patches(tiny_model):
    model = four_patches(tiny_model)
    pred = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, :, None].expand(1, 4, 4)
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert float(model.loss(torch.zeros(1, 1, 4, 4), pred, mask)) == pytest.approx((1 + 9) / 2)


def test_loss_with_normalised_pixels_by_hand(tiny_model):
    model = four_patches(tiny_model, norm_pix_loss=True)
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, :2, :2] = torch.tensor([[0.0, 2.0], [4.0, 6.0]])  # mean 3, unbiased variance 20 / 3
    deviation = (20 / 3 + 1e-6) ** 0.5
    expected = sum((v / deviation) ** 2 for v in (-3, -1, 1, 3)) / 4
    loss = model.loss(images, torch.zeros(1, 4, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_pixel_weight_replaces_the_patch_mask(tiny_model, scale):
    model = four_patches(tiny_model)
    images = torch.zeros(1, 1, 4, 4)
    pred = model.patchify(torch.arange(16.0).reshape(1, 1, 4, 4))
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 0, 3], weight[0, 0, 3, 0], weight[0, 0, 2, 1] = 1.0, 2.0, 0.5
    expected = (1 * 3**2 + 2 * 12**2 + 0.5 * 9**2) / 3.5
    assert float(model.loss(images, pred, torch.ones(1, 4), scale * weight)) == pytest.approx(expected, rel=1e-6)


def test_pixel_weight_counts_every_channel(tiny_model):
    model = tiny_model()
    weight = torch.zeros(1, 1, 32, 32)
    weight[0, 0, 4, 11] = 1
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, :, 4, 11] = torch.tensor([1.0, 2.0, 3.0])
    loss = model.loss(torch.zeros(1, 3, 32, 32), model.patchify(picture), torch.ones(1, 16), weight)
    assert float(loss) == pytest.approx((1 + 4 + 9) / 3)


def test_nothing_to_compare_gives_a_loss_of_zero(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(1)
    pred = torch.ones(1, 16, 192)
    assert float(model.loss(images, pred, torch.zeros(1, 16))) == 0
    assert float(model.loss(images, pred, torch.ones(1, 16), torch.zeros(1, 1, 32, 32))) == 0


def test_forward_with_a_pixel_mask_compares_all_that_was_hidden(tiny_model, noise_images):
    model, images = tiny_model(mask_embed=True), noise_images(1)
    mask = torch.zeros(1, 16)
    mask[0, 15] = 1
    pixel_mask = torch.zeros(1, 1, 32, 32)
    pixel_mask[0, 0, 3:6, 3:6] = 1
    with torch.no_grad():
        out = model(images, mask=mask, pixel_mask=pixel_mask)
    hidden = pixel_mask.clone()
    hidden[0, 0, 24:, 24:] = 1
    assert torch.equal(model.hidden_pixels(mask, pixel_mask), hidden)
    error = (model.unpatchify(out.pred, (32, 32)) - images) ** 2 * hidden
    assert float(out.loss) == pytest.approx(float(error.sum() / (3 * hidden.sum())), rel=1e-5)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64])
def test_a_mask_of_whole_numbers_weighs_as_one_of_floats(tiny_model, noise_images, kind):
    """255 is how 8 bits say unknown, not how much a pixel counts."""
    model, images = tiny_model(mask_embed=True), noise_images(1)
    mask = torch.zeros(1, 16)
    mask[0, 15] = 1
    pixel_mask = torch.zeros(1, 1, 32, 32)
    pixel_mask[0, 0, 3:6, 3:6] = 1
    levels = (pixel_mask * 255).to(kind)
    assert torch.equal(model.hidden_pixels(mask, levels), model.hidden_pixels(mask, pixel_mask))
    with torch.no_grad():
        loss = model(images, mask=mask, pixel_mask=levels).loss
        assert torch.equal(loss, model(images, mask=mask, pixel_mask=pixel_mask).loss)


def test_reconstruct_undoes_the_patch_normalisation(tiny_model, noise_images):
    model, images = tiny_model(norm_pix_loss=True), noise_images(1)
    with torch.no_grad():
        picture = model.patchify(model.reconstruct(images, mask=torch.zeros(1, 16)))
        pred = model(images, mask=torch.zeros(1, 16)).pred
    target = model.patchify(images)
    normalised = (picture - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(normalised, pred, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", [17, 512, 513])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_on_the_cpu_equals_the_fused_one(tokens, padded):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, tokens, 8, generator=generator)
    key_mask = None
    if padded:
        key_mask = torch.ones(2, 1, 1, tokens, dtype=torch.bool)
        key_mask[1, ..., tokens // 2 :] = False
    torch.testing.assert_close(attend(q, k, v, key_mask), F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask),
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_every_trained_parameter_gets_a_gradient(tiny_model, tiny_settings, noise_images):
    from maerestore.model import MAEConfig, MaskedAutoencoder

    model = MaskedAutoencoder(MAEConfig(**tiny_settings, mask_embed=True))
    pixel_mask = torch.zeros(2, 1, 32, 32)
    pixel_mask[:, :, 5:18, 3:19] = 1
    model(noise_images(2), pixel_mask=pixel_mask).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_only_the_position_tables_are_fixed(tiny_model):
    fixed = [name for name, parameter in tiny_model().named_parameters() if not parameter.requires_grad]
    assert sorted(fixed) == ["decoder_pos_embed", "pos_embed"]


def test_the_state_dict_holds_only_what_the_official_checkpoints_hold(tiny_model):
    names = set(tiny_model(depth=1).state_dict())
    block = [f"{layer}.{kind}" for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
             for kind in ("weight", "bias")]  # fmt: skip
    expected = {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed"}
    expected |= {f"{stack}.0.{name}" for stack in ("blocks", "decoder_blocks") for name in block}
    layers = ("patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred")
    expected |= {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert names == expected


def test_the_patch_embedding_starts_like_a_linear_layer(tiny_settings):
    from maerestore.model import MAEConfig, MaskedAutoencoder

    weight = MaskedAutoencoder(MAEConfig(**tiny_settings)).patch_embed.proj.weight.detach()
    bound = (6 / (32 + 192)) ** 0.5  # xavier, from fan in 8 * 8 * 3 to fan out 32
    assert 0.97 * bound < float(weight.abs().max()) <= bound


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_embedded_by_a_product_as_by_a_convolution(noise_images, bias):
    """The product is for GPUs only, so nothing else here runs it."""
    conv = torch.nn.Conv2d(3, 10, 8, 8, bias=bias)
    images = noise_images(2, 24, 40)
    results = []
    for project in (by_convolution, by_product):
        conv.zero_grad(set_to_none=True)
        tokens = project(conv, images)
        (tokens * torch.arange(10.0)).sum().backward()
        results.append([tokens.detach(), *(p.grad.clone() for p in conv.parameters())])
    assert results[0][0].shape == (2, 15, 10)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_padded_to_all_patches_are_reconstructed_alike(tiny_model, noise_images):
    """What a GPU does rather than look at how many patches are visible."""
    model = tiny_model(mask_embed=True).eval()
    images = noise_images(2)
    hole = torch.zeros(2, 1, 32, 32)
    hole[0, :, :16], hole[1, :, 8:24, 8:16] = 1, 1
    with torch.no_grad():
        preds = []
        for padded in (False, True):
            latent, _, ids_restore, key_mask = model.encode(images, pixel_mask=hole, padded=padded)
            preds.append(model.decode(latent, ids_restore, (4, 4), key_mask))
            assert latent.shape[1] == 1 + (16 if padded else 14)
    torch.testing.assert_close(preds[0], preds[1], atol=1e-5, rtol=1e-4)
