"""What the class token attends to in the last block: the attention that masks are guided by."""

import pytest
import torch


def by_hand(model, images):
    """(N, heads, T, T): the whole attention of the last block, from its query and key weights head by head."""
    config = model.config
    width = config.embed_dim // config.num_heads
    tokens = model.patch_embed(images)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    last = model.blocks[-1]
    tokens = last.norm1(tokens)
    heads = []
    for head in range(config.num_heads):
        rows = slice(head * width, (head + 1) * width)
        q, k = (
            tokens @ last.attn.qkv.weight[part : part + config.embed_dim][rows].T
            + last.attn.qkv.bias[part : part + config.embed_dim][rows]
            for part in (0, config.embed_dim)
        )
        heads.append(torch.softmax(q @ k.transpose(1, 2) / width**0.5, dim=-1))
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_they_are_the_attention_of_the_last_block(tiny_model, noise_images, depth):
    model, images = tiny_model(depth=depth), noise_images(2)
    attention = by_hand(model, images)
    torch.testing.assert_close(model.responses(images), attention[:, :, 0, 1:].mean(1))
    # With what the class token gives itself the rows sum to 1.
    total = model.responses(images).sum(1) + attention[:, :, 0, 0].mean(1)
    torch.testing.assert_close(total, torch.ones(2))


@torch.no_grad()
def test_they_tell_patches_apart_and_depend_on_the_image(tiny_model, noise_images):
    responses = tiny_model().responses(noise_images(2))
    assert responses.shape == (2, 16)
    assert bool((responses > 0).all())
    assert float(responses.std(1).min()) > 1e-4
    assert not torch.allclose(responses[0], responses[1])


@torch.no_grad()
def test_they_are_deterministic_and_those_of_each_image_alone(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(3)
    state = torch.random.get_rng_state()
    responses = model.responses(images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model.responses(images), responses)
    torch.testing.assert_close(model.responses(images[1:2]), responses[1:2])


@torch.no_grad()
def test_attention_is_computed_in_full_precision_under_autocast_too(tiny_model):
    attention = tiny_model(embed_dim=64).blocks[0].attn
    x = 3 * torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        weights = attention.mean_weights(x)
        q, k, _ = attention.qkv(x).reshape(2, 40, 3, 2, 32).permute(2, 0, 3, 1, 4)
    assert q.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.softmax(q.float() @ k.float().mT / 32**0.5, -1).mean(1))


@torch.no_grad()
def test_a_rectangle_gets_one_for_each_patch(tiny_model, noise_images):
    assert tiny_model().responses(noise_images(1, 16, 48)).shape == (1, 12)


@torch.no_grad()
def test_models_with_a_mask_embedding_and_encoders_have_them_too(tiny_model, noise_images):
    for settings in ({"mask_embed": True}, {"decoder_depth": 0}):
        assert bool(tiny_model(**settings).responses(noise_images(1)).isfinite().all())


def test_sizes_that_do_not_fit_are_named(tiny_model, noise_images):
    with pytest.raises(ValueError, match="no multiple of the patch size 8"):
        tiny_model().responses(noise_images(1, 33, 32))
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\)"):
        tiny_model().responses(noise_images(1, 32, 32, 1))


def test_hidden_states_are_those_of_encode_and_of_the_blocks(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2, 32, 48)
    (last, first), weights = model.hidden_states(images, (-1, 0), attention=True)
    torch.testing.assert_close(last, model.encode(images)[0])
    x = model._embed_all(images)
    torch.testing.assert_close(first, model.norm(model.blocks[0](x)))
    torch.testing.assert_close(weights, model.responses(images))
    torch.testing.assert_close(model.hidden_states(images, (0,), attention=True)[1], weights)
    assert model.hidden_states(images, (0,))[1] is None
    for layer in (2, -3):
        with pytest.raises(ValueError, match="layers must lie in -2 to 1"):
            model.hidden_states(images, (layer,))
