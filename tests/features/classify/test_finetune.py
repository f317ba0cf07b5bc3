from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import maerestore.features.classify.fit as fitting
from maerestore import MaerestoreError, ModelError
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.finetune import OPTIONS, FineTuneSettings, Network, encoder_of, finetune
from maerestore.features.classify.fit import FitSettings, fit_tables
from maerestore.features.classify.fit_encoder import fit_images, fit_probe
from maerestore.features.classify.images import features_of_items
from maerestore.features.classify.labelled import find_labelled
from maerestore.features.classify.linear import LinearHead, Standardize, fit_linear
from maerestore.features.classify.logistic import fit_logistic
from maerestore.features.extractor import FeatureExtractor

from .conftest import paint


def small(classes, dim=32):
    """A head of small random weights, and scales that change nothing."""
    weight = 0.01 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    return LinearHead(weight, torch.zeros(classes)), Standardize(torch.zeros(dim), torch.ones(dim))


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("fit", [fit_linear, fit_logistic])
@pytest.mark.parametrize("size", [None, 16])
def test_before_the_first_step_the_network_classifies_as_the_probe(tiny_model, fit, size):
    side = size or 32
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 200, (30, 1, 1, 3)) + rng.integers(0, 56, (30, side, side, 3))).astype(np.uint8)
    labels = torch.from_numpy(images.mean((1, 2)).argmax(1))
    encoder = encoder_of(tiny_model())
    options = replace(FineTuneSettings(size=size).options, precision="fp32")
    x = FeatureExtractor(AutoencoderBackbone(encoder), options, device="cpu")(list(images))
    probe, _ = fit(x, labels, 3, x, labels)
    wanted = probe.probabilities(x)
    assert wanted.std() > 0.1  # a probe that says nothing would prove nothing
    network = Network(encoder, probe, Standardize.of(x))
    with torch.no_grad():
        found = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).softmax(1)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(network.head().probabilities(x), wanted, atol=1e-5)


@pytest.fixture
def photos(tmp_path):
    """Images to train and to validate on, in colours that a probe of a random encoder does not tell apart entirely."""
    return find_labelled([paint(tmp_path / "photos", 6)]), find_labelled([paint(tmp_path / "held", 3, seed=7)])


def test_the_probe_is_kept_where_tuning_makes_it_worse(tiny_model, photos, tmp_path):
    train, held = photos
    settings = FitSettings("finetune", tuning=FineTuneSettings(epochs=2, batch_size=6, lr=30.0, warmup=0, size=24))
    classifier = fit_images(tiny_model(), train, held, settings, device="cpu", workers=1)
    chosen = classifier.config.chosen
    assert chosen["kept"] == 0
    assert chosen["accuracies"][0] > max(chosen["accuracies"][1:])
    assert classifier.config.validation["accuracy"] == chosen["accuracies"][0]
    assert classifier.config.validation["note"] == "the linear probe alone: none of 2 epochs was better by them"
    # It is the probe on features of the same encoder with the same options.
    assert same(classifier.encoder, encoder_of(tiny_model()))
    extractor = FeatureExtractor(AutoencoderBackbone(encoder_of(tiny_model())), replace(OPTIONS, size=24), device="cpu")
    tables = [features_of_items(items, extractor, workers=1) for items in (train, held)]
    probe = fit_tables(*tables, FitSettings(method="logistic"))
    assert torch.equal(classifier.head.weight, probe.head.weight)
    assert probe.config.validation["accuracy"] == chosen["probe"]["validation"]["accuracy"]
    assert (chosen["probe"]["method"], chosen["probe"]["C"]) == ("logistic", probe.config.chosen["C"])
    classifier.save_pretrained(tmp_path / "head")
    loaded = Classifier.from_pretrained(tmp_path / "head", device="cpu")
    assert torch.equal(loaded.extractor([item.path for item in held]), torch.from_numpy(tables[1].features))


