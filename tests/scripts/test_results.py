"""What cannot be written is said before hours of work are lost on it."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

ARGUMENTS = {
    "bench_augment": ["--data", "."],
    "bench_backbone": ["--photos", "."],
    "bench_features": ["--data", "."],
    "bench_index": ["--photos", "."],
    "bench_inpaint": ["--photos", ".", "--evalnets", "."],
    "bench_pretrain": ["recipe.yaml", "--photos", "."],
    "fit_scaling": ["recipe.yaml", "--data", ".", "--evalnets", ".", "-o", "runs", "--samples", "1", "2", "3"],
    "plan_pretrain": ["recipe.yaml"],
}


@pytest.mark.parametrize("target", ["nowhere/figures.json", "folder"])
@pytest.mark.parametrize("script", ARGUMENTS)
def test_a_target_is_checked_first(script, target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert importlib.import_module(script).main([*ARGUMENTS[script], "--json", target]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"{script}: ")
    assert line.count("\n") == 1
    assert ("folder is a folder" if target == "folder" else "nowhere to write figures.json") in line


@pytest.mark.parametrize("script", [name for name in ARGUMENTS if name != "plan_pretrain"])
def test_the_name_of_a_plot_is_checked_first(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    json = [] if script == "bench_inpaint" else ["--json", "figures.json"]
    assert importlib.import_module(script).main([*ARGUMENTS[script], *json, "--plot", "plot.txt"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"{script}: plot.txt: a plot is written as .png")
    assert line.count("\n") == 1
