import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore.hub.config import read_folder
from maerestore.hub.errors import ModelError
from maerestore.hub.load import load_autoencoder
from maerestore.hub.refiner import save_networks
from maerestore.hub.save import save_autoencoder, write_json

from .test_refiner import make_refiner


@pytest.fixture
def saved(tiny_model, tmp_path):
    save_autoencoder(tiny_model(mask_embed=True), tmp_path / "model")
    return tmp_path / "model"


def refused(folder):
    """The message of the one-line ModelError that loading gives."""
    with pytest.raises(ModelError) as caught:
        load_autoencoder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_model_comes_back_within_half_precision(tiny_model, tmp_path, noise_images):
    model, images = tiny_model(mask_embed=True, mean=(0.1, 0.2, 0.3)), noise_images(2)
    save_autoencoder(model, tmp_path / "new" / "model")
    again = load_autoencoder(tmp_path / "new" / "model")
    assert again.config == model.config
    assert not again.training
    assert {value.dtype for value in again.state_dict().values()} == {torch.float32}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert torch.equal(again.pos_embed, model.pos_embed)
    assert torch.equal(again.decoder_pos_embed, model.decoder_pos_embed)
    mask = torch.zeros(2, 16)
    mask[:, 4:9] = 1
    with torch.no_grad():
        torch.testing.assert_close(again(images, mask=mask).pred, model(images, mask=mask).pred, atol=0.02, rtol=0.02)


