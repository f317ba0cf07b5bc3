"""What every verb gets from the command itself."""

from __future__ import annotations

import os

import pytest

from maerestore.cli import main as command

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The settings of waiting threads that a verb finds when it runs."""
    seen: list[dict[str, str]] = []

    def run(_: object) -> int:
        seen.append({name: os.environ[name] for name in WAITING if name in os.environ})
        return 0

    monkeypatch.setattr(command.VERBS["show"], "run", run)
    for name in WAITING:
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
        monkeypatch.delenv(name)
    return seen


def test_threads_do_not_spin_for_long(told: list[dict[str, str]]) -> None:
    assert command.main(["show", "photo.png"]) == 0
    assert told == [{"GOMP_SPINCOUNT": "10000"}]


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_set_stays(
    told: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    command.main(["show", "photo.png"])
    assert told == [{name: value}]
