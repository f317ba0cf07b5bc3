"""The same weights give the same numbers as the implementations of others."""

import argparse
import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore import MaskedAutoencoder
from maerestore.model.positions import resample_positions

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


# --- files of others: the same weights, saved in each public layout, loaded here


def numbers(model, images, noise, ratio=0.7):
    """Features, prediction and loss of ours."""
    with torch.no_grad():
        out = model(images, mask_ratio=ratio, noise=noise)
    return out.latent, out.pred, out.loss


def same(mine, theirs):
    for value, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def noise():
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[False, True], ids=["raw", "normalised"])
def meta(request):
    """A model made by code in the style of Meta's."""
    pytest.importorskip("timm")
    from .reference import ReferenceMAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return ReferenceMAE(norm_pix_loss=request.param).eval()


def write_meta(model, folder, form):
    """Save a checkpoint in one of its public forms; the path, and what has to be said by keyword."""
    weights, said = model.state_dict(), {"num_heads": 2, "decoder_num_heads": 2, "norm_pix_loss": model.norm_pix_loss}
    path = folder / "checkpoint-799.pth"
    if form == "model":
        torch.save({"model": weights}, path)
    elif form == "bare":
        torch.save(weights, path)
    elif form == "legacy":
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    elif form == "published":
        path = folder / ("mae_pretrain_vit_any_full.pth" if model.norm_pix_loss else "mae_visualize_vit_any.pth")
        torch.save({"model": weights}, path)
        del said["norm_pix_loss"]
    elif form == "training":  # as the authors' program leaves it
        arguments = argparse.Namespace(norm_pix_loss=model.norm_pix_loss, input_size=32, lr=None, output_dir="out")
        state = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
        torch.save({"model": weights, "optimizer": state, "epoch": 799, "scaler": {}, "args": arguments}, path)
        del said["norm_pix_loss"]
    elif form == "distributed":
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    return path, said


@pytest.mark.parametrize("form", ["model", "bare", "legacy", "published", "training", "distributed", "safetensors"])
def test_meta_checkpoints_give_the_numbers_of_the_code_that_made_them(meta, form, tmp_path, noise_images, noise):
    path, said = write_meta(meta, tmp_path, form)
    ours = MaskedAutoencoder.from_pretrained(path, **said)
    assert ours.config.norm_pix_loss == meta.norm_pix_loss
    images = noise_images(3, seed=IMAGES_SEED)
    with torch.no_grad():
        theirs = meta(images, 0.7, noise)
    same(numbers(ours, images, noise), theirs)


def test_metas_encoder_gives_its_features_and_no_pictures(meta, tmp_path, noise_images, noise):
    path = tmp_path / "mae_pretrain_vit_any.pth"
    encoder = {name: v for name, v in meta.state_dict().items() if not name.startswith(("decoder", "mask_token"))}
    torch.save({"model": encoder}, path)
    ours = MaskedAutoencoder.from_pretrained(path, num_heads=2)
    assert not ours.config.has_decoder
    images = noise_images(3, seed=IMAGES_SEED)
    with torch.no_grad():
        same(ours.encode(images, 0.7, noise)[:1], meta.encode(images, 0.7, noise)[:1])
        with pytest.raises(ValueError, match="cannot reconstruct"):
            ours.reconstruct(images)


