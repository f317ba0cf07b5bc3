import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_index
from benchlib.index_cell import exact_neighbours
from benchlib.index_crops import SIDE, random_crop


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / f"photos/{i}.png")
    return tmp_path / "photos"


def test_kinds_are_compared_on_crops_that_are_computed_once(tmp_path, photos, tiny_model, capsys):
    cache, model = tmp_path / "crops.safetensors", tmp_path / "model"
    tiny_model().save_pretrained(model)
    arguments = ["--features", str(cache), "--model", str(model), "--queries", "5"]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    grid = ["--sizes", "40", "--kinds", "flat", "hnsw"]
    assert bench_index.main([*arguments, *grid, *outputs, "--photos", str(photos)]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(row["images"], row["kind"]) for row in result["rows"]] == [(40, "flat"), (40, "hnsw")]
    assert result["features"]["photos"] == 3
    for row in result["rows"]:
        assert row["recall"] >= 0.9
        assert 0 < row["query_p50_ms"] <= row["query_p99_ms"]
        assert min(row["build_s"], row["add_one_s"], row["open_s"], row["disk_mb"]) > 0
    assert "| 40 | hnsw |" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 500
    # The features are taken from the file now, without the photos.
    for wrong, message in ((["--seed", "1"], "seed 0, not 1"), (["--sizes", "9999"], "fewer than 10004")):
        capsys.readouterr()
        assert bench_index.main([*arguments, *wrong]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_exact_neighbours_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    stored, asked = (rng.normal(size=(n, 8)).astype(np.float16) for n in (200, 70))
    unit = stored / np.linalg.norm(stored.astype(np.float32), axis=1, keepdims=True)
    truth = np.argsort(-(asked.astype(np.float32) @ unit.T), axis=1)[:, :10]
    assert (exact_neighbours(stored, asked) == truth).mean() > 0.99


def test_crops_lie_inside_the_photo_and_keep_their_aspect():
    photo = np.zeros((90, 120, 3), np.uint8)
    photo[..., 0], photo[..., 1] = np.arange(120), np.arange(90)[:, None]
    for seed in range(20):
        crop = random_crop(photo, np.random.default_rng(seed)).astype(int)
        assert crop.shape == (SIDE, SIDE, 3)
        across, down = np.ptp(crop[10, :, 0]), np.ptp(crop[:, 10, 1])
        assert abs(across - down) <= 2
        assert across >= SIDE - 4
    assert random_crop(photo[:10, :10], np.random.default_rng(0)).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("arguments", [[], ["--photos", "nowhere"], ["--json", "nowhere/out.json"]])
def test_bad_arguments_end_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert bench_index.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
