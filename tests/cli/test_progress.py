"""On a terminal, work that takes long is seen to go on."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import pytest

from maerestore.cli import progress


class Terminal(io.StringIO):
    """A stderr that shows what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    # Not that of sys itself, which pytest sets anew for the test.
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setattr(progress, "_AFTER", 0.05)
    return stream


def shown(stream: Terminal, text: str, start: int = 0) -> bool:
    """Wait for a text, behind so many characters."""
    end = time.monotonic() + 20
    while text not in stream.getvalue()[start:] and time.monotonic() < end:
        time.sleep(0.01)
    return text in stream.getvalue()[start:]


def test_a_bar_is_shown_while_nothing_is_reported(terminal: Terminal) -> None:
    with progress.Bar(quiet=False) as bar:
        assert shown(terminal, "working: 00:00")
        bar("filling", 1, 3)
        assert shown(terminal, "filling:  33%")
        bar.tell("a line")
        assert shown(terminal, "\ra line\n")
        assert shown(terminal, "a line\n\rfilling")
        length = len(terminal.getvalue())
        bar("filling", 3, 3)
        assert shown(terminal, "\rworking: 00:00", length)
    left = terminal.getvalue().rsplit("\r", 2)
    assert (left[-2].strip(), left[-1]) == ("", "")  # taken away
    time.sleep(0.1)
    assert terminal.getvalue().endswith("\r".join(left[1:]))


def test_work_of_no_second_shows_none(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setattr(progress, "_AFTER", 60)
    with progress.Bar(quiet=False) as bar:
        for done in range(3):
            bar("filling", done + 1, 3)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_without_a_terminal_or_when_quiet_there_is_no_bar(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    monkeypatch.setattr(terminal, "isatty", lambda: quiet)
    with progress.Bar(quiet) as bar:
        bar("filling", 1, 3)
        time.sleep(0.2)
        assert not bar.thread.is_alive()
    assert terminal.getvalue() == ""
