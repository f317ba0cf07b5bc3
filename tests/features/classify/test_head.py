from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maerestore import ModelError
from maerestore.features.classify import folders
from maerestore.features.classify.classifier import Classifier
from maerestore.features.classify.fit import FitSettings, fit_tables
from maerestore.features.classify.head import StoredHead, check_folder, load_head, save_head
from maerestore.features.classify.head_config import HeadConfig
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.whiten import Whitening

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def fitted(clouds, table):
    """fitted(method): a classifier of three clouds."""

    def make(method="knn"):
        x, y = clouds(20)
        val_x, val_y = clouds(10, seed=1)
        named = [[NAMES[i] for i in labels.tolist()] for labels in (y, val_y)]
        return fit_tables(table(x, named[0]), table(val_x, named[1], "val"), FitSettings(method=method))

    return make


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("method", ["knn", "linear", "logistic"])
def test_a_head_comes_back_as_it_was(fitted, clouds, tmp_path, method):
    classifier = fitted(method)
    classifier.save_pretrained(tmp_path / "head")
    assert files(tmp_path) == ["head"]
    assert files(tmp_path / "head") == ["config.json", "head.safetensors"]
    loaded = Classifier.from_pretrained(tmp_path / "head")
    query, _ = clouds(10, seed=2)
    assert torch.equal(loaded.probabilities(query), classifier.probabilities(query))
    assert loaded.classes == NAMES
    assert loaded.method == method
    assert loaded.config.validation == classifier.config.validation
    stored = load_file(tmp_path / "head" / "head.safetensors")
    assert {name: value.dtype for name, value in stored.items()} == (
        {"features": torch.float16} if method == "knn" else {"weight": torch.float32, "bias": torch.float32}
    )


def test_a_head_is_replaced_only_when_asked_and_then_whole(fitted, tmp_path):
    fitted("logistic").save_pretrained(tmp_path / "head")
    with pytest.raises(ModelError, match=r"--overwrite .in Python: overwrite=True"):
        fitted("knn").save_pretrained(tmp_path / "head")
    assert load_head(tmp_path / "head").config.method == "logistic"
    fitted("knn").save_pretrained(tmp_path / "head", overwrite=True)
    assert load_head(tmp_path / "head").config.method == "knn"
    assert files(tmp_path) == ["head"]


def killed_in_between(fitted, folder, monkeypatch):
    """An overwriting that is stopped after the old head moved aside, on a system that cannot swap folders."""
    replaced = os.replace

    def stopped(source, target):
        if target == folder:
            raise KeyboardInterrupt
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "exchange", lambda *_: False)
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            fitted("knn").save_pretrained(folder, overwrite=True)
    assert not folder.exists()


def test_a_kill_between_two_renames_loses_no_head(fitted, tmp_path, monkeypatch):
    folder = tmp_path / "head"
    fitted("logistic").save_pretrained(folder)
    killed_in_between(fitted, folder, monkeypatch)
    folders.recover(folder)
    assert load_head(folder).config.method == "logistic"
    assert files(tmp_path) == ["head"]
    # The next fit sees it too.
    killed_in_between(fitted, folder, monkeypatch)
    with pytest.raises(ModelError, match=r"--overwrite .in Python: overwrite=True"):
        check_folder(folder)
    folders.recover(tmp_path / "nothing")
    assert files(tmp_path) == ["head"]


