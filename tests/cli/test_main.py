"""What every verb gets from the command itself."""

from __future__ import annotations

import os
import subprocess
import sys

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


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_seen_enough_is_no_error(lines: int) -> None:
    code = (
        "import sys; from maerestore.cli import main as c; "
        f"c.VERBS['show'].run = lambda _: [print('line') for _ in range({lines})] and 0; "
        "sys.stdin.read(); sys.exit(c.main(['show', 'photo.png']))"
    )
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        process.stdin.close()  # now it may write
        told = process.stderr.read()
    assert (process.returncode, told) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(
    ("lines", "arguments", "unbuffered"),
    [(1, ["show", "a.png"], ""), (100_000, ["show", "a.png"], ""), (1, ["show", "a.png"], "1"), (0, ["--help"], "")],
)
def test_an_output_that_is_full_gets_one_line(lines: int, arguments: list[str], unbuffered: str) -> None:
    code = (
        "import sys; from maerestore.cli import main as c; "
        f"c.VERBS['show'].run = lambda _: [print('line') for _ in range({lines})] and 0; "
        f"sys.exit(c.main({arguments}))"
    )
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=environment,
                              check=False)  # fmt: skip
        both = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, env=environment, check=False)
    told = b"maerestore: the output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr, both.returncode) == (2, told, 2)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "a.png"), OSError(2, "No such file")])
def test_errors_of_files_are_not_those_of_the_output(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(command.VERBS["show"], "run", run)
    with pytest.raises(OSError, match=str(error.strerror)):
        command.main(["show", "photo.png"])


def test_the_output_stays_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(command.VERBS["show"], "run", run)
    monkeypatch.setattr(command, "_drop_output", lambda: None)
    assert command.main(["show", "photo.png"]) == 141
    assert capsys.readouterr() == ("", "")


def test_an_output_that_was_never_open_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.VERBS["show"], "run", lambda _: print("line") or 0)
    monkeypatch.setattr(command.sys, "stdout", None)
    assert command.main(["show", "photo.png"]) == 0
