"""Files from strangers: each bad one is refused in one line, and none of them gets to run anything."""

import json
import os
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore.hub.errors import ModelError
from maerestore.hub.export import export_transformers
from maerestore.hub.load import load_autoencoder
from maerestore.hub.weights import read_weights

HEADS = {"num_heads": 2, "decoder_num_heads": 2}


def refused(source, **settings):
    """The message of the one-line error that loading gives."""
    with pytest.raises(ModelError) as caught:
        load_autoencoder(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.fixture
def weights(tiny_model):
    return tiny_model().state_dict()


@pytest.fixture
def vitmae(tiny_model, tmp_path):
    export_transformers(tiny_model(), tmp_path / "vitmae")
    return tmp_path / "vitmae"


# --- pickles


class Calls:
    """Unpickled without care, this calls a function: here one that leaves a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def plant(path, where):
    return {
        "alone": Calls(os.mkdir, str(path)),
        "as a weight": {"model": {"patch_embed.proj.weight": Calls(os.mkdir, str(path))}},
        "beside the weights": {
            "model": {"patch_embed.proj.weight": torch.zeros(2)},
            "args": Calls(os.mkdir, str(path)),
        },
        "by eval": Calls(eval, f"__import__('os').mkdir({str(path)!r})"),
    }[where]


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4", "in a folder"])
@pytest.mark.parametrize("where", ["alone", "as a weight", "beside the weights", "by eval"])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, vitmae, where, form):
    trap = tmp_path / "it ran"
    content, path = plant(trap, where), tmp_path / "bad.pth"
    if form == "in a folder":
        (vitmae / "model.safetensors").unlink()
        path = vitmae / "pytorch_model.bin"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    refused(vitmae if form == "in a folder" else path)
    assert not trap.exists()
    if form == "zip":  # the trap works on who steps into it
        torch.load(path, weights_only=False)
        assert trap.exists()


def test_what_a_refused_pickle_asked_for_is_named(tmp_path):
    torch.save(Calls(os.system, "true"), tmp_path / "bad.pth")
    message = refused(tmp_path / "bad.pth")
    assert "bad.pth: refused" in message
    assert "system" in message


def test_the_arguments_of_a_training_program_cannot_be_made_to_call(tmp_path, weights):
    """A Namespace is let in, so that Meta's `args` can be read: as the bearer of attributes, and nothing else."""
    import argparse

    trap = tmp_path / "it ran"

    class Bearer(argparse.Namespace):
        def __reduce__(self):
            return argparse.Namespace, (), {"norm_pix_loss": Calls(os.mkdir, str(trap)), "__setstate__": os.mkdir}

    torch.save({"model": weights, "args": Bearer()}, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", **HEADS)
    assert not trap.exists()
    torch.save({"model": weights, "args": argparse.Namespace(vars=1, get=2)}, tmp_path / "odd.pth")
    assert load_autoencoder(tmp_path / "odd.pth", **HEADS).config.norm_pix_loss is False


def rewritten(source, target, compression, more=b""):
    """A copy of a checkpoint whose entries are compressed in some way, and whose pickle is longer."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry) + (more if entry.filename.endswith("data.pkl") else b""))
    return target


def test_an_archive_with_compressed_entries_is_refused(tmp_path, weights):
    """torch maps them as if they were numbers."""
    torch.save(weights, tmp_path / "plain.pth")
    stored = rewritten(tmp_path / "plain.pth", tmp_path / "stored.pth", zipfile.ZIP_STORED)
    again = load_autoencoder(stored, **HEADS).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    packed = rewritten(tmp_path / "plain.pth", tmp_path / "packed.pth", zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(packed, **HEADS)


def test_a_small_archive_that_unpacks_to_much_is_refused_unread(tmp_path, weights, monkeypatch):
    torch.save(weights, tmp_path / "plain.pth")
    bomb = rewritten(tmp_path / "plain.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, b"\0" * (1 << 24))
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("the file is read"))
    assert "compressed" in refused(bomb, **HEADS)


def test_an_archive_whose_entries_claim_more_than_the_file_has_is_refused(tmp_path, weights, monkeypatch):
    torch.save(weights, tmp_path / "bad.pth")
    data = (tmp_path / "bad.pth").read_bytes()
    at = data.index(b"PK\x01\x02")  # the directory at the end: sizes at 20 and 24
    huge = (1 << 30).to_bytes(4, "little")
    (tmp_path / "bad.pth").write_bytes(data[: at + 20] + huge + huge + data[at + 28 :])
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("the file is read"))
    assert "more bytes than" in refused(tmp_path / "bad.pth", **HEADS)


def test_a_pickled_module_is_refused(tmp_path, tiny_model):
    torch.save(tiny_model(), tmp_path / "module.pth")
    assert "MaskedAutoencoder" in refused(tmp_path / "module.pth")


@pytest.mark.parametrize(
    "content", [[], 3, None, {}, {"model": {}}, {"model": 3}, {"epoch": 1}, torch.zeros(3)], ids=str
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "bad.pth")
    assert "state dict" in refused(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (3, "int"), ([1.0], "list"), (None, "NoneType"), ("x", "str"),
        (torch.zeros(32, dtype=torch.int64), "int64"), (torch.zeros(32, dtype=torch.bool), "bool"),
        (torch.zeros(32, dtype=torch.complex64), "complex64"), (torch.zeros(32).to_sparse(), "dense"),
        (torch.zeros(32, device="meta"), "dense"), (torch.full((32,), float("nan")), "not finite"),
        (torch.full((32,), float("inf"), dtype=torch.float16), "not finite"), (torch.zeros(33), "(33,)"),
        (torch.full((32,), 1e300, dtype=torch.float64), "not finite"), (torch.zeros(()), "()"),
        (torch.zeros(1).expand(10**15), "dense"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_weight_is_named(tmp_path, weights, value, named):
    torch.save({"model": weights | {"norm.bias": value}}, tmp_path / "bad.pth")
    message = refused(tmp_path / "bad.pth", **HEADS)
    assert "norm.bias" in message
    assert named in message


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "n" * 10_000])
def test_a_name_that_would_spoil_the_message_is_refused(tmp_path, weights, name):
    torch.save(weights | {name: torch.zeros(2)}, tmp_path / "bad.pth")
    message = refused(tmp_path / "bad.pth", **HEADS)
    assert "no name of a weight" in message
    assert message.isprintable()


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path, weights):
    torch.save(weights | {"patch_embed.proj.weight": torch.zeros(1).expand(10**9, 3, 8, 8)}, tmp_path / "bad.pth")
    assert "no dense tensor" in refused(tmp_path / "bad.pth", **HEADS)


def test_names_that_are_no_text_are_refused(tmp_path, weights):
    torch.save(weights | {3: torch.zeros(2)}, tmp_path / "bad.pth")
    assert "3 is a" in refused(tmp_path / "bad.pth", **HEADS)


@pytest.mark.parametrize("shape", [(32,), (32, 3, 8, 4), (32, 3, 0, 0), (32, 2, 8, 8), (31, 3, 8, 8), (6, 3, 8, 8)])
def test_a_patch_embedding_of_no_such_shape_is_refused(tmp_path, weights, shape):
    torch.save(weights | {"patch_embed.proj.weight": torch.zeros(shape)}, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", **HEADS)


@pytest.mark.parametrize("shape", [(1, 18, 32), (17, 32), (1, 1, 32), (1, 0, 32), (1, 17, 31), (2, 17, 32)])
@pytest.mark.parametrize("name", ["pos_embed", "decoder_pos_embed"])
def test_a_position_table_of_no_such_shape_is_refused(tmp_path, weights, name, shape):
    torch.save(weights | {name: torch.zeros(shape)}, tmp_path / "bad.pth")
    assert "pos_embed" in refused(tmp_path / "bad.pth", **HEADS)


@pytest.mark.parametrize(
    "name", ["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "decoder_norm.bias"]
)
def test_a_missing_weight_is_named(tmp_path, weights, name):
    del weights[name]
    torch.save(weights, tmp_path / "bad.pth")
    assert f"missing weight(s), the first is {name}" in refused(tmp_path / "bad.pth", **HEADS)


@pytest.mark.parametrize(
    "name", ["extra", "blocks.1.ls1.gamma", "head.weight", "fc_norm.bias", "blocks.99999999999.norm1.bias"]
)
def test_a_surplus_weight_is_named(tmp_path, weights, name):
    torch.save(weights | {name: torch.zeros(3)}, tmp_path / "bad.pth")
    message = refused(tmp_path / "bad.pth", **HEADS)
    assert name in message
    assert ("classifier" in message) == (name in ("head.weight", "fc_norm.bias"))


# --- damaged files


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_files_cut_short_are_refused(tmp_path, weights, form):
    path = tmp_path / "bad.weights"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    for size in [0, 1, 8, 9, 64, 1000, len(data) // 2, len(data) - 100, len(data) - 1]:
        path.write_bytes(data[:size])
        assert "bad.weights" in refused(path, **HEADS)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_files_with_flipped_bytes_load_or_are_refused(tmp_path, weights, form):
    path = tmp_path / "bad.weights"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(60):
        spoilt = bytearray(data)
        for _ in range(draw.choice([1, 8])):
            spoilt[draw.randrange(min(len(data), draw.choice([64, 4096, len(data)])))] = draw.randrange(256)
        path.write_bytes(bytes(spoilt))
        try:
            model = load_autoencoder(path, **HEADS)
        except ModelError as err:
            assert "\n" not in str(err)
        else:
            assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("data", [b"", b"hello, this is no model", b"\x80", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" * 9])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
def test_files_of_something_else_are_refused(tmp_path, data, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data)
    assert f"bad{suffix}" in refused(path)


def test_a_missing_file_is_named(tmp_path):
    assert "nothing.pth" in refused(tmp_path / "nothing.pth")


# --- folders of transformers and timm


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("vit.encoder.layer.1.attention.attention.key.bias"), "attention"),
        (lambda w: w.pop("vit.layernorm.bias"), "missing weight(s), the first is vit.layernorm.bias"),
        (lambda w: w.pop("vit.encoder.layer.0.attention.output.dense.bias"), "layer.0.attention.output.dense.bias"),
        (lambda w: w.update({"vit.pooler.dense.bias": torch.zeros(3)}), "vit.pooler.dense.bias"),
        (lambda w: w.update({"norm.bias": torch.zeros(32)}), "surplus weight(s), the first is norm.bias"),
        (lambda w: w.update({"classifier.weight": torch.zeros(3)}), "classifier.weight"),
        (lambda w: w.update({"vit.layernorm.bias": torch.zeros(3)}), "vit.layernorm.bias has shape (3,)"),
        (
            lambda w: w.update({"vit.encoder.layer.1.attention.attention.value.weight": torch.zeros(32, 16)}),
            "attention.value.weight has shape (32, 16)",
        ),
        (lambda w: w["decoder.mask_token"].fill_(float("nan")), "decoder.mask_token holds values that are not finite"),
    ],
)
def test_bad_weights_of_transformers_are_named_as_in_the_file(vitmae, change, named):
    weights = load_file(vitmae / "model.safetensors")
    change(weights)
    save_file(weights, vitmae / "model.safetensors")
    assert named in refused(vitmae)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", "[" * 100_000, '{"model_type": "vit"}', '{"architecture": 3}', '{"model_type": []}'],
)
def test_a_config_of_the_wrong_kind_is_refused(vitmae, text):
    (vitmae / "config.json").write_text(text)
    assert "config.json" in refused(vitmae)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_broken_preprocessor_is_refused(vitmae, text):
    (vitmae / "preprocessor_config.json").write_text(text)
    assert "preprocessor_config.json" in refused(vitmae)


@pytest.mark.parametrize(
    "change",
    [{"intermediate_size": 10**400}, {"decoder_intermediate_size": 10**400}, {"hidden_size": 10**400},
     {"layer_norm_eps": 10**400}, {"num_attention_heads": 10**400}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_config_with_an_integer_beyond_floats_is_refused(vitmae, change):
    path = vitmae / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(vitmae)


@pytest.mark.parametrize("factor", [float("nan"), 10**400, 1.0, "x", None], ids=str)
def test_a_factor_that_pixels_are_not_scaled_by_is_refused(vitmae, factor):
    path = vitmae / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_factor": factor}))
    assert "1/255" in refused(vitmae)


def test_architectures_that_are_no_list_say_nothing(tiny_model, tmp_path):
    export_transformers(tiny_model(decoder_depth=0), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": 3}))
    assert not load_autoencoder(tmp_path).config.has_decoder


@pytest.mark.parametrize("channels", ["x", None, 10**30, 2, [3]], ids=str)
def test_a_number_of_channels_that_is_none_is_refused(vitmae, channels):
    for name, change in (("config.json", {"num_channels": channels}),
                         ("preprocessor_config.json", {"do_normalize": False})):  # fmt: skip
        path = vitmae / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "num_channels" in refused(vitmae)


@pytest.mark.parametrize("name", ["mlp_ratio", "layer_norm_eps"])
def test_a_setting_of_ours_beyond_floats_is_refused(tmp_path, tiny_model, name):
    tiny_model().save_pretrained(tmp_path / "model")
    path = tmp_path / "model/config.json"
    content = json.loads(path.read_text())
    content["autoencoder"][name] = 10**400
    path.write_text(json.dumps(content))
    assert name in refused(tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"image_mean": "x"}, {"image_mean": [0.5]}, {"image_std": [0, 0, 0]}, {"image_std": [[]] * 3}]
)
def test_statistics_that_are_none_are_refused(vitmae, change):
    path = vitmae / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(vitmae)


@pytest.mark.parametrize(
    "change", [{"num_features": 64}, {"model_args": {"depth": 3}}, {"model_args": {"mlp_ratio": 10**400}},
               {"pretrained_cfg": {"mean": 1e400}}, {"pretrained_cfg": {"std": []}},
               {"architecture": "resnet50"}], ids=str,
)  # fmt: skip
def test_a_config_of_timm_that_does_not_fit_is_refused(tmp_path, tiny_model, change):
    weights = tiny_model(embed_dim=192, num_heads=3, decoder_depth=0).state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_features": 192, "pretrained_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_autoencoder(tmp_path).config.mean == (0.5, 0.5, 0.5)
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    refused(tmp_path)


# --- shards


@pytest.fixture
def sharded(vitmae):
    """A folder with two shards; index(change) rewrites the map of its index."""
    weights = load_file(vitmae / "model.safetensors")
    (vitmae / "model.safetensors").unlink()
    names = sorted(weights)
    places = {}
    for file, part in (("model-1.safetensors", names[::2]), ("model-2.safetensors", names[1::2])):
        save_file({name: weights[name] for name in part}, vitmae / file)
        places |= dict.fromkeys(part, file)

    def index(change=None):
        edited = dict(places)
        if change:
            change(edited)
        (vitmae / "model.safetensors.index.json").write_text(json.dumps({"weight_map": edited}))

    index()
    return vitmae, index


def test_shards_load(sharded):
    assert load_autoencoder(sharded[0]).config.depth == 2


@pytest.mark.parametrize(
    "name",
    [
        *("../model.safetensors", "/etc/passwd", "..", ".", "", "sub/model.safetensors", "..\\model.safetensors"),
        *("config.json", "model.safetensors.index.json", "~/model.safetensors", "a\x00.safetensors"),
        *(".hidden.safetensors", 3, None, ["a"], {}),
    ],
    ids=repr,
)
def test_an_index_cannot_lead_out_of_its_folder(sharded, name):
    folder, index = sharded
    outside = folder.parent / "model.safetensors"
    save_file(load_file(folder / "model-1.safetensors"), outside)
    (folder / "sub").mkdir()
    save_file(load_file(folder / "model-1.safetensors"), folder / "sub/model.safetensors")
    index(lambda places: places.update({key: name for key, file in places.items() if file == "model-1.safetensors"}))
    assert "index" in refused(folder)


def test_an_index_that_does_not_fit_its_shards_is_refused(sharded):
    folder, index = sharded
    index(lambda places: places.pop("vit.layernorm.bias"))
    assert "vit.layernorm.bias" in refused(folder)
    index(lambda places: places.update({"vit.more": "model-1.safetensors"}))
    assert "vit.more" in refused(folder)
    index(lambda places: places.update({"vit.more": "model-3.safetensors"}))
    assert "model-3.safetensors" in refused(folder)
    index()
    (folder / "model-2.safetensors").write_bytes(b"short")
    assert "model-2.safetensors" in refused(folder)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000]
)
def test_an_index_that_is_none_is_refused(sharded, text):
    (sharded[0] / "model.safetensors.index.json").write_text(text)
    assert "index" in refused(sharded[0])


def test_safetensors_without_metadata_are_read(tmp_path, weights):
    save_file(weights, tmp_path / "plain.safetensors", metadata=None)
    assert set(read_weights(tmp_path / "plain.safetensors").weights) == set(weights)