OLDER = {
    "vit.layers.": "vit.encoder.layer.", "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip


def older(name):
    """The published name of a weight, from the one that modules of transformers have now."""
    for now, then in OLDER.items():
        name = name.replace(now, then)
    return name


@pytest.fixture(params=[False, True], ids=["raw", "normalised"])
def vitmae(request):
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, norm_pix_loss=request.param, mask_ratio=0.7,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = transformers.ViTMAEForPreTraining(settings).eval()
        with torch.no_grad():
            for value in model.parameters():
                value += 0.1 * torch.randn_like(value)
    return model


def numbers_of_vitmae(model, images, noise):
    with torch.no_grad():
        out = model(images, noise=noise)
        return model.vit(images, noise=noise).last_hidden_state, out.logits, out.loss


def write_vitmae(model, folder, form):
    """Save a model in one of the forms that transformers reads; the path, and what has to be said by keyword."""
    model.config.save_pretrained(folder)
    named = {name: value.contiguous() for name, value in model.state_dict().items()}
    published = {older(name): value for name, value in named.items()}
    if form == "saved":
        model.save_pretrained(folder)
    elif form == "shards":
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif form == "older":
        save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    elif form == "current":
        save_file(named, folder / "model.safetensors")  # without metadata
    elif form == "bin":
        torch.save(published, folder / "pytorch_model.bin")
    elif form == "bin shards":
        names = sorted(published)
        index = {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"pytorch_model-0000{number + 1}-of-00002.bin"
            torch.save({name: published[name] for name in part}, folder / file)
            index |= dict.fromkeys(part, file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    elif form == "file":
        path = folder / "weights.safetensors"
        save_file(published, path)
        eps = model.config.layer_norm_eps
        return path, {"num_heads": 4, "decoder_num_heads": 2, "norm_pix_loss": model.config.norm_pix_loss,
                      "layer_norm_eps": eps}  # fmt: skip
    return folder, {}


@pytest.mark.parametrize("form", ["saved", "shards", "older", "current", "bin", "bin shards", "file"])
def test_vitmae_gives_the_numbers_of_transformers(vitmae, form, tmp_path, noise_images, noise):
    path, said = write_vitmae(vitmae, tmp_path, form)
    ours = MaskedAutoencoder.from_pretrained(path, **said)
    images = noise_images(3, seed=IMAGES_SEED)
    same(numbers(ours, images, noise), numbers_of_vitmae(vitmae, images, noise))


@pytest.mark.parametrize("names", ["saved", "current"])
def test_an_encoder_of_transformers_gives_its_features(vitmae, names, tmp_path, noise_images, noise):
    vitmae.vit.save_pretrained(tmp_path)
    if names == "current":
        save_file(vitmae.vit.state_dict(), tmp_path / "model.safetensors")
    assert not any(name.startswith("vit.") for name in load_file(tmp_path / "model.safetensors"))
    ours = MaskedAutoencoder.from_pretrained(tmp_path)
    assert not ours.config.has_decoder
    images = noise_images(3, seed=IMAGES_SEED)
    with torch.no_grad():
        same(ours.encode(images, 0.7, noise)[:1], [vitmae.vit(images, noise=noise).last_hidden_state])


def timm_encoder(**settings):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return timm.create_model("vit_base_patch16_224.mae", pretrained=False, **settings).eval()


@pytest.mark.parametrize("form", ["safetensors", "bin", "file"])
def test_a_folder_of_timm_gives_its_features(form, tmp_path, noise_images):
    theirs = timm_encoder(embed_dim=48, depth=2, num_heads=3, img_size=32, patch_size=8)
    from timm.models import save_for_hf

    said = {}
    save_for_hf(theirs, tmp_path, safe_serialization=form == "safetensors")
    path = tmp_path
    if form == "file":
        path, said = tmp_path / "encoder.pt", {"num_heads": 3}
        torch.save(theirs.state_dict(), path)
    ours = MaskedAutoencoder.from_pretrained(path, **said)
    assert not ours.config.has_decoder
    images = noise_images(2)
    with torch.no_grad():
        same([ours.encode(images)[0]], [theirs.forward_features(images)])


def test_timms_vit_base_loads_without_a_word(tmp_path, noise_images):
    with torch.device("meta"):  # timm's own initialisation of 86 M weights takes longer than the rest of the test
        theirs = timm_encoder()
    theirs.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for value in theirs.parameters():
            value.uniform_(-0.03, 0.03, generator=generator)
    from timm.models import save_for_hf

    save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = MaskedAutoencoder.from_pretrained(tmp_path)
    assert (ours.config.embed_dim, ours.config.depth, ours.config.num_heads) == (768, 12, 12)
    assert (ours.config.image_size, ours.config.patch_size) == (224, 16)
    images = noise_images(1, 224, 224)
    with torch.no_grad():
        same([ours.encode(images)[0]], [theirs.forward_features(images)])


# --- positions at other sizes


@pytest.mark.parametrize("size", [(48, 32), (16, 64), (40, 40)])
def test_positions_at_rectangles_equal_timms_without_antialias(tiny_model, noise_images, size):
    """timm filters by default (antialias=True); the authors' code, like this package, does not."""
    timm_layers = pytest.importorskip("timm.layers")
    ours = tiny_model()
    with torch.no_grad():
        ours.pos_embed += torch.randn(ours.pos_embed.shape, generator=torch.Generator().manual_seed(2))
    grid = (size[0] // 8, size[1] // 8)
    expected = timm_layers.resample_abs_pos_embed(ours.pos_embed, grid, (4, 4), antialias=False)
    torch.testing.assert_close(resample_positions(ours.pos_embed, (4, 4), grid), expected, atol=1e-5, rtol=1e-5)
    images = noise_images(2, *size)
    timm_vit = pytest.importorskip("timm.models.vision_transformer")
    theirs = timm_vit.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="token",
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith(("decoder", "mask_token"))}
    theirs.load_state_dict(weights | {"pos_embed": expected})
    with torch.no_grad():
        same([ours.encode(images)[0]], [theirs.forward_features(images)])


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_the_decoders_positions_stretch_in_two_dimensions(tiny_model, axis):
    """A table that only depends on the row predicts the same along a row, whatever the shape of the picture."""
    model = tiny_model()
    levels = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    lattice = levels[:, None].expand(4, 4, 16) if axis == 0 else levels[None].expand(4, 4, 16)
    with torch.no_grad():
        model.decoder_pos_embed[:, 1:] = lattice.reshape(1, 16, 16)
        nothing_seen = model.decode(torch.randn(1, 1, 32), torch.arange(24)[None], (4, 6) if axis else (6, 4))
    picture = nothing_seen.reshape(*((4, 6) if axis else (6, 4)), -1)
    if axis:
        picture = picture.transpose(0, 1)
    torch.testing.assert_close(picture, picture[:, :1].expand_as(picture), atol=1e-5, rtol=1e-5)
    assert (picture[0, 0] - picture[3, 0]).abs().max() > 1e-3
