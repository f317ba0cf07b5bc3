"""A refiner beside an autoencoder: on the disk, on the Hub, in the card."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore.hub.card import model_card
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import fetch_repository, model_files
from maerestore.hub.load import load_autoencoder
from maerestore.hub.push import push_folder, push_model
from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_refiner
from maerestore.hub.save import save_autoencoder
from maerestore.model import MAEConfig
from maerestore.model.refiner import Refiner, RefinerConfig

NAME = "refiner.safetensors"
CONFIG = RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1, 2))


def make_refiner(config=CONFIG, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refiner = Refiner(config)
        torch.nn.init.normal_(refiner.head.weight)
    return refiner.eval()


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model with a refiner, in single precision."""
    save_autoencoder(tiny_model(), tmp_path / "model", training={"samples": 7}, dtype=torch.float32)
    save_refiner(make_refiner(), tmp_path / "model", {"samples": 1234}, torch.float32)
    return tmp_path / "model"


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder, change):
    weights = load_file(folder / NAME)
    change(weights)
    save_file(weights, folder / NAME)


def refused(call, *arguments):
    with pytest.raises(ModelError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_it_comes_back_exactly_in_single_precision_and_nearly_in_half(folder):
    refiner, again = make_refiner(), load_refiner(folder)
    assert again.config == CONFIG
    assert not again.training
    assert same(refiner, again)
    assert read_refiner_notes(folder) == {"samples": 1234}
    save_refiner(refiner, folder)
    assert {value.dtype for value in load_file(folder / NAME).values()} == {torch.float16}
    for name, value in load_refiner(folder).state_dict().items():
        torch.testing.assert_close(value, refiner.state_dict()[name], atol=1e-4, rtol=1e-3)
    assert read_refiner_notes(folder) == {}


def test_the_autoencoder_beside_it_stays_as_it_was(folder, tiny_model):
    assert same(tiny_model(), load_autoencoder(folder))
    assert json.loads((folder / "config.json").read_text())["training"] == {"samples": 7}
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", NAME]


def test_it_is_found_wherever_the_autoencoder_is(folder, tmp_path):
    (tmp_path / "checkpoint.pt").touch()  # tmp_path is then a run folder
    for source in (folder, folder / "model.safetensors", tmp_path, tmp_path / "checkpoint.pt", str(folder)):
        assert same(load_refiner(source), make_refiner())


def test_saving_an_autoencoder_anew_leaves_no_refiner(folder, tiny_model):
    """What counts is the config: a file of weights that it does not tell of is another model's."""
    save_autoencoder(tiny_model(seed=3), folder)
    assert (folder / NAME).exists()
    assert load_refiner(folder) is None


def test_models_of_other_libraries_have_none(tmp_path, tiny_model):
    torch.save(tiny_model().state_dict(), tmp_path / "mae.pth")
    assert load_refiner(tmp_path) is None
    assert load_refiner(tmp_path / "mae.pth") is None


def test_its_weights_are_not_taken_for_an_autoencoders(tmp_path, tiny_model, folder):
    (tmp_path / "other").mkdir()
    (folder / NAME).rename(tmp_path / "other" / NAME)
    assert "config.json" in refused(load_autoencoder, tmp_path / "other")
    torch.save(tiny_model().state_dict(), tmp_path / "other/mae.pth")
    again = load_autoencoder(tmp_path / "other", num_heads=2, decoder_num_heads=2)
    assert torch.equal(again.cls_token, tiny_model().cls_token)


def test_a_refiner_without_an_autoencoder_is_not_written(tmp_path):
    assert "cannot be read" in refused(save_refiner, make_refiner(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_half_precision_are_not_written(folder):
    refiner = make_refiner()
    with torch.no_grad():
        refiner.stem.bias[0] = 1e6
    before = (folder / NAME).read_bytes()
    assert "stem.bias" in refused(save_refiner, refiner, folder)
    assert (folder / NAME).read_bytes() == before
    assert read_refiner_notes(folder) == {"samples": 1234}


@pytest.mark.parametrize("settings", [
    [], 3, "text", {}, {"feature_dim": 16, "surprise\nname": 1}, {"feature_dim": "16"}, {"feature_dim": 10**6},
    {"feature_dim": 16, "widths": [4, 4, 8]}, {"feature_dim": 16, "widths": [4, 4, 8, 8 * 10**5]},
    {"feature_dim": 16, "dilations": [1] * 300}, {"feature_dim": 16, "dilations": [10**9]},
    {"feature_dim": 16, "dilations": [True]}, {"feature_dim": 16, "attention_copy": None},
], ids=str)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(folder, settings):
    edit_config(folder, lambda config: config.update(refiner=settings))
    message = refused(load_refiner, folder)
    assert "refiner" in message
    assert "config.json" in message


def test_notes_that_are_no_mapping_are_refused(folder):
    edit_config(folder, lambda config: config["refiner"].update(training=[1]))
    assert "refiner.training" in refused(read_refiner_notes, folder)


def test_other_sizes_than_those_of_the_weights_are_refused(folder):
    edit_config(folder, lambda config: config["refiner"].update(widths=[4, 8, 8, 8]))
    message = refused(load_refiner, folder)
    assert NAME in message
    assert "shape" in message


@pytest.mark.parametrize(("change", "expected"), [
    (lambda w: w.pop("stem.bias"), "missing weight(s), the first is stem.bias"),
    (lambda w: w.update({"a.b": torch.zeros(2)}), "surplus weight(s), the first is a.b"),
    (lambda w: w.update({"stem.bias": torch.zeros(5)}), "(5,), expected (4,)"),
    (lambda w: w["stem.bias"].fill_(float("nan")), "stem.bias holds values that are not finite"),
    (lambda w: w.update({"stem.bias": torch.zeros(4, dtype=torch.int64)}), "stem.bias"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(folder, change, expected):
    edit_weights(folder, change)
    message = refused(load_refiner, folder)
    assert expected in message
    assert NAME in message


@pytest.mark.parametrize("size", [0, 5, 200, -10])
def test_damaged_weights_are_refused(folder, size):
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[:size])
    assert NAME in refused(load_refiner, folder)


def test_missing_weights_are_named(folder):
    (folder / NAME).unlink()
    assert "is missing" in refused(load_refiner, folder)


def test_a_pickle_in_its_place_is_never_read(folder, monkeypatch):
    torch.save(make_refiner().state_dict(), folder / NAME)  # a harmless one: its kind alone is refused
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    assert "not a safetensors file" in refused(load_refiner, folder)


# --- the Hub -------------------------------------------------------------------------------------------------------


def test_it_goes_to_the_hub_with_its_model_and_comes_back(hub, folder):
    push_folder(folder, "org/name")
    pulled = fetch_repository("org/name")
    assert (pulled / NAME).read_bytes() == (folder / NAME).read_bytes()
    assert NAME in {path.name for path in model_files(pulled)}
    assert same(load_refiner(pulled), make_refiner())
    card = (pulled / "README.md").read_text()
    parameters = sum(p.numel() for p in make_refiner().parameters())
    assert f"refiner of {parameters / 1e6:.1f} M parameters" in card
    assert card.index("| samples | 7 |") < card.index("## Refiner") < card.index("| samples | 1,234 |")


def test_a_refiner_in_memory_goes_with_its_model(hub, tiny_model):
    model, refiner = tiny_model(), make_refiner()
    push_model(model, "org/name", training={"samples": 7}, refiner=refiner, refiner_training={"samples": 99})
    pulled = fetch_repository("org/name")
    assert same(load_refiner(pulled), refiner)
    assert same(load_autoencoder(pulled), model)
    assert "| samples | 99 |" in (pulled / "README.md").read_text()
    model.push_to_hub("org/name")  # a later model without one
    assert load_refiner(fetch_repository("org/name")) is None


def test_a_refiner_that_the_config_does_not_tell_of_stays_at_home(hub, folder, tiny_model):
    save_autoencoder(tiny_model(), folder)
    push_folder(folder, "org/name")
    repository = hub.repositories["org/name"]
    assert NAME not in repository.commits[repository.refs["main"]]


@pytest.mark.parametrize("change", [
    lambda folder: (folder / NAME).unlink(),
    lambda folder: (folder / NAME).write_bytes(b"junk"),
    lambda folder: save_refiner(make_refiner(RefinerConfig(feature_dim=24, feature_layer=1)), folder),
], ids=["missing", "damaged", "of another autoencoder"])  # fmt: skip
def test_a_broken_refiner_is_not_sent(hub, folder, change):
    change(folder)
    refused(push_folder, folder, "org/name")
    assert "org/name" not in hub.repositories


def test_a_damaged_download_is_deleted(hub, folder):
    push_folder(folder, "org/name")
    pulled = fetch_repository("org/name")
    data = bytearray((pulled / NAME).read_bytes())
    data[-1] ^= 1
    (pulled / NAME).resolve().write_bytes(data)
    assert f"{NAME} is damaged" in refused(fetch_repository, "org/name")
    assert not (pulled / NAME).exists()
    assert same(load_refiner(fetch_repository("org/name")), make_refiner())


def test_a_repository_with_a_refiner_alone_holds_no_model(hub, folder, tiny_model, tmp_path):
    hub.add("org/name", {NAME: (folder / NAME).read_bytes()})
    assert "holds no model" in refused(fetch_repository, "org/name")
    torch.save(tiny_model().state_dict(), tmp_path / "mae.pth")
    hub.add("org/both", {NAME: (folder / NAME).read_bytes(), "mae.pth": (tmp_path / "mae.pth").read_bytes()})
    pulled = fetch_repository("org/both")
    again = load_autoencoder(pulled, num_heads=2, decoder_num_heads=2)
    assert torch.equal(again.cls_token, tiny_model().cls_token)


def test_the_card_tells_of_a_refiner_only_where_there_is_one():
    text = model_card(MAEConfig(), {"samples": 7}, refiner=RefinerConfig(feature_dim=512, feature_layer=5))
    assert "refiner of 2.7 M parameters" in text
    assert "block 5 of the decoder and copies features" in text
    assert "Widths 16, 32, 64, 128; dilations 1, 2, 4, 8, 1, 2, 4, 8." in text
    assert text.count("Not stated.") == 1  # of the refiner's training
    assert "efiner" not in model_card(MAEConfig(), {"samples": 7})


def test_the_command_line_pulls_and_exports_both(hub, folder, tmp_path, capsys):
    from maerestore.cli.main import main

    push_folder(folder, "org/name")
    assert main(["pull", "org/name", "--to", str(tmp_path / "to"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["refiner_parameters"] == sum(p.numel() for p in make_refiner().parameters())
    assert same(load_refiner(tmp_path / "to"), make_refiner())
    assert main(["export", str(tmp_path / "to"), str(tmp_path / "copy"), "--format", "maerestore"]) == 0
    assert same(load_refiner(tmp_path / "copy"), make_refiner())
    assert read_refiner_notes(tmp_path / "copy") == {"samples": 1234}
