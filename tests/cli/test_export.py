import json

import pytest
import torch

from maerestore.cli.main import main
from maerestore.hub.config import read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.export import export_transformers
from maerestore.hub.load import load_autoencoder
from maerestore.hub.refiner import save_networks
from maerestore.hub.save import save_autoencoder
from maerestore.model.refiner import Refiner, RefinerConfig


@pytest.fixture
def ours(tiny_model, tmp_path):
    """make(**settings): a folder in this package's layout."""

    def make(**settings):
        save_autoencoder(tiny_model(**settings), tmp_path / "ours", {"samples": 7}, {"smooth": 1.0}, torch.float32)
        return str(tmp_path / "ours")

    return make


def make_refiner():
    refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1,)))
    torch.nn.init.normal_(refiner.head.weight, std=0.05)
    return refiner.eval()


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("maerestore export: ")
    return captured.err


def same(one, other):
    assert one.config == other.config
    assert all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm_pix_loss": True, "mean": (0.1, 0.2, 0.3), "layer_norm_eps": 1e-5}, {"mlp_ratio": 1.5, "depth": 3},
     {"in_chans": 1, "mean": (0.4,), "std": (0.3,)}],
    ids=str,
)  # fmt: skip
def test_transformers_loads_what_was_exported_with_the_same_numbers(ours, tmp_path, noise_images, settings, capsys):
    transformers = pytest.importorskip("transformers")
    source, out = ours(**settings), tmp_path / "vitmae"
    assert main(["export", source, str(out), "--format", "transformers"]) == 0
    assert str(out) in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    model = load_autoencoder(source)
    same(model, load_autoencoder(out))
    images = noise_images(2, channels=model.config.in_chans)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, other = model(images, noise=noise), theirs.eval()(images, noise=noise)
    torch.testing.assert_close(other.logits, mine.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.loss, mine.loss, atol=1e-5, rtol=1e-5)


def test_the_processor_of_transformers_prepares_images_as_we_do(ours, tmp_path):
    transformers = pytest.importorskip("transformers")
    source, out = ours(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), tmp_path / "vitmae"
    assert main(["export", source, str(out), "--format", "transformers"]) == 0
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    theirs = transformers.AutoImageProcessor.from_pretrained(out)(image, return_tensors="pt")["pixel_values"]
    mine = load_autoencoder(source).normalize(image[None] / 255)
    torch.testing.assert_close(torch.as_tensor(theirs), mine, atol=1e-5, rtol=1e-5)


def test_an_encoder_becomes_a_vitmaemodel(ours, tmp_path, noise_images):
    transformers = pytest.importorskip("transformers")
    source, out = ours(decoder_depth=0), tmp_path / "vitmae"
    assert main(["export", source, str(out), "--format", "transformers"]) == 0
    theirs, info = transformers.ViTMAEModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    model, images = load_autoencoder(source), noise_images(2)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, other = model.encode(images, 0.75, noise)[0], theirs.eval()(images, noise=noise).last_hidden_state
    torch.testing.assert_close(other, mine, atol=1e-5, rtol=1e-5)
    assert not load_autoencoder(out).config.has_decoder


def test_mask_weights_are_dropped_only_when_told_to(ours, tmp_path, capsys):
    source, out = ours(mask_embed=True), tmp_path / "vitmae"
    assert "--drop-mask-embed" in refused(capsys, source, out, "--format", "transformers")
    assert not out.exists()
    assert main(["export", source, str(out), "--format", "transformers", "--drop-mask-embed"]) == 0
    dropped, model = load_autoencoder(out), load_autoencoder(source)
    assert not dropped.config.mask_embed
    weights = model.state_dict()
    assert set(weights) - set(dropped.state_dict()) == {"patch_embed.mask_proj.weight"}
    assert all(torch.equal(value, weights[name]) for name, value in dropped.state_dict().items())


def test_mask_weights_of_zero_are_no_loss(tiny_model, tmp_path):
    model = tiny_model(mask_embed=True)
    with torch.no_grad():
        model.patch_embed.mask_proj.weight.zero_()
    export_transformers(model, tmp_path / "vitmae")
    assert not load_autoencoder(tmp_path / "vitmae").config.mask_embed


def test_a_checkpoint_is_converted_to_ours_with_what_it_does_not_say(tiny_model, tmp_path, capsys):
    model, source, out = tiny_model(), tmp_path / "some.pth", tmp_path / "new"
    torch.save({"model": model.state_dict()}, source)
    assert "num_heads=" in refused(capsys, source, out, "--format", "maerestore")
    options = ["--num-heads", "2", "--decoder-num-heads", "2", "--norm-pix-loss"]
    options += ["--mean", "0.1", "0.2", "0.3", "--std", "1", "1", "1"]
    assert main(["export", str(source), str(out), "--format", "maerestore", *options]) == 0
    again = load_autoencoder(out)
    assert again.config.norm_pix_loss
    assert again.config.mean == (0.1, 0.2, 0.3)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_ours_keeps_its_notes_and_may_be_halved(ours, tmp_path):
    source, out = ours(), tmp_path / "half"
    assert main(["export", source, str(out), "--format", "maerestore", "--dtype", "float16"]) == 0
    assert read_notes(out) == read_notes(source) == {"training": {"samples": 7}, "fill": {"smooth": 1.0}}
    assert (out / "model.safetensors").stat().st_size < 0.7 * (tmp_path / "ours/model.safetensors").stat().st_size


