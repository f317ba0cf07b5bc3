"""The benchmark of features, on drawn pictures that a colour histogram tells apart, and a tiny model does not."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench_features
import benchlib.feature_speed as speed
from benchlib.feature_data import load_set
from benchlib.feature_methods import colour_histogram, hog
from benchlib.feature_speed import contenders
from benchlib.photos import BenchError

from maerestore.hub.save import save_autoencoder
from maerestore.model import MAEConfig, MaskedAutoencoder

PEERS = ("random weights, cls", "colour histogram", "HOG")
COLOURS = [(220, 40, 40), (40, 200, 60), (50, 60, 210)]


def write_tar(path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            label = i % 3
            noise = rng.integers(-30, 31, (24 + i % 5, 40, 3))
            pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            for suffix, data in ((".png", content.getvalue()), (".cls", str(label).encode())):
                info = tarfile.TarInfo(f"{i:04}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "colours"
    folder.mkdir()
    write_tar(folder / "colours-train-000.tar", 60, 0)
    write_tar(folder / "colours-val-000.tar", 30, 1)
    return folder


@pytest.fixture
def model(tiny_model, tmp_path: Path) -> Path:
    save_autoencoder(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def test_a_table_with_intervals_a_file_and_a_picture(labelled, model, tmp_path, capsys):
    pytest.importorskip("skimage")
    command = ["--data", str(labelled), "--model", f"tiny={model}", "--pooling", "mean", "cls"]
    command += ["--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")]
    assert bench_features.main(command) == 0
    printed = capsys.readouterr().out
    rows = {row["method"]: row for row in json.loads((tmp_path / "f.json").read_text())["rows"]}
    assert set(rows) == {"tiny, mean", "tiny, cls", "random weights, mean", *PEERS}
    assert all(name in printed for name in rows)
    assert rows["colour histogram"]["knn"]["accuracy"] == 1
    assert rows["HOG"]["knn"]["accuracy"] < 0.8  # noise has no edges to tell them by
    for row in rows.values():
        for kind in ("knn", "linear"):
            assert 0 <= row[kind]["low"] <= row[kind]["accuracy"] <= row[kind]["high"] <= 1
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 300


def test_what_the_file_holds_is_not_measured_again(labelled, model, tmp_path, monkeypatch):
    command = ["--data", str(labelled), "--model", f"tiny={model}", "--pooling", "mean", "--no-peers"]
    command += ["--json", str(tmp_path / "f.json")]
    assert bench_features.main(command) == 0
    calls = []
    measure = bench_features.measure
    monkeypatch.setattr(bench_features, "measure", lambda *given: calls.append(1) or measure(*given))
    assert bench_features.main(command) == 0
    assert not calls
    assert bench_features.main([*command, "--seed", "1"]) == 0
    assert len(calls) == 1


def test_the_split_and_the_labels(labelled):
    data = load_set(labelled)
    assert (len(data.train), len(data.test), data.classes) == (60, 30, ["0", "1", "2"])
    assert data.test.labels[:4].tolist() == [0, 1, 2, 0]
    red = data.test.images[0].float().mean((1, 2))
    assert red.argmax() == 0


def test_descriptors_have_one_row_a_picture():
    images = [torch.randint(0, 256, (3, 20 + i, 30), dtype=torch.uint8) for i in range(3)]
    histogram = colour_histogram(images)
    assert histogram.shape == (3, 512)
    torch.testing.assert_close((histogram**2).sum(1), torch.ones(3))
    pytest.importorskip("skimage")
    assert hog(images).shape == (3, 7 * 7 * 4 * 9)


def test_both_libraries_are_timed_on_the_same_thing(monkeypatch):
    """timm's twin has the same weights here: then both rows have to give the same features."""
    pytest.importorskip("timm")
    config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, decoder_depth=0)
    made = []
    original = speed.timm_twin
    monkeypatch.setattr(speed, "timm_twin", lambda config: made.append(original(config)) or made[0])
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    runs = contenders(config, images)
    torch.manual_seed(0)
    weights = MaskedAutoencoder(config).state_dict()  # those of the model that it made
    made[0].load_state_dict(weights)
    theirs, ours = runs["timm fp32"](), runs["maerestore fp32"]()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs["timm bf16"](), theirs, atol=0.1, rtol=0.1)
    torch.testing.assert_close(runs["maerestore bf16"](), ours, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("names", [["a-train-0.tar"], ["a-val-0.tar"], []])
def test_a_set_without_two_parts_is_refused(names, tmp_path):
    for name in names:
        write_tar(tmp_path / name, 3, 0)
    with pytest.raises(BenchError, match="val or test"):
        load_set(tmp_path)


def test_bad_arguments_are_one_line(labelled, tmp_path, capsys):
    (tmp_path / "other.json").write_text("[]")
    for extra in (
        ["--json", str(tmp_path / "nonesuch" / "f.json")], ["--json", str(tmp_path / "other.json")],
        ["--model", "nonesuch"], ["--model", "default", "--model", "default"],
    ):  # fmt: skip
        assert bench_features.main(["--data", str(labelled), "--pooling", "cls", *extra]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
