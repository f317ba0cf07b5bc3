"""What a checkpoint is, from the names and shapes in it; the numbers are compared in tests/model."""

import argparse
import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore.hub.config import read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.export import export_transformers
from maerestore.hub.foreign import complete_config, ratio, sizes_of
from maerestore.hub.layouts import recognise, to_reference, to_transformers
from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import save_autoencoder
from maerestore.hub.weights import read_weights
from maerestore.model import MAEConfig, MaskedAutoencoder

HEADS = {"num_heads": 2, "decoder_num_heads": 2}


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """write(name="some.pth", wrap=True, **settings): a checkpoint with Meta's names; its path."""

    def write(name="some.pth", wrap=True, **settings):
        path = tmp_path / name
        weights = tiny_model(**settings).state_dict()
        torch.save({"model": weights} if wrap else weights, path)
        return path

    return write


@pytest.fixture
def vitmae(tiny_model, tmp_path):
    """A folder in transformers' layout."""
    export_transformers(tiny_model(), tmp_path / "vitmae")
    return tmp_path / "vitmae"


def edit(folder, name="config.json", **changes):
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refused(source, **settings):
    with pytest.raises(ModelError) as caught:
        load_autoencoder(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- names


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        (["autoencoder.blocks.0.norm1.weight"], "maerestore"),
        (["vit.embeddings.cls_token"], "transformers"),
        (["embeddings.patch_embeddings.projection.weight", "layers.0.mlp.fc1.weight"], "transformers"),
        (["patch_embed.proj.weight", "mask_token"], "reference"),
    ],
)
def test_a_layout_is_told_by_its_names(keys, layout):
    assert recognise(keys) == layout


@pytest.mark.parametrize("keys", [[], ["conv1.weight"], ["visual.proj", "text.ln.weight"]])
def test_names_of_other_networks_are_refused(keys):
    with pytest.raises(ModelError, match="no masked autoencoder"):
        recognise(keys)


def test_names_go_to_transformers_and_back(tiny_model):
    weights = tiny_model().state_dict()
    theirs = to_transformers(weights)
    assert "vit.encoder.layer.1.attention.attention.key.bias" in theirs
    assert "decoder.decoder_layers.0.attention.output.dense.weight" in theirs
    again = to_reference(theirs)
    assert again.layout == "transformers"
    assert set(again.weights) == set(weights)
    assert all(torch.equal(again.weights[name], value) for name, value in weights.items())


