from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import maerestore.features.classify as package
from maerestore import InputError, MaerestoreError, ModelError
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.fit import FitSettings, fit_tables
from maerestore.features.classify.images import features_of_items
from maerestore.features.classify.labelled import find_labelled, numbers_of
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.table_files import read_table

from .conftest import paint


def named(labels):
    return [f"class {i}" for i in labels.tolist()]


@pytest.fixture
def halves(clouds, table):
    """A training and a validation table."""

    def make(spread=1.0, **facts):
        (x, y), (val_x, val_y) = clouds(20, spread=spread), clouds(10, spread=spread, seed=1)
        return table(x, named(y)), table(val_x, named(val_y), "val", **facts)

    return make


@pytest.mark.parametrize("method", ["knn", "linear", "logistic"])
def test_the_accuracy_told_is_that_of_the_head_on_the_validation(halves, method):
    train, validation = halves(spread=2.0)
    classifier = fit_tables(train, validation, FitSettings(method=method))
    predicted = classifier.probabilities(validation.features).argmax(1).numpy()
    told = classifier.config.validation
    assert told["accuracy"] == pytest.approx(
        (predicted == numbers_of(validation.labels, classifier.classes)).mean(), abs=1e-6
    )
    assert told["images"] == 30
    assert ("note" in told) == (method != "logistic")
    assert classifier.config.counts == (20, 20, 20)


@pytest.mark.parametrize("method", ["knn", "linear", "logistic"])
def test_labels_of_the_validation_do_not_reach_the_head(halves, method):
    """With one candidate to choose from, what the validation says can change nothing."""
    train, validation = halves()
    settings = FitSettings(method=method, ks=(5,), rates=(0.1,))
    kept = fit_tables(train, validation, settings)
    validation.labels.reverse()
    turned = fit_tables(train, validation, settings)
    assert turned.config.validation["accuracy"] < kept.config.validation["accuracy"]
    assert torch.equal(kept.probabilities(train.features), turned.probabilities(train.features))


def test_a_set_without_validation(halves):
    train, _ = halves()
    assert fit_tables(train, None, FitSettings(method="logistic")).config.validation == {}
    with pytest.raises(MaerestoreError, match="validation set"):
        fit_tables(train, None, FitSettings(method="linear"))


def test_the_method_follows_the_size():
    assert FitSettings().method_for(10_000) == "logistic"
    assert FitSettings().method_for(10_001) == "linear"
    assert FitSettings(method="knn").method_for(5) == "knn"
    with pytest.raises(MaerestoreError, match="method must be one of auto, knn"):
        FitSettings(method="svm")


def test_sets_that_do_not_fit_are_refused(halves, table):
    train, validation = halves()
    with pytest.raises(InputError, match="two classes or more"):
        fit_tables(train.rows(range(20)), None)
    with pytest.raises(InputError, match="'class 2' is not among"):
        fit_tables(train.rows(range(40)), validation)
    with pytest.raises(InputError, match="another model"):
        fit_tables(*halves(fingerprint="0" * 64))
    with pytest.raises(InputError, match="needs the images"):
        fit_tables(train, None, FitSettings(method="finetune"))


def test_images_to_classes_and_back(tiny_folder, tmp_path):
    """From folders to a head, and from its folder to predictions of pictures it never saw."""
    items = find_labelled([paint(tmp_path / "photos", 6)])
    extractor = FeatureExtractor.from_pretrained(tiny_folder, device="cpu")
    table = features_of_items(items, extractor, tmp_path / "kept.safetensors", workers=1)
    assert np.allclose(read_table(tmp_path / "kept.safetensors").features, table.features)
    alone = features_of_items(items, extractor, workers=1)
    assert np.allclose(alone.features, table.features, atol=1e-5)
    assert (alone.names, alone.labels, alone.facts) == (table.names, table.labels, table.facts)
    fit_tables(table, None, FitSettings(method="knn", ks=(3,))).save_pretrained(tmp_path / "head")
    classifier = Classifier.from_pretrained(tmp_path / "head", device="cpu")
    fresh = find_labelled([paint(tmp_path / "fresh", 2, seed=5)])
    found = classifier.predict([item.path for item in fresh], top=2)
    assert [prediction.label for prediction in found] == [item.label for item in fresh]
    assert all(len(prediction.top) == 2 for prediction in found)


