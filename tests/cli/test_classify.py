"""The `classify` verb in process, with a tiny random model."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.cli import classify as verb
from maerestore.cli.main import main
from maerestore.features import FeatureExtractor
from maerestore.features.whiten import Whitening

from .conftest import captured

COLOURS = {"blue": (30, 40, 200), "green": (30, 200, 40), "red": (200, 40, 30)}


def paint(folder: Path, each: int, seed: int = 0) -> Path:
    """Pictures of three classes that differ in colour: folder/CLASS/N.png."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.array(colour) + rng.normal(0, 25, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def classify(model_folder, capsys):
    """classify(action, *arguments): exit code, stdout, stderr; `fit` with the tiny model, on the CPU."""

    def run(action, *arguments):
        arguments = ["classify", action, *map(str, arguments), "--device", "cpu", "--workers", "1"]
        images = action == "fit" and not any(a.endswith((".npy", ".safetensors")) for a in arguments[2:3])
        if images and "--model" not in arguments:
            arguments += ["--model", str(model_folder)]
        return captured(arguments, capsys)

    return run


@pytest.fixture
def head(classify, tmp_path):
    """A k-NN head of three colours."""
    paint(tmp_path / "photos", 6)
    done = classify("fit", tmp_path / "photos", "-o", tmp_path / "head", "--method", "knn", "--k", 3)
    assert done[0] == 0, done[2]
    return tmp_path / "head"


def refused(done, *words):
    code, out, err = done
    assert (code, out) == (2, "")
    assert err.startswith("maerestore classify")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize("method", ["knn", "linear", "logistic", "auto"])
