"""What the training verbs tell the shell."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from maerestore.cli.main import main
from maerestore.cli.training import train


@pytest.mark.parametrize(("number", "code"), [(0, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_ended_says_which(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(args: argparse.Namespace, **settings: Any) -> Any:
        assert settings == {"cpu": True, "workers": 0}
        return SimpleNamespace(run=lambda: {"loss": 0.25}, signals=SimpleNamespace(number=number))

    args = argparse.Namespace(threads=None, workers=0, cpu=True, data="fake", out=tmp_path / "run")
    assert train("pretrain", args, build) == code
    assert capsys.readouterr().out == "loss 0.2500\n"


@pytest.mark.parametrize("verb", ["pretrain", "train-restorer"])
@pytest.mark.parametrize("empty", ["--data", "-o"])
def test_an_empty_name_is_not_the_working_directory(
    verb: str, empty: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--data": "fake:8", "-o": "run"} | {empty: ""}
    with pytest.raises(SystemExit) if empty == "-o" else contextlib.nullcontext():
        assert main([verb, "recipe.yaml", *(word for option in given.items() for word in option)]) == 2
    assert "empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    patience = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < patience
        time.sleep(0.1)


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_a_run_saved(tmp_path: Path) -> None:
    model = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16,
             "decoder_depth": 1, "decoder_num_heads": 2}  # fmt: skip
    settings = {"model": model, "samples": 10**7, "batch_size": 8, "precision": "fp32", "mask_count": 32,
                "log_every": 8, "save_every": 10**6, "validate_every": 10**6}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal: under nohup it is ignored
        os.chdir(tmp_path)
        command = ["pretrain", "recipe.yaml", "--data", "fake:32", "-o", "run", "--cpu", "--workers", "0"]
        os.execv(sys.executable, [sys.executable, "-m", "maerestore", *command])
    ended: list[int] = []

    def over() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended.extend([status] if pid else [])
        return pid > 0

    try:
        wait_until(lambda: (tmp_path / "run/log.jsonl").is_file())
        os.close(terminal)
        wait_until(over)
    finally:
        if not ended:  # a run of ten million samples must not outlive the test
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[0]) == 128 + signal.SIGHUP
    assert (tmp_path / "run/checkpoint.pt").is_file()
    assert (tmp_path / "run/model/config.json").is_file()
