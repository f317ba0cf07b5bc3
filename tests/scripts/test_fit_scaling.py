import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import fit_scaling
from benchlib.photos import BenchError

from maerestore.train.packing import held_out, pack

NETS = """
import torch


def lpips_squeeze(spatial):
    def distance(a, b):
        apart = (a - b).abs().mean(1, keepdim=True)
        return apart if spatial else apart.mean()

    return distance
"""


@pytest.fixture
def arguments(tmp_path, tiny_settings):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(9000)]
    for name in [n for n in names if not held_out(n)][:20] + [n for n in names if held_out(n)][:2]:
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    pack([tmp_path / "photos"], tmp_path / "packed", 40)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "nets.py").write_text(NETS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({
        "model": {**tiny_settings, "mask_embed": True}, "batch_size": 4, "mask_count": 16, "precision": "fp32",
        "warmup_samples": 4, "log_every": 4, "decay_share": 0.5, "base_lr": 0.03,
    }))  # fmt: skip
    return [str(recipe), "--data", str(tmp_path / "packed"), "--evalnets", str(tmp_path / "nets"), "--cpu",
            "-o", str(tmp_path / "runs"), "--json", str(tmp_path / "out.json")]  # fmt: skip


def test_a_ladder_is_trained_measured_and_kept(arguments, tmp_path, capsys, monkeypatch):
    command = [*arguments, "--samples", "8", "16", "32", "64", "--shares", "0.5", "--plot", str(tmp_path / "out.png")]
    assert fit_scaling.main(command) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [(row["samples"], row["photographs"]) for row in report["rows"]] == [(n, 20) for n in (8, 16, 32, 64)]
    assert [(row["samples"], row["photographs"]) for row in report["parts"]] == [(32, 10)]
    assert report["rows"][-1]["masked_mse"] < report["rows"][0]["masked_mse"]
    assert set(report["laws"]) == {"masked_mse", "lpips"}
    assert "x 100" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 600
    log = [json.loads(line) for line in (tmp_path / "runs/all/64/log.jsonl").read_text().splitlines()]
    rates = {r["samples"]: r["lr"] for r in log if "lr" in r}
    assert min(rates) == 36  # the branch goes on from the trunk, half-way, and its rate falls to nothing
    assert rates[64] == 0 < rates[48] < rates[36]
    # Nothing is trained twice.
    monkeypatch.setattr(fit_scaling, "_train", None)
    assert fit_scaling.main(command) == 0
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == report["rows"]


def test_a_trunk_that_is_too_long_is_refused(arguments, capsys):
    assert fit_scaling.main([*arguments, "--samples", "16", "32", "64"]) == 0
    assert fit_scaling.main([*arguments, "--samples", "8", "32", "64"]) == 2
    assert "take another -o" in capsys.readouterr().err


def test_bad_arguments(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit_scaling.main([*arguments, "--samples", "8", "16"])
    with pytest.raises(SystemExit):
        fit_scaling.main([*arguments, "--samples", "8", "16", "32", "--shares", "1.5"])
    (tmp_path / "nets" / "nets.py").unlink()
    assert fit_scaling.main([*arguments, "--samples", "8", "16", "32"]) == 2
    assert "no nets.py" in capsys.readouterr().err


def test_the_law_of_noisy_points_has_no_negative_floor():
    samples = [1e3, 2e3, 4e3, 8e3]
    law = fit_scaling.fit_law(samples, [0.50, 0.41, 0.29, 0.16])  # falls faster and faster
    assert law.floor >= 0
    assert law.power >= 0
    assert fit_scaling.left_out(samples, [0.50, 0.41, 0.29, 0.16]) > 0.2  # three points promised less


def test_a_stream_cannot_be_shared_out():
    class Run:
        corpus = None

    with pytest.raises(BenchError, match="fit into memory"):
        fit_scaling._corpus(Run())
