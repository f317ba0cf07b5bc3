"""The same weights give the same numbers as the implementations of others."""

import functools

import pytest
import torch

IMAGES_SEED = 3


def copy_to_vitmae(ours, config):
    """A ViTMAEForPreTraining that holds our weights, key by key."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTMAEConfig(
        image_size=config.image_size, patch_size=config.patch_size, num_channels=config.in_chans,
        hidden_size=config.embed_dim, num_hidden_layers=config.depth, num_attention_heads=config.num_heads,
        intermediate_size=int(config.embed_dim * config.mlp_ratio),
        decoder_hidden_size=config.decoder_embed_dim, decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_num_heads,
        decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio),
        hidden_act="gelu", layer_norm_eps=1e-6, norm_pix_loss=config.norm_pix_loss,
    )  # fmt: skip
    theirs = transformers.ViTMAEForPreTraining(settings).eval()
    target = theirs.state_dict()
    source = ours.state_dict()
    filled = set()

    def put(name, value):
        assert target[name].shape == value.shape, name
        target[name].copy_(value)
        filled.add(name)

    put("vit.embeddings.cls_token", source["cls_token"])
    put("vit.embeddings.position_embeddings", source["pos_embed"])
    put("vit.embeddings.patch_embeddings.projection.weight", source["patch_embed.proj.weight"])
    put("vit.embeddings.patch_embeddings.projection.bias", source["patch_embed.proj.bias"])
    put("decoder.mask_token", source["mask_token"])
    put("decoder.decoder_pos_embed", source["decoder_pos_embed"])
    for kind in ("weight", "bias"):
        put(f"vit.layernorm.{kind}", source[f"norm.{kind}"])
        for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
            put(f"decoder.{name}.{kind}", source[f"{name}.{kind}"])
        stacks = [("vit.encoder.layer", "vit.layers", "blocks", config.depth),
                  ("decoder.decoder_layers", "decoder.layers", "decoder_blocks", config.decoder_depth)]  # fmt: skip
        for one, other, mine, depth in stacks:
            prefix = one if any(key.startswith(one) for key in target) else other
            for i in range(depth):
                there = {key.removeprefix(f"{prefix}.{i}.") for key in target if key.startswith(f"{prefix}.{i}.")}

                def pick(*names, there=there, kind=kind):
                    return next(name for name in names if f"{name}.{kind}" in there)

                q, k, v = source[f"{mine}.{i}.attn.qkv.{kind}"].chunk(3)
                for letter, value in (("query", q), ("key", k), ("value", v)):
                    name = pick(f"attention.attention.{letter}", f"attention.{letter[0]}_proj")
                    put(f"{prefix}.{i}.{name}.{kind}", value)
                pairs = [
                    (("attention.output.dense", "attention.o_proj"), "attn.proj"),
                    (("intermediate.dense", "mlp.fc1"), "mlp.fc1"),
                    (("output.dense", "mlp.fc2"), "mlp.fc2"),
                    (("layernorm_before",), "norm1"),
                    (("layernorm_after",), "norm2"),
                ]
                for names, own in pairs:
                    put(f"{prefix}.{i}.{pick(*names)}.{kind}", source[f"{mine}.{i}.{own}.{kind}"])
    assert set(target) == filled, sorted(set(target) - filled)
    theirs.load_state_dict(target)
    return theirs


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_prediction_mask_order_and_loss_equal_transformers(tiny_model, noise_images, norm_pix_loss, channels):
    statistics = (0.5,) * channels
    ours = tiny_model(norm_pix_loss=norm_pix_loss, in_chans=channels, mean=statistics, std=statistics)
    with torch.no_grad():  # trained tables have no zeros for the class token to hide behind
        for table in (ours.pos_embed, ours.decoder_pos_embed):
            table += torch.randn(table.shape, generator=torch.Generator().manual_seed(2))
    theirs = copy_to_vitmae(ours, ours.config)
    theirs.config.mask_ratio = 0.7
    images = noise_images(3, channels=channels, seed=IMAGES_SEED)
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine = ours(images, mask_ratio=0.7, noise=noise)
        other = theirs(images, noise=noise)
    assert mine.mask.sum(1).tolist() == [12, 12, 12]
    torch.testing.assert_close(mine.pred, other.logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(mine.mask, other.mask)
    assert torch.equal(mine.ids_restore, other.ids_restore)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-5, rtol=1e-5)


def timm_features(ours, images, height, width):
    timm_vit = pytest.importorskip("timm.models.vision_transformer")
    config = ours.config
    theirs = timm_vit.VisionTransformer(
        img_size=(height, width), patch_size=config.patch_size, embed_dim=config.embed_dim, depth=config.depth,
        num_heads=config.num_heads, num_classes=0, global_pool="token",
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith(("decoder", "mask_token"))}
    result = theirs.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert not result.missing_keys
    with torch.no_grad():
        return theirs.forward_features(images)


def test_encoder_features_equal_timm(tiny_model, noise_images):
    ours, images = tiny_model(), noise_images(2)
    noise = torch.arange(16.0).expand(2, -1)  # keeps raster order
    with torch.no_grad():
        latent = ours.encode(images, 0.0, noise)[0]
    torch.testing.assert_close(latent, timm_features(ours, images, 32, 32), atol=1e-5, rtol=1e-5)
