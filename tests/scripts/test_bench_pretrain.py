import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_pretrain

from maerestore.train.packing import pack
from maerestore.train.recipe_file import load_recipe


@pytest.fixture
def recipe(tmp_path, tiny_settings):
    path = tmp_path / "recipe.yaml"
    settings = {"model": {**tiny_settings, "mask_embed": True}, "batch_size": 4, "mask_count": 16, "precision": "fp32",
                "masking": {"policies": {"random": 1, "free_form": 1}}}  # fmt: skip
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(9):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{seed}.png")
    return tmp_path / "photos"


def test_three_rows_with_speed_and_share(tmp_path, recipe, photos, capsys):
    code = bench_pretrain.main([
        str(recipe), "--photos", str(photos), "--steps", "2", "--workers", "0", "--cpu",
        "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png"),
    ])  # fmt: skip
    assert code == 0
    facts = json.loads((tmp_path / "out.json").read_text())
    assert list(facts["rows"]) == ["plain loop", "engine, same masking and optimiser", "engine, as the recipe says"]
    for row in facts["rows"].values():
        assert row["images_per_second"] > 0
        assert 0 < row["data_share"] < 1
        expected = row["images_per_second"] * row["gflop_per_image"] / 1e3 / facts["peak_tflops"]
        assert row["share_of_peak"] == pytest.approx(expected)
    assert "share of peak" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 600


@pytest.mark.slow
def test_operations_are_counted_as_by_hand(tmp_path, recipe, photos):
    """With nothing hidden, a wider MLP costs what its matrices say, forward once and backward twice."""
    counts = []
    for ratio in (4.0, 6.0):
        settings = yaml.safe_load(recipe.read_text())
        settings |= {"masking": {"mask_ratio": 0.0}}
        settings["model"] |= {"mlp_ratio": ratio, "depth": 1, "decoder_depth": 1}
        recipe.write_text(yaml.safe_dump(settings))
        loaded = load_recipe(recipe)
        pack([photos], tmp_path / "packed", loaded.decoded_side)
        counts.append(bench_pretrain.engine(loaded, tmp_path / "packed", steps=1, cpu=True))
    tokens = 17
    wider = 2.0 * (32 * 32 + 16 * 16)  # values by which each of the two matrices grew, in encoder and decoder
    extra = (counts[1]["gflop_per_image"] - counts[0]["gflop_per_image"]) * 1e9
    assert extra == pytest.approx(3 * tokens * 2 * 2 * wider)


@pytest.mark.parametrize("option", [("--steps", "0"), ("--workers", "-1")])
def test_numbers_that_are_none_are_refused(recipe, photos, capsys, option):
    with pytest.raises(SystemExit):
        bench_pretrain.main([str(recipe), "--photos", str(photos), *option])
    assert "--steps must be at least 1" in capsys.readouterr().err


def test_too_few_photographs_end_in_one_line(recipe, photos, capsys):
    assert bench_pretrain.main([str(recipe), "--photos", str(photos), "--set", "batch_size=64", "--cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