@pytest.mark.parametrize("wrappers", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefixes_of_wrappers_are_taken_off(tiny_model, wrappers):
    weights = tiny_model().state_dict()
    assert set(to_reference({wrappers + name: value for name, value in weights.items()}).weights) == set(weights)


def test_one_weight_under_two_names_is_refused(tiny_model):
    weights = to_transformers(tiny_model().state_dict())
    weights["vit.layers.0.mlp.fc1.bias"] = weights["vit.encoder.layer.0.intermediate.dense.bias"]
    with pytest.raises(ModelError, match=r"twice.*fc1"):
        to_reference(weights)


# --- what a file does not say


@pytest.mark.parametrize(
    ("settings", "patch"),
    [
        ({"embed_dim": 768, "depth": 12, "num_heads": 12}, 16),
        ({"embed_dim": 1024, "depth": 24, "num_heads": 16}, 16),
        ({"embed_dim": 1280, "depth": 32, "num_heads": 16}, 14),
        ({"embed_dim": 384, "depth": 12, "num_heads": 6}, 16),
        ({"embed_dim": 192, "depth": 12, "num_heads": 3}, 16),
    ],
)
def test_published_sizes_are_known_from_their_shapes(settings, patch):
    config = MAEConfig(patch_size=patch, **settings)
    with torch.device("meta"):
        weights = MaskedAutoencoder(config).state_dict()
    assert complete_config(sizes_of(weights), {}, {}) == config


def test_other_sizes_are_inferred_but_for_the_heads(checkpoint):
    settings = {"image_size": 48, "patch_size": 16, "in_chans": 1, "mlp_ratio": 3.0, "decoder_depth": 2,
                "mean": (0.4,), "std": (0.3,), "mask_embed": True}  # fmt: skip
    path = checkpoint(**settings)
    config = load_autoencoder(path, **HEADS, mean=(0.4,), std=(0.3,)).config
    assert {name: getattr(config, name) for name in settings} == settings
    assert (config.embed_dim, config.depth, config.decoder_embed_dim) == (32, 2, 16)


@pytest.mark.parametrize(
    ("given", "asked"),
    [({}, "num_heads="), ({"num_heads": 2}, "decoder_num_heads="), ({"decoder_num_heads": 2}, "num_heads=")],
)
def test_unknown_heads_are_asked_for(checkpoint, given, asked):
    message = refused(checkpoint(), **given)
    assert f"give {asked}..." in message
    assert "some.pth" in message


def test_statistics_of_gray_images_are_asked_for(checkpoint):
    path = checkpoint(in_chans=1, mean=(0.4,), std=(0.3,))
    assert "mean=" in refused(path, **HEADS)
    assert load_autoencoder(path, **HEADS, mean=(0.4,), std=(0.3,)).mean.tolist() == [[[[pytest.approx(0.4)]]]]


def test_a_file_without_position_tables_asks_for_the_image_size(tiny_model, tmp_path):
    save_autoencoder(tiny_model(), tmp_path / "ours", dtype=torch.float32)
    path = (tmp_path / "ours/model.safetensors").rename(tmp_path / "weights.safetensors")
    assert "give image_size=..." in refused(path, **HEADS)
    model, expected = load_autoencoder(path, **HEADS, image_size=32), tiny_model()
    assert model.config == expected.config
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mae_visualize_vit_base.pth", None, False),
        ("mae_pretrain_vit_base_full.pth", None, True),
        ("mae_pretrain_vit_base_full.pth", argparse.Namespace(norm_pix_loss=False), False),
        ("checkpoint-99.pth", argparse.Namespace(norm_pix_loss=True), True),
        ("checkpoint-99.pth", {"norm_pix_loss": True}, True),
        ("checkpoint-99.pth", argparse.Namespace(norm_pix_loss="yes"), False),
        ("checkpoint-99.pth", None, False),
    ],
)
def test_normalised_targets_are_known_by_arguments_or_name(tiny_model, tmp_path, name, arguments, expected):
    content = {"model": tiny_model().state_dict()} | ({"args": arguments} if arguments is not None else {})
    torch.save(content, tmp_path / name)
    assert load_autoencoder(tmp_path / name, **HEADS).config.norm_pix_loss is expected
    assert load_autoencoder(tmp_path / name, **HEADS, norm_pix_loss=not expected).config.norm_pix_loss is not expected


def test_a_ratio_gives_the_hidden_width_back():
    for width in range(4, 200, 4):
        for hidden in range(1, 900, 7):
            assert int(width * ratio(hidden, width)) == hidden