def test_an_encoder_alone_gives_the_same_features(ours, tmp_path, noise_images):
    out = tmp_path / "encoder"
    assert main(["export", ours(), str(out), "--format", "maerestore", "--encoder-only"]) == 0
    encoder, whole = load_autoencoder(out), load_autoencoder(ours())
    assert not encoder.config.has_decoder
    assert not [name for name in encoder.state_dict() if "decoder" in name]
    assert torch.equal(encoder.encode(noise_images())[0], whole.encode(noise_images())[0])
    assert read_notes(out) == {"training": {"samples": 7}}  # how to fill is the decoder's matter
    assert main(["export", ours(), str(tmp_path / "vit"), "--format", "transformers", "--encoder-only"]) == 0
    assert json.loads((tmp_path / "vit/config.json").read_text())["architectures"] == ["ViTMAEModel"]


def test_a_model_is_written_over_only_when_told_to(ours, tmp_path, capsys):
    source, out = ours(), tmp_path / "vitmae"
    assert main(["export", source, str(out), "--format", "transformers"]) == 0
    capsys.readouterr()
    before = (out / "config.json").read_bytes()
    assert "--overwrite" in refused(capsys, source, out, "--format", "maerestore")
    assert (out / "config.json").read_bytes() == before
    assert main(["export", source, str(out), "--format", "transformers", "--overwrite"]) == 0


@pytest.mark.parametrize("model", ["nothing.pth", "absent/folder/x", "."])
def test_a_model_that_is_none_is_refused(tmp_path, capsys, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    refused(capsys, model, tmp_path / "out", "--format", "transformers")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(ours, tmp_path, capsys):
    source = ours()
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(capsys, source, tmp_path / "file", "--format", "transformers")
    assert "cannot be written" in refused(capsys, source, tmp_path / "file/below", "--format", "maerestore")


def test_weights_too_large_for_half_precision_are_refused(tiny_model, tmp_path, capsys):
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    save_autoencoder(model, tmp_path / "ours", dtype=torch.float32)
    arguments = (tmp_path / "ours", tmp_path / "out", "--format", "transformers", "--dtype", "float16")
    assert "norm.weight" in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_drop_mask_embed_is_for_transformers_only(ours, tmp_path, capsys):
    assert "--drop-mask-embed" in refused(
        capsys, ours(), tmp_path / "out", "--format", "maerestore", "--drop-mask-embed"
    )


def test_a_write_that_fails_leaves_the_old_model(tiny_model, tmp_path, monkeypatch):
    export_transformers(tiny_model(), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(weights, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maerestore.hub.save.save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        export_transformers(tiny_model(seed=1), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_overwrite_leaves_nothing_of_the_model_before(ours, tiny_model, tmp_path, capsys):
    out = tmp_path / "out"
    save_networks(tiny_model(), tmp_path / "refined", refiner=make_refiner())
    assert main(["export", str(tmp_path / "refined"), str(out), "--format", "maerestore"]) == 0
    (out / "README.md").write_text("of the first")
    capsys.readouterr()
    for form, names in (
        ("transformers", ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]),
        ("maerestore", ["README.md", "config.json", "model.safetensors"]),
    ):
        assert main(["export", ours(), str(out), "--format", form, "--overwrite"]) == 0
        assert sorted(path.name for path in out.iterdir()) == names
        assert "README.md is kept" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "refined"), str(out), "--format", "maerestore", "--overwrite"]) == 0
    assert (out / "refiner.safetensors").is_file()


def test_a_refiner_that_does_not_fit_half_precision_leaves_nothing(tiny_model, tmp_path, capsys):
    refiner = make_refiner()
    with torch.no_grad():
        refiner.head.weight[0] = 1e6
    save_networks(tiny_model(), tmp_path / "big", refiner=refiner)
    assert "float16" in refused(
        capsys, tmp_path / "big", tmp_path / "out", "--format", "maerestore", "--dtype", "float16"
    )
    assert not (tmp_path / "out").exists()


def test_the_config_states_every_size(tiny_model, tmp_path):
    export_transformers(tiny_model(mlp_ratio=3.0), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("vit_mae", ["ViTMAEForPreTraining"])
    assert (config["hidden_size"], config["intermediate_size"], config["decoder_intermediate_size"]) == (32, 96, 48)


@pytest.mark.parametrize("form", ["transformers", "maerestore"])
def test_a_classifier_is_not_written_over(ours, tmp_path, capsys, form):
    out = tmp_path / "head"
    out.mkdir()
    for name in ("config.json", "head.safetensors"):
        (out / name).write_text("mine")
    assert "holds a classifier" in refused(capsys, ours(), out, "--format", form, "--overwrite")
    assert (out / "config.json").read_text() == "mine"
    assert len(list(out.iterdir())) == 2