def test_a_cache_of_other_images_is_left_alone(tiny_folder, tmp_path):
    items = find_labelled([paint(tmp_path / "photos", 2)])
    extractor = FeatureExtractor.from_pretrained(tiny_folder, device="cpu")
    cache = tmp_path / "kept.npy"
    features_of_items(items, extractor, cache, workers=1)
    before = cache.read_bytes()
    with pytest.raises(InputError, match="other images too"):
        features_of_items(items[:3], extractor, cache, workers=1)
    assert cache.read_bytes() == before


def test_a_head_refuses_other_weights_and_other_options(tiny_folder, tiny_model, tmp_path):
    from maerestore.hub.save import save_autoencoder

    items = find_labelled([paint(tmp_path / "photos", 2)])
    extractor = FeatureExtractor.from_pretrained(tiny_folder, device="cpu")
    table = features_of_items(items, extractor, workers=1)
    fit_tables(table, None, FitSettings(method="knn", ks=(1,))).save_pretrained(tmp_path / "head")
    save_autoencoder(tiny_model(seed=1), tmp_path / "other")
    classifier = Classifier.from_pretrained(tmp_path / "head", model=tmp_path / "other", device="cpu")
    with pytest.raises(ModelError, match=r"other.* is not what the classifier was fitted on"):
        classifier.predict(items[0].path)
    # The same weights elsewhere will do, and are what the head names from then on.
    (tmp_path / "model").rename(tmp_path / "moved")
    moved = Classifier.from_pretrained(tmp_path / "head", model=tmp_path / "moved", device="cpu")
    assert moved.predict(items[0].path)[0].label == "blue"
    assert moved.public_config().model == str(tmp_path / "moved")


def test_an_image_that_cannot_be_read_is_told_and_left_out(tiny_folder, tmp_path):
    paint(tmp_path / "photos", 1)
    (tmp_path / "photos/red/broken.png").write_bytes(b"no image")
    told = []
    extractor = FeatureExtractor.from_pretrained(tiny_folder, device="cpu")
    items = find_labelled([tmp_path / "photos"])
    table = features_of_items(items, extractor, workers=1, failed=lambda name, reason: told.append(name))
    assert [name.rpartition("/")[2] for name in told] == ["broken.png"]
    assert len(table) == 4
    assert len(table.without_errors()) == 3


def test_every_public_name_can_be_had():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = package.nonesuch


def test_a_gray_image_is_an_image(tiny_folder, tmp_path):
    table = features_of_items(
        find_labelled([paint(tmp_path / "photos", 2)]), FeatureExtractor.from_pretrained(tiny_folder, device="cpu")
    )
    classifier = fit_tables(table, None, FitSettings(method="knn", ks=(1,)), device="cpu")
    assert classifier.predict(Image.new("L", (40, 30)))[0].label in classifier.classes


def test_rows_without_a_feature_are_left_out(halves):
    tables = [
        replace(each, features=np.vstack([each.features, np.full((1, each.features.shape[1]), np.nan, np.float32)]),
                names=[*each.names, "broken.png"], labels=[*each.labels, "class 0"], errors=[*each.errors, "damaged"],
                sizes=np.append(each.sizes, 1), mtimes=np.append(each.mtimes, 1))
        for each in halves()
    ]  # fmt: skip
    plain, found = (fit_tables(*each, FitSettings(method="logistic")) for each in (halves(), tables))
    assert found.config.counts == plain.config.counts
    assert found.config.validation == plain.config.validation


@pytest.mark.parametrize("top", [0, -3, 1.5, True])
def test_a_number_of_classes_that_is_none_is_refused(halves, top):
    with pytest.raises(InputError, match="top must be a whole number of at least 1"):
        fit_tables(*halves()).predict([], top=top)
