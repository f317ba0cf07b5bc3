"""What the training verbs tell the shell."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maerestore.cli.training import train


@pytest.mark.parametrize(("number", "code"), [(0, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_ended_says_which(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(args: argparse.Namespace, **settings: Any) -> Any:
        assert settings == {"cpu": True, "workers": 0}
        return SimpleNamespace(run=lambda: {"loss": 0.25}, signals=SimpleNamespace(number=number))

    args = argparse.Namespace(threads=None, workers=0, cpu=True, out=tmp_path / "run")
    assert train("pretrain", args, build) == code
    assert capsys.readouterr().out == "loss 0.2500\n"