def test_where_folders_cannot_be_swapped_they_are_renamed(fitted, tmp_path, monkeypatch):
    fitted("logistic").save_pretrained(tmp_path / "head")
    monkeypatch.setattr(folders, "exchange", lambda *_: False)
    left = folders.aside(tmp_path / "head")  # by a kill after the second rename
    left.mkdir()
    (left / "config.json").touch()
    fitted("knn").save_pretrained(tmp_path / "head", overwrite=True)
    assert load_head(tmp_path / "head").config.method == "knn"
    assert files(tmp_path) == ["head"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps folders")
def test_a_head_is_replaced_in_one_step(fitted, tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not folders.exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("not on this file system")
    assert (files(tmp_path / "one"), files(tmp_path / "other")) == (["other"], ["one"])
    assert not folders.exchange(tmp_path / "one", tmp_path / "none")
    fitted("logistic").save_pretrained(tmp_path / "head")
    moved, replaced = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (moved.append(paths), replaced(*paths)))
    fitted("knn").save_pretrained(tmp_path / "head", overwrite=True)
    assert load_head(tmp_path / "head").config.method == "knn"
    assert not [paths for paths in moved if tmp_path / "head" in paths]
    assert files(tmp_path) == ["head", "one", "other"]


def test_a_save_that_fails_leaves_the_old_head(fitted, tmp_path, monkeypatch):
    fitted("logistic").save_pretrained(tmp_path / "head")
    before = {name: (tmp_path / "head" / name).read_bytes() for name in files(tmp_path / "head")}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maerestore.hub.save.save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        fitted("knn").save_pretrained(tmp_path / "head", overwrite=True)
    assert files(tmp_path) == ["head"]
    assert {name: (tmp_path / "head" / name).read_bytes() for name in files(tmp_path / "head")} == before


def test_other_folders_are_not_written_over(fitted, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"mine")
    (tmp_path / "file").touch()
    for name, words in (("photos", "something else"), ("file", "is a file"), ("none/head", "create it first")):
        with pytest.raises(ModelError, match=words):
            fitted().save_pretrained(tmp_path / name, overwrite=True)
    assert files(tmp_path) == ["file", "photos"]
    (tmp_path / "empty").mkdir()
    fitted().save_pretrained(tmp_path / "empty")
    assert "config.json" in files(tmp_path / "empty")


def test_card_and_pictures_stay_when_a_head_is_replaced(fitted, tmp_path):
    folder = tmp_path / "head"
    fitted("logistic").save_pretrained(folder)
    (folder / "README.md").write_text("mine ![grid](figures/grid.png)")
    (folder / "figures").mkdir()
    for name in ("figures/grid.png", "confusion.png"):
        (folder / name).write_text(name)
    fitted("knn").save_pretrained(folder, overwrite=True)
    assert load_head(folder).config.method == "knn"
    assert files(folder) == ["README.md", "config.json", "confusion.png", "figures", "head.safetensors"]
    assert (folder / "README.md").read_text().startswith("mine")
    for name in ("figures/grid.png", "confusion.png"):
        assert (folder / name).read_text() == name


@pytest.mark.parametrize(
    "name", ["thesis.txt", "photos/a.jpg", "figures/unseen.png", ".git/config", "refiner.safetensors"]
)
def test_a_folder_that_holds_other_files_too_is_not_replaced(fitted, tmp_path, name):
    folder = tmp_path / "head"
    fitted("logistic").save_pretrained(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    for call in (check_folder, fitted("knn").save_pretrained):
        with pytest.raises(ModelError, match=f"also holds '{name}', which would be lost"):
            call(folder, overwrite=True)
    assert load_head(folder).config.method == "logistic"
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, 0, 2.5, True, "3", None])
def test_a_k_that_is_no_number_of_neighbours_is_refused(fitted, tmp_path, value):
    fitted("knn").save_pretrained(tmp_path / "head")
    path = tmp_path / "head/config.json"
    content = json.loads(path.read_text())
    content["classifier"]["chosen"]["k"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"config\.json: .*does not fit"):
        load_head(tmp_path / "head")


@pytest.fixture
def whitened(clouds, table):
    """make(): a table of whitened features, and their whitening."""

    def make(prefix="train", seed=0):
        x, _ = clouds(20)
        whitening = Whitening.fit(x, 4, fingerprint="e" * 64)
        facts = {"fingerprint": hashlib.sha256(("e" * 64 + whitening.digest()).encode()).hexdigest()}
        points, labels = clouds(10, seed=seed)
        return table(whitening(points), [NAMES[i] for i in labels.tolist()], prefix, **facts), whitening

    return make


def test_a_whitening_is_kept_with_the_head(whitened, tmp_path):
    (train, whitening), (val, _) = whitened(), whitened("val", 1)
    whitening.save(tmp_path / "w.safetensors")
    fit_tables(train, val, FitSettings(method="logistic"), whitening=tmp_path / "w.safetensors").save_pretrained(
        tmp_path / "head"
    )
    assert files(tmp_path / "head") == ["config.json", "head.safetensors", "whitening.safetensors"]
    loaded = load_head(tmp_path / "head")
    assert loaded.whitening.digest() == whitening.digest()
    assert loaded.config.whitened
    again = Classifier.from_pretrained(tmp_path / "head")
    again.save_pretrained(tmp_path / "copy")
    assert load_head(tmp_path / "copy").whitening.digest() == whitening.digest()
    (tmp_path / "copy/whitening.safetensors").unlink()
    with pytest.raises(ModelError, match=r"whitening\.safetensors"):
        load_head(tmp_path / "copy")