def test_the_best_epoch_is_kept_the_first_of_equals(tiny_model):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    marks, seen = [0.5, 0.4, 0.9, 0.9, 0.1], []

    def score(encoder, head):
        seen.append((encoder, head))
        return (marks[len(seen) - 1],)

    settings = FineTuneSettings(epochs=4, batch_size=3)
    probe, scales = small(2)
    encoder, head, chosen = finetune(
        tiny_model(), images.__getitem__, torch.arange(6) % 2, probe, scales, settings, score
    )
    assert chosen["kept"] == 2
    assert same(encoder, seen[2][0])
    assert torch.equal(head.weight, seen[2][1].weight)
    assert not same(encoder, seen[3][0])
    assert same(seen[0][0], encoder_of(tiny_model()))
    assert seen[0][1] is probe


def test_without_validation_the_last_epoch_is_kept(tiny_model, photos):
    settings = FitSettings("finetune", tuning=FineTuneSettings(epochs=2, batch_size=6, lr=0.01))
    classifier = fit_images(tiny_model(), photos[0], [], settings, device="cpu", workers=1)
    assert classifier.config.chosen["kept"] == 2
    assert classifier.config.validation == {}
    assert not same(classifier.encoder, encoder_of(tiny_model()))


def test_the_seed_decides_all(tiny_model, photos):
    def fit(seed):
        tuning = FineTuneSettings(epochs=1, batch_size=6, lr=0.01)
        made = fit_images(tiny_model(), photos[0], [], FitSettings("finetune", seed=seed, tuning=tuning), device="cpu")
        return made.config.fingerprint, made.head.weight.tolist(), made.config.chosen

    assert fit(0) == fit(0)
    assert fit(0)[1] != fit(1)[1]


def test_a_probe_without_validation_finds_something_to_choose_by(clouds, monkeypatch):
    x, y = clouds(20)
    head, about = fit_probe(x, y, 3, None, None, 0, None)
    assert (about["method"], about["by"]) == ("logistic", "5-fold cross-validation")
    assert "held_out" not in about
    assert (head.probabilities(x).argmax(1) == y).float().mean() > 0.9
    rows = torch.cat([torch.arange(40), torch.tensor([40])])  # one image of the last class: no folds
    _, about = fit_probe(x[rows], y[rows], 3, None, None, 0, None)
    assert (about["by"], about["held_out"]) == ("validation", 4)
    rows = torch.tensor([0, 20, 40])
    head, about = fit_probe(x[rows], y[rows], 3, None, None, 0, None)
    assert about == {"method": "logistic", "C": 0.1}
    assert head.probabilities(x[rows]).argmax(1).tolist() == [0, 1, 2]
    monkeypatch.setattr(fitting, "MOST_LOGISTIC", 50)
    head, about = fit_probe(x, y, 3, None, None, 0, None)
    assert (about["method"], about["held_out"]) == ("linear", 6)
    assert (head.probabilities(x).argmax(1) == y).float().mean() > 0.9


def test_images_are_seen_at_the_size_asked_for(tiny_model, photos, monkeypatch):
    shapes, forward = set(), Network.forward

    def watched(self, images):
        shapes.add(tuple(images.shape[2:]))
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", watched)
    settings = FitSettings("finetune", tuning=FineTuneSettings(epochs=1, size=17))
    classifier = fit_images(tiny_model(), photos[0], [], settings, device="cpu", workers=1)
    assert shapes == {(16, 16)}  # whole patches
    assert classifier.config.options["size"] == 17