def test_single_precision_comes_back_exactly(tiny_model, tmp_path):
    model = tiny_model()
    save_autoencoder(model, tmp_path, dtype=torch.float32)
    again = load_autoencoder(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_the_folder_holds_two_files_in_half_precision(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    weights = load_file(saved / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(name.startswith("autoencoder.") for name in weights)


def test_facts_of_training_and_fill_are_kept(tiny_model, tmp_path):
    save_autoencoder(tiny_model(), tmp_path, training={"samples": 7}, fill={"feather": 2.5})
    config = read_folder(tmp_path)
    assert config["model_type"] == "maerestore"
    assert (config["training"], config["fill"]) == ({"samples": 7}, {"feather": 2.5})


def test_saving_again_replaces_the_model(tiny_model, saved):
    save_autoencoder(tiny_model(seed=5, depth=1), saved)
    assert load_autoencoder(saved).config.depth == 1
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_leaves_the_model_as_it_was(tiny_model, tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_autoencoder(model, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_loaded_again_is_not_written(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    try:
        save_autoencoder(model, tmp_path)
    except ValueError:
        return
    load_autoencoder(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    assert "cannot be read" in refused(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "", "\x00", '{"a": 1}{'])
def test_a_config_that_is_no_json_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    assert "JSON" in refused(saved)


def test_a_config_that_is_no_text_is_refused(saved):
    (saved / "config.json").write_bytes(b"\xff\xfe\x80")
    assert "JSON" in refused(saved)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{}", '{"model_type": "vit"}', '{"model_type": "maerestore"}', '{"architecture": "resnet50"}']
)
def test_the_config_of_another_model_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    assert "not a maerestore model" in refused(saved)


def test_autoencoder_settings_that_are_no_mapping_are_refused(saved):
    edit_config(saved, lambda config: config.update(autoencoder=[1]))
    assert "mapping" in refused(saved)


@pytest.mark.parametrize(
    ("key", "value"), [("surprise", 1), ("two\nlines", 1), ("embed_dim", 31), ("depth", "2"), ("std", [0, 0, 0])]
)
def test_settings_that_do_not_fit_are_refused(saved, key, value):
    edit_config(saved, lambda config: config["autoencoder"].update({key: value}))
    assert key.replace("\n", " ") in refused(saved)


@pytest.mark.parametrize(("key", "value"), [("mlp_ratio", None), ("mlp_ratio", -1), ("in_chans", 3.0)])
def test_settings_that_cannot_be_built_are_refused(saved, key, value):
    edit_config(saved, lambda config: config["autoencoder"].update({key: value}))
    assert key in refused(saved)


def test_missing_weights_are_named(saved):
    (saved / "model.safetensors").unlink()
    assert "no such file" in refused(saved)


@pytest.mark.parametrize("size", [0, 4, 100, -40])
def test_truncated_weights_are_refused(saved, size):
    data = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(data[:size])
    assert "safetensors" in refused(saved)


def test_weights_that_are_a_folder_are_refused(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    assert "model.safetensors" in refused(saved)


def test_a_missing_weight_is_named(saved):
    edit_weights(saved, lambda weights: weights.pop("autoencoder.norm.bias"))
    message = refused(saved)
    assert "missing" in message
    assert "norm.bias" in message


@pytest.mark.parametrize("name", ["autoencoder.extra", "refiner.weight"])
def test_a_surplus_weight_is_named(saved, name):
    edit_weights(saved, lambda weights: weights.update({name: torch.zeros(2)}))
    message = refused(saved)
    assert "surplus" in message
    assert name in message


def test_a_weight_of_another_shape_is_named_with_both_shapes(saved):
    edit_weights(saved, lambda weights: weights.update({"autoencoder.norm.bias": torch.zeros(33)}))
    message = refused(saved)
    assert "norm.bias" in message
    assert "(33,)" in message
    assert "(32,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(saved, value):
    edit_weights(saved, lambda weights: weights["autoencoder.cls_token"].fill_(value))
    assert "cls_token" in refused(saved)


def test_position_tables_in_the_file_are_used(saved):
    table = torch.randn(1, 17, 32)
    edit_weights(saved, lambda weights: weights.update({"autoencoder.pos_embed": table}))
    assert torch.equal(load_autoencoder(saved).pos_embed, table)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_tables_that_half_precision_rounds_are_no_trained_ones(tiny_model, tmp_path, dtype):
    save_autoencoder(tiny_model().to(dtype), tmp_path, dtype=dtype)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if name.endswith("pos_embed")]
    assert torch.equal(load_autoencoder(tmp_path).pos_embed, tiny_model().pos_embed)


def test_weights_in_bfloat16_load(tiny_model, tmp_path):
    save_autoencoder(tiny_model(), tmp_path, dtype=torch.bfloat16)
    assert load_autoencoder(tmp_path).norm.weight.dtype == torch.float32


def test_the_config_tells_others_how_images_are_prepared(saved):
    config = read_folder(saved)
    expected = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 32, "interpolation": "bicubic"}
    assert config["preprocessing"] == expected | {"rescale": 1 / 255}


def test_a_config_without_preprocessing_loads(saved):
    edit_config(saved, lambda config: config.pop("preprocessing"))
    assert load_autoencoder(saved).config.image_size == 32


@pytest.mark.parametrize(
    "change",
    [{"mean": [0, 0, 0]}, {"size": 64}, {"interpolation": "nearest"}, {"rescale": 1}, {"surprise": 1}],
    ids=str,
)
def test_preprocessing_that_contradicts_the_model_is_refused(saved, change):
    edit_config(saved, lambda config: config["preprocessing"].update(change))
    assert "preprocessing" in refused(saved)


def test_preprocessing_that_is_no_mapping_is_refused(saved):
    edit_config(saved, lambda config: config.update(preprocessing=[]))
    assert "preprocessing" in refused(saved)


def test_keywords_overrule_what_a_config_says_of_the_images(saved):
    config = load_autoencoder(saved, mean=(0.5, 0.5, 0.5), norm_pix_loss=True).config
    assert (config.mean, config.norm_pix_loss) == ((0.5, 0.5, 0.5), True)


def test_a_model_saves_and_loads_itself_exactly(tiny_model, tmp_path):
    model = tiny_model(mask_embed=True)
    model.save_pretrained(tmp_path / "mine", training={"samples": 3})
    again = type(model).from_pretrained(tmp_path / "mine")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert torch.equal(again.mean, model.mean)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    assert read_folder(tmp_path / "mine")["training"] == {"samples": 3}


def test_a_save_that_fails_leaves_the_old_model_whole(tiny_model, tmp_path):
    model, refiner = tiny_model(), make_refiner()
    save_networks(model, tmp_path, refiner=refiner)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other, too_large = tiny_model(seed=1, depth=1), make_refiner(seed=1)
    with torch.no_grad():
        too_large.head.weight[0] = 1e6
    for settings, words in (
        ({"training": {"path": Path("x")}}, "not JSON serializable"),
        ({"training": "20k photographs"}, "training must be a mapping"),
        ({"fill": [1]}, "fill must be a mapping"),
        ({"refiner": refiner, "refiner_training": "long"}, "refiner_training must be a mapping"),
        ({"refiner": refiner, "refiner_training": {"at": {1}}}, "not JSON serializable"),
        ({"refiner": too_large, "dtype": torch.float16}, "does not fit float16"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            save_networks(other, tmp_path, **settings)
        assert "\n" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_gets_full_leaves_the_old_model_whole(tiny_model, tmp_path, monkeypatch):
    save_networks(tiny_model(), tmp_path, refiner=make_refiner())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, text, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # the config comes after both files of weights
    with pytest.raises(ModelError, match="No space left"):
        save_networks(tiny_model(seed=1), tmp_path, refiner=make_refiner(seed=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_in_the_place_of_a_file_leaves_the_old_weights(tiny_model, tmp_path):
    save_networks(tiny_model(), tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match=r"config\.json: is a folder"):
        save_networks(tiny_model(seed=1), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_files_have_the_mode_that_the_umask_leaves(tiny_model, tmp_path, umask):
    kept = os.umask(umask)
    try:
        save_networks(tiny_model(), tmp_path, refiner=make_refiner())
    finally:
        os.umask(kept)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_two_threads_that_write_one_file_do_not_take_each_others(tmp_path, monkeypatch):
    path, write_text = tmp_path / "config.json", Path.write_text

    def write_and_be_overtaken(self, text, **settings):
        written = write_text(self, text, **settings)
        if "first" in text:
            second = threading.Thread(target=write_json, args=(path, {"by": "second"}))
            second.start()
            second.join()
            assert json.loads(path.read_text()) == {"by": "second"}
        return written

    monkeypatch.setattr(Path, "write_text", write_and_be_overtaken)
    write_json(path, {"by": "first"})
    assert json.loads(path.read_text()) == {"by": "first"}
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_grid_of_absurd_size_is_refused_before_memory_is_asked_for(saved):
    edit_config(saved, lambda config: config.update(preprocessing=None))
    edit_config(saved, lambda config: config["autoencoder"].update(image_size=8 * 10**7))
    assert "image_size" in refused(saved)