def test_a_whitening_of_other_features_is_refused_before_the_work(whitened, fitted, tmp_path, monkeypatch):
    train, _ = whitened()
    other = Whitening.fit(np.random.default_rng(0).normal(size=(30, 8)), 4, fingerprint="e" * 64)
    other.save(tmp_path / "other.safetensors")
    monkeypatch.setattr("maerestore.features.classify.fit.fit_logistic", lambda *args, **more: pytest.fail("fitted"))
    with pytest.raises(ModelError, match=r"other\.safetensors: .*were not whitened"):
        fit_tables(train, None, FitSettings(method="logistic"), whitening=str(tmp_path / "other.safetensors"))


def test_a_head_on_whitened_features_without_the_whitening_is_not_sent(whitened, hub):
    """Nobody else could use it; the message says what to do."""
    train, _ = whitened()
    classifier = fit_tables(train, None, FitSettings(method="logistic"))
    with pytest.raises(ModelError, match=r"--whiten FILE.*\(in Python: whitening=\)$"):
        classifier.push_to_hub("org/head")
    with pytest.raises(ModelError, match="--whiten"):
        classifier.check("f" * 64)
    assert hub.requests == []


CHANGES = {
    "method": "svm",
    "classes": ["cat", "cat", "owl"],
    "counts": [1, 2],
    "dim": 0,
    "model": None,
    "fingerprint": "../..",
    "options": {"pooling": "median"},
    "validation": [],
    "chosen": {"temperature": 0.07},
    "surplus": 1,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_config_that_does_not_fit_is_refused_in_one_line(fitted, tmp_path, key):
    fitted().save_pretrained(tmp_path / "head")
    path = tmp_path / "head/config.json"
    content = json.loads(path.read_text())
    content["classifier"][key] = CHANGES[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        load_head(tmp_path / "head")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("logistic", lambda t: t.pop("bias"), "does not fit"),
        ("logistic", lambda t: t.update(more=torch.ones(1)), "does not fit"),
        ("logistic", lambda t: t.update(weight=t["weight"][:, :-1].contiguous()), "does not fit"),
        ("logistic", lambda t: t["weight"].fill_(float("nan")), "not finite"),
        ("knn", lambda t: t.update(features=t["features"][:-1].contiguous()), "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(fitted, tmp_path, method, change, words):
    fitted(method).save_pretrained(tmp_path / "head")
    path = tmp_path / "head/head.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=words):
        load_head(tmp_path / "head")


def test_damaged_and_missing_files_are_refused(fitted, tmp_path):
    fitted().save_pretrained(tmp_path / "head")
    path = tmp_path / "head/head.safetensors"
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(ModelError, match="safetensors"):
        load_head(tmp_path / "head")
    path.unlink()
    with pytest.raises(ModelError, match=r"head\.safetensors"):
        load_head(tmp_path / "head")
    (tmp_path / "head/config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no classifier"):
        load_head(tmp_path / "head")


@pytest.mark.parametrize("name", ["nothing", "animls.head", "heads/animls.head", "./animals", "../animals", "~/a", "/a",
                                  "", "org/" + "n" * 300 + ".head"])  # fmt: skip
def test_a_folder_that_is_not_there_is_not_asked_for_on_the_hub(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **more: pytest.fail("the Hub is asked"))
    with pytest.raises(ModelError, match=f"^no such folder {name!r}: give one that .* wrote, or org/name"):
        Classifier.from_pretrained(name)


def test_a_folder_named_like_a_bundled_model_is_taken(fitted, tmp_path, monkeypatch):
    fitted().save_pretrained(tmp_path / "features")
    monkeypatch.chdir(tmp_path)
    assert Classifier.from_pretrained("features").classes


def test_the_default_model_is_no_classifier():
    with pytest.raises(ModelError, match="holds no classifier"):
        Classifier.from_pretrained("default")


def test_a_head_on_a_local_model_does_not_go_to_the_hub(fitted, tmp_path, hub):
    classifier = fitted()
    classifier.config = replace(classifier.config, model=str(tmp_path / "model"))
    with pytest.raises(ModelError, match="only this machine has"):
        classifier.push_to_hub("org/head")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["enc", "runs/model"])
def test_a_model_given_by_a_relative_path_is_kept_by_its_absolute_one(clouds, table, tmp_path, monkeypatch, hub, name):
    """From another folder it would be looked for on the Hub."""
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    x, y = clouds(20)
    train = table(x, [NAMES[i] for i in y.tolist()])
    train.facts["model"] = name
    classifier = fit_tables(train, None, FitSettings(method="logistic"))
    assert classifier.config.model == str(tmp_path / name)
    monkeypatch.chdir("/")
    with pytest.raises(ModelError, match="only this machine has"):
        classifier.push_to_hub("org/head")
    assert hub.requests == []


def test_a_model_that_is_only_a_word_does_not_go_to_the_hub(fitted, hub):
    classifier = fitted()
    classifier.config = replace(classifier.config, model="enc")
    with pytest.raises(ModelError, match="only this machine has"):
        classifier.push_to_hub("org/head")


def test_push_and_load_over_the_hub(fitted, clouds, hub, tmp_path):
    classifier = fitted("logistic")
    fingerprint = FeatureExtractor.from_pretrained("default").fingerprint
    classifier.config = replace(classifier.config, fingerprint=fingerprint)
    address = classifier.push_to_hub("org/head", license="mit")
    assert address.startswith(f"{hub.endpoint}/org/head/commit/")
    stored = hub.repositories["org/head"]
    commit = stored.commits[stored.refs["main"]]
    assert {"README.md", "config.json", "head.safetensors"} <= set(commit)
    assert stored.messages[stored.refs["main"]] == "Upload classifier with maerestore"
    card = commit["README.md"].data.decode()
    for words in ("pipeline_tag: image-classification", "license: mit", "logistic regression", "| owl | 20 |",
                  'Classifier.from_pretrained("org/head")', "95% Wilson interval", "`default`"):  # fmt: skip
        assert words in card
    loaded = Classifier.from_pretrained("org/head")
    query, _ = clouds(5, seed=3)
    assert torch.equal(loaded.probabilities(query), classifier.probabilities(query))


def test_a_damaged_head_is_not_sent(fitted, hub, tmp_path):
    from maerestore.hub.push import push_folder

    fitted().save_pretrained(tmp_path / "head")
    (tmp_path / "head/head.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        push_folder(tmp_path / "head", "org/head")
    assert hub.requests == []


def test_a_head_is_not_sent_under_a_name_that_is_not_looked_up(fitted, hub):
    with pytest.raises(ModelError, match=r"org/animals\.head: .* leave out the suffix"):
        fitted().push_to_hub("org/animals.head")
    assert hub.requests == []


def test_features_of_another_width_or_model_are_refused(fitted):
    classifier = fitted()
    with pytest.raises(ModelError, match=r"\(N, 8\), got \(2, 7\)"):
        classifier.probabilities(torch.zeros(2, 7))
    with pytest.raises(ModelError, match="fit again"):
        classifier.check("0" * 64)
    classifier.check("f" * 64)


def test_predictions_are_the_most_probable_classes(fitted):
    classifier = fitted()
    rows = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    first, second = classifier.ranked(rows, top=2)
    assert (first.label, [label for label, _ in first.top]) == ("dog", ["dog", "owl"])
    assert (second.label, second.probability) == ("cat", pytest.approx(0.6))
    assert len(classifier.ranked(rows, top=99)[0].top) == 3


def test_of_classes_with_equal_votes_the_first_counts(clouds, table):
    x, y = clouds(10, classes=4)
    train = table(x, ["abcd"[i] for i in y.tolist()])
    classifier = fit_tables(train, train.rows([]), FitSettings(method="knn", ks=(3,)))
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0, 0.5]])
    ranked = classifier.ranked(rows, top=2)
    assert [found.label for found in ranked] == ["abcd"[i] for i in rows.argmax(1)] == ["a", "b", "a"]  # argmax: eval
    assert [[name for name, _ in found.top] for found in ranked] == [["a", "b"], ["b", "c"], ["a", "d"]]


def test_a_finetuned_head_needs_no_model_and_others_need_one():
    chosen = {"k": 1, "temperature": 0.07, "epochs": 1, "kept": 0}
    facts = {
        "classes": ("a", "b"),
        "counts": (1, 1),
        "dim": 2,
        "fingerprint": "f" * 64,
        "options": {},
        "chosen": chosen,
    }
    for method, model in (("finetune", "default"), ("knn", None)):
        with pytest.raises(ModelError, match="model does not fit"):
            HeadConfig(method=method, model=model, **facts)


def test_a_folder_that_cannot_be_written_in_is_told_before_the_work(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(ModelError, match=r"cannot be written, .* is not yours to write in"):
        check_folder(tmp_path / "head")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_the_folder_around_has_to_be_there(fitted, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        save_head(tmp_path / "no/such", StoredHead(fitted().config, fitted().head))