def test_finetuning_learns_is_determined_by_its_seed_and_leaves_the_model(tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    labels = torch.arange(24) % 2
    images = [np.full((40, 48, 3), (60, 190)[y], np.uint8) + rng.integers(0, 40, (40, 48, 3), dtype=np.uint8)
              for y in labels]  # fmt: skip
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = FineTuneSettings(epochs=8, batch_size=8, lr=0.1, label_smoothing=0)

    def tune(workers=1, **changes):
        chosen = replace(settings, **changes)
        return finetune(model, images.__getitem__, labels, *small(2), chosen, workers=workers)

    encoder, head, chosen = tune()
    assert chosen["losses"][-1] < 0.6 * chosen["losses"][0]
    assert not encoder.config.has_decoder
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(encoder.blocks[0].attn.qkv.weight, encoder_of(model).blocks[0].attn.qkv.weight)
    again, other, _ = tune(workers=3)
    assert torch.equal(head.weight, other.weight)
    assert same(encoder, again)
    assert not torch.equal(head.weight, tune(seed=1)[1].weight)


def test_a_step_in_parts_is_the_step_at_once(tiny_model):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    settings = FineTuneSettings(epochs=1, batch_size=6, lr=1.0)
    labels = torch.arange(6) % 3
    whole, parts = (
        finetune(tiny_model(), images.__getitem__, labels, *small(3), settings, at_once=at_once) for at_once in (6, 4)
    )
    assert torch.allclose(whole[1].weight, parts[1].weight, atol=1e-5)
    assert whole[2]["losses"] == pytest.approx(parts[2]["losses"], abs=2e-4)


def test_lower_blocks_move_less(tiny_model):
    model = tiny_model()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = FineTuneSettings(epochs=1, batch_size=2, lr=5.0, layer_decay=0.3, warmup=0)
    encoder, _, _ = finetune(model, lambda _: image, torch.tensor([0, 1]), *small(2), settings)
    start = encoder_of(model).state_dict()
    moved = {name: float((value - start[name]).abs().max()) for name, value in encoder.state_dict().items()}
    assert moved["norm.weight"] > 5 * moved["blocks.0.norm1.weight"] > 0.002
    assert moved["pos_embed"] == 0


def test_an_image_that_cannot_be_read_does_not_change_what_is_held_out(tiny_model, photos, tmp_path):
    settings = FitSettings("finetune", tuning=FineTuneSettings(epochs=1, batch_size=6, lr=0.01))
    (tmp_path / "photos/blue/0.png").write_bytes(b"no image")  # the first of all
    made = []
    for items in (photos[0], find_labelled([tmp_path / "photos"])):
        made.append(fit_images(tiny_model(), items, [], settings, share=0.34, device="cpu", workers=1))
    assert [classifier.config.counts for classifier in made] == [(4, 4, 4)] * 2
    assert made[0].config.validation == made[1].config.validation
    assert made[0].config.validation["images"] == 6
    assert torch.equal(made[0].head.weight, made[1].head.weight)
    for share, held in ((1.0, []), (-0.1, []), (0.5, photos[1])):
        with pytest.raises(MaerestoreError, match="share must lie in"):
            fit_images(tiny_model(), photos[0], held, settings, share=share, device="cpu")


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "layer_decay", "min_area", "size"])
def test_a_setting_of_the_tuning_that_does_not_fit_is_named(name):
    with pytest.raises(MaerestoreError, match=f"{name} does not fit: -1"):
        FineTuneSettings(**{name: -1})


def test_a_tuned_encoder_is_saved_with_its_head_and_is_a_model(tiny_model, tmp_path, hub):
    items = find_labelled([paint(tmp_path / "photos", 6)])
    held = find_labelled([paint(tmp_path / "held", 3, seed=7)])
    (tmp_path / "photos/blue/broken.png").write_bytes(b"no image")
    items += [item for item in find_labelled([tmp_path / "photos"]) if "broken" in item.name]
    skipped = []
    settings = FitSettings("finetune", tuning=FineTuneSettings(epochs=8, batch_size=6, lr=0.03))
    classifier = fit_images(tiny_model(), items, held, settings, start="default", device="cpu", workers=1,
                            failed=lambda name, reason: skipped.append(name))  # fmt: skip
    assert [name.rpartition("/")[2] for name in skipped] == ["broken.png"]
    assert classifier.config.counts == (6, 6, 6)
    assert classifier.config.validation["accuracy"] == 1.0
    classifier.save_pretrained(tmp_path / "head")
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == [
        "config.json", "head.safetensors", "model.safetensors"]  # fmt: skip
    loaded = Classifier.from_pretrained(tmp_path / "head", device="cpu")
    features = FeatureExtractor.from_pretrained(tmp_path / "head", normalize=False, device="cpu")
    assert features.fingerprint == loaded.config.fingerprint
    images = [item.path for item in held]
    assert [p.label for p in loaded.predict(images)] == [item.label for item in held]
    assert torch.allclose(
        loaded.probabilities(features(images)), classifier.probabilities(classifier.extractor(images)), atol=1e-5
    )
    with pytest.raises(ModelError, match="own encoder"):
        Classifier.from_pretrained(tmp_path / "head", model="default")
    loaded.push_to_hub("org/tuned")
    pulled = Classifier.from_pretrained("org/tuned", device="cpu")
    assert [p.top for p in pulled.predict(images)] == [p.top for p in loaded.predict(images)]
