"""Which calls to the Hub are made again, and after how long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maerestore import ModelError
from maerestore.hub import client


class StatusError(Exception):
    """As the HTTP libraries raise it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


class RemoteProtocolError(Exception):
    """Known by its name, as that of httpx is."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited; none really are."""
    waited: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waited.append))
    return waited


def failing(*errors: Exception) -> Any:
    """A call that fails with each of these, and then succeeds."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize("error", [StatusError(500), StatusError(503), RemoteProtocolError("peer closed")])
def test_a_failing_server_is_asked_again_after_1_2_and_4_seconds(error: Exception, waits: list[float]) -> None:
    assert client.ask_hub(failing(*[error] * 3), "org/name") == "done"
    assert waits == [1, 2, 4]
    waits.clear()
    with pytest.raises(ModelError, match="try again"):
        client.ask_hub(failing(*[error] * 4), "org/name")
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("error", [StatusError(401), StatusError(404), StatusError(429), ModelError("no"), OSError()])
def test_what_will_not_change_is_not_asked_again(error: Exception, waits: list[float]) -> None:
    with pytest.raises(ModelError):
        client.ask_hub(failing(error), "org/name")
    assert waits == []


def test_as_often_as_it_is_told(waits: list[float]) -> None:
    with pytest.raises(ModelError, match="error 502"):
        client.ask_hub(failing(*[StatusError(502)] * 2), "org/name", tries=2)
    assert waits == [1]


QUIET = """
import sys, warnings
from maerestore.hub.client import quieten

quieten(progress=False)
assert "huggingface_hub" not in sys.modules
from huggingface_hub.utils import are_progress_bars_disabled, logging
warnings.simplefilter("error")
quieten(progress=False)
print(are_progress_bars_disabled(), logging.get_verbosity())
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "True 40"), ({"HF_HUB_DISABLE_PROGRESS_BARS": "0"}, "False 40"), ({"HF_HUB_VERBOSITY": "info"}, "True 20")],
)
def test_the_client_is_quiet_without_being_loaded_and_what_the_user_set_stays(given: dict[str, str], told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_HUB_")}
    environment |= {"PYTHONPATH": str(Path(client.__file__).parents[2])} | given
    done = subprocess.run([sys.executable, "-c", QUIET], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (told, "")
