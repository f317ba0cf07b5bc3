import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_backbone

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]


def make_set(folder, per_class):
    """Pictures of one colour each, with a little noise: the class is the colour."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        with tarfile.open(folder / f"toy-{split}-000000.tar", "w") as tar:
            for label, colour in enumerate(COLOURS):
                for i in range(per_class):
                    pixels = np.clip(np.array(colour) + rng.normal(0, 10, (40, 48, 3)), 0, 255).astype(np.uint8)
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "PNG")
                    for suffix, data in ((".png", buffer.getvalue()), (".cls", str(label).encode())):
                        info = tarfile.TarInfo(f"{split}{label}{i:02d}{suffix}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_masked_mse_and_knn_are_reported_beside_a_random_twin(tmp_path, model_folder, capsys):
    make_set(tmp_path / "sets/toy", per_class=24)
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{seed}.png")
    code = bench_backbone.main([
        "--photos", str(tmp_path / "photos"), "--labelled", str(tmp_path / "sets"), "--model", f"mine={model_folder}",
        "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png"),
    ])  # fmt: skip
    assert code == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert set(rows) == {"mine", "random weights"}
    for row in rows.values():
        assert row["masked MSE (3 photos)"] > 0
        assert row["k-NN toy, mean"] == 1.0  # colours are told apart by any network
    assert "| mine |" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 300


def test_the_masked_mse_is_the_models_loss_for_fixed_masks(tmp_path, tiny_model):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "photos/red.png")
    model = tiny_model()
    entries = bench_backbone.find_photos(tmp_path / "photos")
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    red = model.normalize(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
    assert bench_backbone.masked_mse(model, entries, 0) == pytest.approx(float(red.square().mean()), rel=1e-5)


def test_votes_are_weighted_by_similarity():
    """20 near ones of class 0 outvote nothing else; with 19 far ones of class 1 before them, the nearest still wins."""
    train = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0]] + [[1.0, 1.2]] * 30), dim=1)
    labels = torch.tensor([0] + [1] * 30)
    test = torch.tensor([[1.0, 0.0]])
    # similarity 1 against 0.64: exp(0.36 / 0.07) = 171 times the vote of each of the 19 others
    assert bench_backbone.knn_accuracy(train, labels, test, torch.tensor([0])) == 1.0
    assert bench_backbone.knn_accuracy(train, labels, test, torch.tensor([1])) == 0.0


@pytest.mark.parametrize("arguments", [
    [], ["--photos", "nowhere"], ["--labelled", "nowhere"], ["--photos", ".", "--model", "no-such-thing"],
])  # fmt: skip
def test_bad_arguments_end_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert bench_backbone.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