def test_trained_position_tables_are_kept_through_half_precision(checkpoint, tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.pos_embed += torch.randn_like(model.pos_embed)
        model.decoder_pos_embed += torch.randn_like(model.decoder_pos_embed)
    torch.save(model.state_dict(), tmp_path / "learned.pth")
    ours = load_autoencoder(tmp_path / "learned.pth", **HEADS)
    save_autoencoder(ours, tmp_path / "ours")
    again = load_autoencoder(tmp_path / "ours")
    for name in ("pos_embed", "decoder_pos_embed"):
        assert torch.equal(again.state_dict()[name], model.state_dict()[name])
        assert not getattr(again, name).requires_grad
    assert again.norm.weight.requires_grad


def test_loading_draws_no_random_numbers_and_shares_nothing_with_the_file(checkpoint):
    path = checkpoint()
    state = torch.random.get_rng_state()
    model = load_autoencoder(path, **HEADS)
    assert torch.equal(torch.random.get_rng_state(), state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- what is stated, and what contradicts the weights


def test_a_config_of_transformers_is_followed(vitmae):
    edit(vitmae, norm_pix_loss=True, num_attention_heads=4, layer_norm_eps=1e-5, image_size=[32, 32])
    edit(vitmae, "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=0.5)
    config = load_autoencoder(vitmae).config
    assert (config.norm_pix_loss, config.num_heads, config.layer_norm_eps) == (True, 4, 1e-5)
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_what_transformers_leaves_out_has_its_defaults(vitmae):
    edit(vitmae, norm_pix_loss=None, layer_norm_eps=None)
    (vitmae / "preprocessor_config.json").unlink()
    config = load_autoencoder(vitmae).config
    assert (config.norm_pix_loss, config.layer_norm_eps) == (False, 1e-12)
    assert config.mean == MAEConfig().mean


def test_images_that_are_not_normalised_have_mean_0_and_std_1(vitmae):
    edit(vitmae, "preprocessor_config.json", do_normalize=False)
    assert load_autoencoder(vitmae).config.mean == (0, 0, 0)
    assert load_autoencoder(vitmae).config.std == (1, 1, 1)


@pytest.mark.parametrize("change", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"rescale_factor": "x"}])
def test_another_scale_of_pixels_needs_mean_and_std(vitmae, change):
    edit(vitmae, "preprocessor_config.json", **change)
    assert "give mean=" in refused(vitmae)
    assert load_autoencoder(vitmae, mean=(0.5,) * 3, std=(0.5,) * 3).config.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": "2"}, {"patch_size": 16},
        {"num_channels": 1}, {"intermediate_size": 64}, {"decoder_hidden_size": 32}, {"image_size": 64},
        {"decoder_num_hidden_layers": 2}, {"decoder_intermediate_size": 32}, {"image_size": [32, 64]},
        {"hidden_act": "relu"}, {"qkv_bias": False}, {"num_attention_heads": 5}, {"num_attention_heads": "2"},
        {"norm_pix_loss": "no"}, {"hidden_size": [32]}, {"layer_norm_eps": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_contradicts_the_weights_is_refused(vitmae, change):
    edit(vitmae, **change)
    message = refused(vitmae)
    assert str(vitmae) in message
    named = {
        "hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_channels": "in_chans",
        "intermediate_size": "mlp_ratio", "decoder_hidden_size": "decoder_embed_dim",
        "num_attention_heads": "num_heads",
        "decoder_num_hidden_layers": "decoder_depth", "decoder_intermediate_size": "mlp_ratio",
    }  # fmt: skip
    assert named.get(next(iter(change)), next(iter(change))) in message


def test_a_pretraining_model_without_its_decoder_is_refused(vitmae):
    weights = {name: v for name, v in load_file(vitmae / "model.safetensors").items() if name.startswith("vit.")}
    save_file(weights, vitmae / "model.safetensors")
    assert "decoder_depth" in refused(vitmae)
    edit(vitmae, architectures=["ViTMAEModel"])
    assert not load_autoencoder(vitmae).config.has_decoder


def test_weights_of_another_layout_than_the_config_are_refused(vitmae, tiny_model):
    save_file(tiny_model().state_dict(), vitmae / "model.safetensors")
    assert "reference names, but config.json is one of transformers" in refused(vitmae)


@pytest.mark.parametrize(
    "given",
    [{"embed_dim": 64}, {"depth": 1}, {"patch_size": 16}, {"in_chans": 1}, {"mlp_ratio": 2.0}, {"image_size": 64},
     {"decoder_depth": 0}, {"decoder_embed_dim": 8}, {"mask_embed": True}, {"mlp_ratio": "4"}],
    ids=str,
)  # fmt: skip
def test_a_keyword_that_contradicts_the_weights_is_refused(checkpoint, given):
    assert next(iter(given)) in refused(checkpoint(), **HEADS | given)


@pytest.mark.parametrize("given", [{"num_heads": 5}, {"num_heads": True}, {"mean": (0.5,)}, {"std": "abc"}], ids=str)
def test_a_keyword_that_makes_no_model_is_refused(checkpoint, given):
    refused(checkpoint(), **HEADS | given)


def test_an_unknown_keyword_is_named_with_the_choices(checkpoint):
    message = refused(checkpoint(), heads=12)
    assert "'heads'" in message
    assert "num_heads" in message


def test_one_number_serves_all_channels(checkpoint):
    assert load_autoencoder(checkpoint(), **HEADS, mean=0.5, std=0.25).config.std == (0.25, 0.25, 0.25)


# --- encoder only


@pytest.fixture
def encoder(tiny_model, tmp_path):
    weights = tiny_model(decoder_depth=0).state_dict()
    torch.save({"model": weights}, tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def test_an_encoder_loads_and_says_that_it_cannot_reconstruct(encoder):
    model = load_autoencoder(encoder, num_heads=2)
    assert not model.config.has_decoder
    message = refused(encoder, num_heads=2, need_decoder=True)
    assert "cannot reconstruct" in message
    assert "encoder.pth" in message
    assert "encoder only" in refused(encoder, num_heads=2, decoder_num_heads=2)


def test_inpainting_with_an_encoder_is_refused_in_one_line(encoder, tmp_path):
    from maerestore import Inpainter

    load_autoencoder(encoder, num_heads=2).save_pretrained(tmp_path / "ours")
    with pytest.raises(ModelError, match="cannot reconstruct"):
        Inpainter.from_pretrained(str(tmp_path / "ours"))


def test_an_encoder_of_this_package_comes_back(encoder, tmp_path):
    model = load_autoencoder(encoder, num_heads=2)
    model.save_pretrained(tmp_path / "ours")
    again = MaskedAutoencoder.from_pretrained(tmp_path / "ours")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


# --- where models lie


def test_a_standard_file_is_read_with_the_config_beside_it(vitmae):
    assert load_autoencoder(vitmae / "model.safetensors").config == load_autoencoder(vitmae).config
    other = (vitmae / "model.safetensors").rename(vitmae / "copy.safetensors")
    assert "num_heads" in refused(other)


def test_a_folder_that_holds_just_a_checkpoint_is_read(checkpoint, tmp_path):
    checkpoint("mae_pretrain_vit_tiny_full.pth")
    assert load_autoencoder(tmp_path, **HEADS).config.norm_pix_loss is True
    checkpoint("another.pth")
    assert "2 files of weights (another.pth, mae_pretrain" in refused(tmp_path, **HEADS)


def test_a_checkpoint_of_meta_fills_holes(checkpoint):
    from maerestore import Inpainter

    path = checkpoint("mae_pretrain_vit_any_full.pth", embed_dim=192, num_heads=3, decoder_embed_dim=512,
                      decoder_num_heads=16)  # fmt: skip
    inpainter = Inpainter.from_pretrained(str(path), device="cpu")
    assert inpainter.size == 32
    image = torch.rand(3, 40, 48)
    hole = torch.zeros(40, 48, dtype=torch.bool)
    hole[10:30, 10:30] = True
    filled = inpainter.inpaint(image, hole)
    assert torch.equal(filled[:, ~hole], image[:, ~hole])
    assert filled.isfinite().all()


def test_notes_are_those_of_this_package_only(tiny_model, vitmae, tmp_path):
    save_autoencoder(tiny_model(), tmp_path / "ours", training={"samples": 7}, fill={"smooth": 1.0})
    assert read_notes(tmp_path / "ours") == {"training": {"samples": 7}, "fill": {"smooth": 1.0}}
    edit(vitmae, fill={"smooth": 3.0})
    assert read_notes(vitmae) == {}
    edit(tmp_path / "ours", fill=[1])
    with pytest.raises(ModelError, match="fill must be a mapping"):
        read_notes(tmp_path / "ours")


def test_threads_read_files_of_meta_at_once_and_what_the_program_allows_stays(checkpoint):
    source = checkpoint()
    torch.save(torch.load(source) | {"args": argparse.Namespace(norm_pix_loss=True)}, source)
    errors, start = [], threading.Barrier(4)

    def read():
        start.wait()
        try:
            for _ in range(20):
                read_weights(source)
        except ModelError as err:
            errors.append(err)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_weights(source)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_the_checkpoint_of_a_run_is_not_taken_for_its_model(tiny_model, tmp_path):
    weights = tiny_model().state_dict()
    state = {"step": 1, "config": tiny_model().config.to_dict(), "model": weights, "average": weights, "optimizers": []}
    torch.save(state, tmp_path / "checkpoint.pt")
    for source in (tmp_path / "checkpoint.pt", tmp_path):
        assert "give the folder model/" in refused(source, **HEADS)
    save_autoencoder(tiny_model(norm_pix_loss=True), tmp_path / "model")
    assert load_autoencoder(tmp_path / "checkpoint.pt").config.norm_pix_loss