def test_fit_tells_what_it_did(classify, tmp_path, monkeypatch, method):
    monkeypatch.setattr("maerestore.features.classify.linear.FEWEST_STEPS", 50)
    paint(tmp_path / "photos", 10)
    code, out, err = classify("fit", tmp_path / "photos", "-o", tmp_path / "head", "--method", method, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["method"] == ("logistic" if method == "auto" else method)
    assert (facts["classes"], facts["training_images"], facts["dim"], facts["skipped"]) == (3, 24, 32, [])
    assert facts["validation"]["images"] == 6
    assert facts["validation"]["interval"] == "95% Wilson"
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == ["config.json", "head.safetensors"]


def test_fit_prints_two_lines_and_quiet_none(classify, head, tmp_path):
    again = ("fit", tmp_path / "photos", "-o", head, "--overwrite")
    code, out, err = classify(*again)
    assert (code, err, out.count("\n")) == (0, "", 2)
    assert "logistic, 3 classes, 15 training images, 32 features" in out
    assert "validation: accuracy" in out
    assert "95% Wilson interval" in out
    assert classify(*again, "--quiet") == (0, "", "")


def test_the_same_seed_gives_the_same_head(classify, tmp_path):
    paint(tmp_path / "photos", 8)
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert classify("fit", tmp_path / "photos", "-o", tmp_path / name, "--method", "knn", "--seed", seed)[0] == 0
        made.append((tmp_path / name / "head.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_features_are_kept_and_serve_again(classify, tmp_path, monkeypatch):
    paint(tmp_path / "photos", 5)
    fit = ("fit", tmp_path / "photos", "--features", tmp_path / "kept.npy", "--method", "knn", "--k", 1)
    assert classify(*fit, "-o", tmp_path / "one")[0] == 0

    def fail(*args):
        raise AssertionError("an image was read again")

    monkeypatch.setattr("maerestore.features.engine.load_image", fail)
    assert classify(*fit, "-o", tmp_path / "two")[0] == 0
    # The table is a source by itself.
    assert classify("fit", tmp_path / "kept.npy", "-o", tmp_path / "three", "--method", "knn", "--k", 1)[0] == 0
    made = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("one", "two", "three")]
    assert made[0] == made[1] == made[2]
    code, out, _ = classify("eval", tmp_path / "three", tmp_path / "kept.npy", "--json")
    assert code == 0
    assert json.loads(out)["images"] == 15


def test_kept_features_of_another_kind_are_refused_with_advice_that_helps(classify, tmp_path):
    paint(tmp_path / "photos", 5)
    fit = ("fit", tmp_path / "photos", "--features", tmp_path / "kept.npy", "--method", "knn", "--k", 1)
    assert classify(*fit, "-o", tmp_path / "one")[0] == 0
    code, _, err = classify(*fit, "-o", tmp_path / "two", "--pooling", "cls")
    assert (code, err.count("\n")) == (2, 1)
    assert "give another table, or delete this one" in err
    assert "--overwrite" not in err


def test_predict_in_each_format(classify, head, tmp_path):
    fresh = paint(tmp_path / "fresh", 1, seed=3)
    names = [(fresh / colour / "0.png").as_posix() for colour in COLOURS]
    code, out, err = classify("predict", head, fresh)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [[n, c, "1.000"] for n, c in zip(names, COLOURS, strict=True)]
    rows = list(csv.DictReader(io.StringIO(classify("predict", head, fresh, "--csv", "--top", 2)[1])))
    assert [row["path"] for row in rows] == names
    assert [row["class"] for row in rows] == list(COLOURS)
    assert all({"probability", "class_2", "probability_2", "error"} < set(row) for row in rows)
    found = json.loads(classify("predict", head, fresh, "--json", "--top", 3)[1])
    assert [row["class"] for row in found] == list(COLOURS)
    assert all(sum(c["probability"] for c in row["top"]) == pytest.approx(1, abs=1e-5) for row in found)
    for name in ("out.csv", "out.json"):
        code, out, _ = classify("predict", head, fresh, "-o", tmp_path / name, "--top", 3)
        assert (code, out) == (0, f"{tmp_path / name}: 3 of 3 images classified\n")
        refused(classify("predict", head, fresh, "-o", tmp_path / name), "--overwrite")
    assert json.loads((tmp_path / "out.json").read_text()) == found
    code, out, _ = classify("predict", head, fresh, "-o", tmp_path / "out.csv", "--overwrite", "--json")
    done = json.loads(out)
    assert (code, done["output"], done["images"], done["classified"]) == (0, str(tmp_path / "out.csv"), 3, 3)
    refused(classify("predict", head, fresh, "--csv", "--json"), "give one of them")


def test_one_image_is_told_in_the_singular(classify, head, tmp_path):
    photo = paint(tmp_path / "fresh", 1, seed=3) / "red/0.png"
    code, out, _ = classify("predict", head, photo, "-o", tmp_path / "out.csv")
    assert (code, out) == (0, f"{tmp_path / 'out.csv'}: 1 of 1 image classified\n")


def test_images_that_cannot_be_read_are_skipped_and_told(classify, head, tmp_path):
    fresh = paint(tmp_path / "fresh", 1, seed=3)
    (fresh / "red/broken.png").write_bytes(b"no image")
    code, out, err = classify("predict", head, fresh, "--csv")
    assert code == 1
    assert err.startswith(f"maerestore classify: skipped: {(fresh / 'red/broken.png').as_posix()}: ")
    assert err.count("\n") == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["class"] for row in rows] == ["blue", "green", "red", ""]
    assert rows[3]["error"]
    code, out, err = classify("eval", head, fresh)
    assert (code, err.count("\n")) == (1, 1)
    assert "(3 of 3)" in out
    code, out, err = classify("fit", fresh, "-o", tmp_path / "more", "--method", "knn", "--k", 1, "--validation", 0)
    assert (code, err.count("\n")) == (1, 1)
    assert "3 training images" in out


def test_rows_with_an_error_are_skipped_and_told(classify, head, tmp_path, model_folder):
    photos = paint(tmp_path / "fresh", 2, seed=3)
    (photos / "red/0.png").write_bytes(b"no image")
    table, options = tmp_path / "table.npy", ["--model", str(model_folder), "--device", "cpu", "--quiet"]
    assert main(["features", str(photos), "-o", str(table), *options]) == 1
    fit = ("fit", table, "-o", tmp_path / "more", "--method", "knn", "--k", 1, "--validation", 0)
    done = [classify(*fit, "--json"), classify("eval", head, table, "--json"), classify("predict", head, table)]
    for code, _, err in done:
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"maerestore classify: skipped: {(photos / 'red/0.png').as_posix()}: ")
    assert [json.loads(out)["skipped"] for _, out, _ in done[:2]] == [[(photos / "red/0.png").as_posix()]] * 2
    assert json.loads(done[0][1])["training_images"] == 5
    # One that no line of the labels asks for was not skipped.
    (tmp_path / "labels.csv").write_text("fresh/red/1.png,red\nfresh/blue/0.png,blue\n")
    code, _, err = classify(*fit, "--overwrite", "--labels", tmp_path / "labels.csv")
    assert (code, err) == (0, "")
    (tmp_path / "labels.csv").write_text("fresh/red/0.png,red\nfresh/red/1.png,red\nfresh/blue/0.png,blue\n")
    code, _, err = classify(*fit, "--overwrite", "--labels", tmp_path / "labels.csv")
    assert (code, err.count("\n")) == (1, 1)


