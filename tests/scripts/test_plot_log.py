"""Logs of runs become a picture; what is no log gets one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import plot_log  # noqa: E402

PLAIN = [
    {"samples": 8, "loss": 0.9, "side": 64}, {"samples": 16, "loss": 0.7, "side": 96},
    {"samples": 16, "masked_mse": 0.5, "psnr_thin": 20.0, "psnr_centre": 16.0},
]  # fmt: skip
TAUGHT = [
    {"samples": 8, "loss": 0.9, "teacher": 0.8, "side": 64},
    {"samples": 8, "masked_mse": 0.5, "retrieval_cls": 0.4, "retrieval_mean": 0.3},
]

REFINED = [
    {"samples": 8, "loss": 0.9, "side": 64}, {"samples": 8, "mean_psnr_thin": 20.0, "sharp_psnr_thin": 19.0},
]  # fmt: skip
JUDGED = [
    {"samples": 8, "loss": 0.9, "perceptual": 0.2, "side": 64},
    {"samples": 8, "sharp_psnr_thin": 19.0, "sharp_perceptual_thin": 0.07, "mean_perceptual_thin": 0.08},
]  # fmt: skip


@pytest.mark.parametrize("records", [PLAIN, TAUGHT], ids=["plain", "taught"])
def test_logs_become_a_picture(tmp_path: Path, records: list[dict]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, ROOT / "scripts/plot_log.py", log, log, "-o", tmp_path / "curves.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 2 * picture.height


@pytest.mark.parametrize(("logs", "losses", "figures"), [
    ([PLAIN], {"64 px crops": [0.9], "96 px crops": [0.7]}, {"thin": [20.0], "centre": [16.0]}),
    ([PLAIN, TAUGHT], {"64 px crops": [0.8]}, {"cls": [0.4], "mean": [0.3]}),  # the first has no such loss
    ([JUDGED], {"64 px crops": [0.2]}, {"thin": [0.07]}),
    ([REFINED], {"64 px crops": [0.9]}, {"mean_thin": [20.0], "sharp_thin": [19.0]}),
], ids=["plain", "taught after plain", "judged", "refined"])  # fmt: skip
def test_what_logs_hold_is_drawn(tmp_path: Path, logs: list[list[dict]], losses: dict, figures: dict) -> None:
    paths = [tmp_path / f"{i}.jsonl" for i in range(len(logs))]
    for path, records in zip(paths, logs, strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert plot_log.main([*map(str, paths), "-o", str(tmp_path / "curves.png")]) == 0
    left, right = plot_log.plt.gcf().axes
    plot_log.plt.close("all")
    for axes, drawn in ((left, losses), (right, figures)):
        assert {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()} == drawn


@pytest.mark.parametrize("content", [None, "no JSON", "[1]", '{"loss": 1.0}'])
def test_what_is_no_log_gets_one_line(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert plot_log.main([str(tmp_path / "log.jsonl"), "-o", str(tmp_path / "curves.png")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("plot_log: ")
    assert told.count("\n") == 1