def test_what_is_held_out_does_not_depend_on_images_that_cannot_be_read(classify, tmp_path, model_folder):
    photos = paint(tmp_path / "photos", 6)

    def fitted(source, name):
        done = classify("fit", source, "-o", tmp_path / name, "--method", "knn", "--k", 1, "--validation", 0.34)
        config = json.loads((tmp_path / name / "config.json").read_text())["classifier"]
        return done[0], (tmp_path / name / "head.safetensors").read_bytes(), config["counts"], config["validation"]

    whole = fitted(photos, "whole")
    (photos / "blue/00.png").write_bytes(b"no image")  # before all others
    assert fitted(photos, "broken") == (1, *whole[1:])
    options = ["--model", str(model_folder), "--device", "cpu", "--workers", "1", "--quiet"]
    assert main(["features", str(photos), "-o", str(tmp_path / "table.npy"), *options]) == 1
    assert fitted(tmp_path / "table.npy", "table")[1:] == whole[1:]


def test_eval_tells_accuracy_table_and_picture(classify, head, tmp_path):
    held = paint(tmp_path / "held", 4, seed=9)
    code, out, err = classify("eval", head, held, "--confusion", tmp_path / "confusion.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "F1", "images"]
    assert [line.split()[0] for line in lines[1:4]] == list(COLOURS)
    assert lines[4].startswith("accuracy ")
    assert "95% Wilson interval" in lines[4]
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.width > 300
    code, out, _ = classify("eval", head, held, "--json")
    facts = json.loads(out)
    assert (facts["images"], facts["classes"]) == (12, list(COLOURS))
    assert facts["correct"] == sum(facts["confusion"][i][i] for i in range(3))
    assert [row["class"] for row in facts["by_class"]] == list(COLOURS)
    refused(classify("eval", head, held, "--confusion", tmp_path / "confusion.png"), "--overwrite")


def test_a_validation_of_its_own(classify, tmp_path):
    photos, held = paint(tmp_path / "photos", 3), paint(tmp_path / "held", 2, seed=4)
    fit = ("fit", photos, "-o", tmp_path / "head", "--method", "knn", "--k", 1, 3)
    facts = json.loads(classify(*fit, "--val", held, "--json")[1])
    assert (facts["training_images"], facts["validation"]["images"]) == (9, 6)
    assert set(facts["chosen"]["tried"]) == {"1", "3"}
    # One list of labels for both.
    lines = [
        f"{name}/{colour}/{i}.png,{colour}ish" for name in ("photos", "held") for colour in COLOURS for i in (0, 1)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    listed = classify(*fit, "--overwrite", "--val", held, "--labels", tmp_path / "labels.csv", "--json")
    facts = json.loads(listed[1])
    assert (facts["training_images"], facts["validation"]["images"]) == (6, 6)
    refused(classify(*fit, "--overwrite", "--val", photos), "9 images are both")
    refused(classify(*fit, "--overwrite", "--val", held, "--validation", 0.1), "not allowed with")


def test_training_images_under_another_name_are_no_validation(classify, tmp_path, monkeypatch):
    photos = paint(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    fit = ("-o", tmp_path / "head", "--method", "knn", "--k", 1)
    refused(classify("fit", "photos", "--val", photos, *fit), "9 images are both")
    code, out, _ = classify("fit", "photos", photos, *fit, "--validation", 0.34, "--json")
    facts = json.loads(out)
    assert (code, facts["training_images"], facts["validation"]["images"]) == (0, 6, 3)


def test_tables_that_share_names(classify, head, tmp_path, monkeypatch, model_folder):
    """One table given twice counts once; two of different images with the same names are refused."""
    made = []
    for name, seed in (("A", 3), ("B", 4)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        paint(Path("photos"), 2, seed)
        made.append(tmp_path / f"{name}.npy")
        options = ["--model", str(model_folder), "--device", "cpu", "--quiet"]
        assert main(["features", "photos", "-o", str(made[-1]), *options]) == 0
    monkeypatch.chdir(tmp_path)
    fit = ("-o", tmp_path / "new", "--method", "knn", "--k", 1)
    code, out, _ = classify("fit", made[0], made[0], *fit, "--json")
    assert (code, json.loads(out)["training_images"], json.loads(out)["validation"]["images"]) == (0, 3, 3)
    for done in (classify("fit", *made, *fit, "--overwrite"), classify("predict", head, *made),
                 classify("eval", head, *made)):  # fmt: skip
        refused(done, "'photos/blue/0.png' has different features", "A.npy", "B.npy")
    assert classify("predict", head, made[0], made[0]) == classify("predict", head, made[0])


def test_links_of_one_image_in_a_table_get_a_line_each(classify, head, tmp_path, monkeypatch, model_folder):
    monkeypatch.chdir(tmp_path)
    paint(Path("fresh"), 1, 3)
    Path("fresh/red/link.png").symlink_to("0.png")
    assert main(["features", "fresh", "-o", "t.npy", "--model", str(model_folder), "--device", "cpu", "--quiet"]) == 0
    assert classify("predict", head, "t.npy", "t.npy") == classify("predict", head, "fresh")


def test_finetune(classify, tmp_path):
    paint(tmp_path / "photos", 5)
    fit = ("fit", tmp_path / "photos", "-o", tmp_path / "head", "--method", "finetune")
    code, out, err = classify(*fit, "--epochs", 1, "--lr", 0.02, "--layer-decay", 0.65, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["chosen"]["epochs"], facts["chosen"]["lr"], facts["chosen"]["layer_decay"]) == (1, 0.02, 0.65)
    assert len(facts["chosen"]["losses"]) == 1
    assert (tmp_path / "head/model.safetensors").is_file()
    code, out, _ = classify("predict", tmp_path / "head", tmp_path / "photos/red")
    assert (code, out.count("\n")) == (0, 5)
    refused(classify(*fit, "--overwrite", "--pooling", "cls"), "--pooling does not go with --method finetune")


def test_push_pull_and_predict_by_name(classify, tmp_path, hub, capsys, model_folder):
    """A tuned head needs no other model; pulled, it is one for `predict`."""
    paint(tmp_path / "photos", 3)
    assert classify("fit", tmp_path / "photos", "-o", tmp_path / "head", "--method", "finetune", "--epochs", 1)[0] == 0
    assert main(["push", str(tmp_path / "head"), "org/head"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.endpoint}/org/head/commit/")
    here, there = (classify("predict", name, tmp_path / "photos", "--csv") for name in (tmp_path / "head", "org/head"))
    assert here == there
    assert here[0] == 0
    assert main(["pull", "org/head", "--to", str(tmp_path / "pulled")]) == 0
    assert classify("predict", tmp_path / "pulled", tmp_path / "photos", "--csv") == here


def test_push_does_not_tell_where_on_this_machine_an_encoder_came_from(classify, tmp_path, hub, model_folder):
    paint(tmp_path / "photos", 3)
    assert classify("fit", tmp_path / "photos", "-o", tmp_path / "head", "--method", "finetune", "--epochs", 1)[0] == 0
    written = (tmp_path / "head/config.json").read_text()
    assert str(model_folder) in written
    assert main(["push", str(tmp_path / "head"), "org/head"]) == 0
    repository = hub.repositories["org/head"]
    files = repository.commits[repository.refs["main"]]
    for name in ("config.json", "README.md"):
        assert str(model_folder).encode() not in files[name].data
    sent, kept = (json.loads(text)["classifier"] for text in (files["config.json"].data, written))
    assert sent.pop("training") == {"seed": 0, "start": "a model that was not published"}
    assert sent == {name: value for name, value in kept.items() if name != "training"}
    assert (tmp_path / "head/config.json").read_text() == written


def test_a_head_alone_is_pulled(hub, tmp_path, capsys, head):
    """Its files come whole, and one that does not load is refused."""
    path = head / "config.json"
    content = json.loads(path.read_text())
    content["classifier"] |= {
        "model": "default",
        "fingerprint": FeatureExtractor.from_pretrained("default").fingerprint,
    }
    path.write_text(json.dumps(content))
    assert main(["push", str(head), "org/head"]) == 0
    capsys.readouterr()
    assert main(["pull", "org/head", "--to", str(tmp_path / "pulled"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sorted(facts["files"]) == ["README.md", "config.json", "head.safetensors"]
    assert (facts["classifier"], facts["classes"]) == ("knn", 3)
    assert (tmp_path / "pulled/head.safetensors").read_bytes() == (head / "head.safetensors").read_bytes()
    files = hub.repositories["org/head"]
    stored = files.commits[files.refs["main"]]
    hub.add("org/broken", {"config.json": stored["config.json"].data, "head.safetensors": b"none"})
    assert main(["pull", "org/broken"]) == 2
    assert "head.safetensors" in capsys.readouterr().err


def test_a_head_on_whitened_features_goes_everywhere(classify, tmp_path, hub, capsys):
    """The whitening goes with it; a table of whitened features needs it named."""
    photos = paint(tmp_path / "photos", 4)
    images = [str(path) for path in sorted(photos.rglob("*.png"))]
    extractor = FeatureExtractor.from_pretrained("augment", size=32)
    white = tmp_path / "w.safetensors"
    Whitening.fit(extractor(images), 4, fingerprint=extractor.fingerprint).save(white)
    options = ("--model", "augment", "--size", 32, "--whiten", white)
    fit = ("--method", "knn", "--k", 1, "--validation", 0)
    assert classify("fit", photos, "-o", tmp_path / "head", *fit, *options)[0] == 0
    table = tmp_path / "t.npy"
    assert main(["features", str(photos), "-o", str(table), *map(str, options), "--quiet"]) == 0
    assert classify("fit", table, "-o", tmp_path / "tabled", *fit, "--whiten", white)[0] == 0
    assert classify("fit", table, "-o", tmp_path / "bare", *fit)[0] == 0
    assert main(["push", str(tmp_path / "head"), "org/head"]) == 0
    white.unlink()
    told = classify("predict", tmp_path / "head", photos, "--csv")
    assert told[0] == 0
    for name in ("org/head", tmp_path / "tabled"):
        assert classify("predict", name, photos, "--csv") == told
    capsys.readouterr()
    assert main(["push", str(tmp_path / "bare"), "org/bare"]) == 2
    assert "--whiten FILE" in capsys.readouterr().err
    refused(classify("predict", tmp_path / "bare", photos), "--whiten")


def test_a_head_refuses_another_model(classify, head, tmp_path):
    refused(
        classify("predict", head, tmp_path / "photos", "--model", "augment"), "not what the classifier was fitted on"
    )


def test_bad_input_is_one_line(classify, head, tmp_path):
    photos = tmp_path / "photos"
    refused(classify("fit", tmp_path / "none", "-o", tmp_path / "new"), "does not exist")
    refused(classify("fit", photos, "-o", head), "--overwrite")
    refused(classify("fit", photos, "-o", photos), "something else than a classifier")
    refused(classify("fit", photos, "-o", tmp_path / "no/such"), "create it first")
    refused(classify("fit", photos / "red", "-o", tmp_path / "new"), "have no class")
    refused(classify("fit", photos, "-o", tmp_path / "new", "--validation", 1), "a share below 1")
    refused(classify("fit", photos, "-o", tmp_path / "new", "--k", 3), "--k is for --method knn")
    refused(classify("fit", photos, "-o", tmp_path / "new", "--epochs", 3), "--epochs is for --method finetune")
    refused(classify("fit", photos, "-o", tmp_path / "new", "--method", "finetune", "--model", "timm:vit"), "timm")
    refused(classify("predict", tmp_path / "none", photos), "no such folder")
    refused(classify("predict", photos, photos), "config.json")
    refused(classify("predict", head, photos, "-o", tmp_path / "out.txt"), ".csv or .json")
    refused(classify("eval", head, photos / "red"), "have no class")
    refused(classify("eval", head, photos, "--confusion", tmp_path / "no/such.png"), "does not exist")
    (photos / "violet").mkdir()
    (photos / "red/0.png").rename(photos / "violet/0.png")
    refused(classify("eval", head, photos), "'violet' is not among the 3 fitted ones")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def no_features(monkeypatch):
    """Whoever reads an image fails."""
    monkeypatch.setattr("maerestore.features.engine.load_image", lambda *args: pytest.fail("an image is read"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "knn", "--validation", 0], "k is chosen by validation"),
        (["--method", "linear", "--validation", 0], "the learning rate is chosen by validation"),
        (["--method", "knn", "--val", "VAL"], "'violet' is not among the 3 fitted ones"),
        (["--labels", "one.csv"], "two classes or more"),
    ],
)
def test_what_cannot_be_fitted_is_told_before_the_features_are_made(classify, tmp_path, no_features, options, words):
    photos, val = paint(tmp_path / "photos", 5), paint(tmp_path / "val", 1)
    (val / "red").rename(val / "violet")
    (tmp_path / "one.csv").write_text("photos/red/0.png,red\nphotos/red/1.png,red\n")
    options = [{"VAL": val, "one.csv": tmp_path / "one.csv"}.get(option, option) for option in options]
    refused(classify("fit", photos, "-o", tmp_path / "head", *options), words)


def test_a_class_of_one_image_each_cannot_be_validated(classify, tmp_path, no_features):
    photos = paint(tmp_path / "photos", 1)
    refused(classify("fit", photos, "-o", tmp_path / "h", "--method", "linear"), "no image is left for it")
    refused(classify("fit", photos, "-o", tmp_path / "h"), "C is chosen by validation")


def test_eval_tells_before_the_features_are_made_what_cannot_be_done(classify, head, tmp_path, request, monkeypatch):
    held = paint(tmp_path / "held", 1, seed=9)
    request.getfixturevalue("no_features")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(classify("eval", head, held, "--confusion", tmp_path / "c.png"), "needs matplotlib")
    (held / "red").rename(held / "violet")
    refused(classify("eval", head, held), "'violet' is not among the 3 fitted ones")


def test_eval_tells_the_accuracy_also_where_the_picture_cannot_be_drawn(classify, head, tmp_path, monkeypatch):
    from maerestore import InputError

    def fail(*args):
        raise InputError("no space left.")

    monkeypatch.setattr("maerestore.features.classify.report.draw_confusion", fail)
    code, out, err = classify("eval", head, tmp_path / "photos", "--confusion", tmp_path / "c.png")
    assert (code, err) == (2, "maerestore classify: no space left.\n")
    assert "accuracy 100.0% (18 of 18)" in out


def test_what_the_parser_offers_is_what_there_is():
    from maerestore.features.classify.head_config import METHODS

    assert ("auto", *METHODS) == verb._METHODS


@pytest.mark.parametrize("action", ["fit", "predict", "eval"])
def test_every_action_has_its_help(classify, action, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["classify", action, "--help"])
    assert f"maerestore classify {action}" in capsys.readouterr().out


def test_where_no_image_can_be_read_nothing_could_be_done(classify, head, tmp_path):
    (tmp_path / "bad").mkdir()
    for name in "ab":
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"no image")
    code, out, err = classify("predict", head, tmp_path / "bad")
    assert (code, out, err.count("\n")) == (2, "", 2)


def test_no_table_is_kept_of_images_none_of_which_can_be_read(classify, tmp_path):
    for name in ("red/a.png", "blue/b.png", "red/c.png", "blue/d.png"):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(b"no image")
    table = tmp_path / "kept.parquet"
    refused(classify("fit", tmp_path / "bad", "-o", tmp_path / "h", "--features", table), "none of 4 images")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in ("h", "kept.parquet")) == []


def test_a_picture_of_another_format_is_refused_before_the_work(classify, head, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "_load", lambda args: pytest.fail("the head is loaded"))
    refused(classify("eval", head, tmp_path / "photos", "--confusion", tmp_path / "c.jpg"), "should end in .png")


@pytest.mark.parametrize("option", [["--precision", "fp32"], ["--no-normalize"], ["--pooling", "mean"]])
def test_options_of_features_are_not_for_tables(classify, tmp_path, option):
    refused(classify("fit", tmp_path / "t.npy", "-o", tmp_path / "h", *option), f"{option[0]} is for images")
