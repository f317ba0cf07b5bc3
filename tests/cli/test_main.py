"""What every verb gets from the command itself."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maerestore.cli import main as command
from maerestore.image import InputError

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


@pytest.mark.parametrize(("arguments", "verb", "unknown"), [
    ("inpaint a.png b.png --bogus", "maerestore inpaint", "--bogus"),
    ("inpaint a.png b.png c.png", "maerestore inpaint",
     "c.png (one photo and its mask are given; many stand in a table: --table FILE)"),
    ("augment a.png b.png", "maerestore augment", "b.png"),
    ("index query photos.index a.jpg --bogus 3", "maerestore index query", "--bogus 3"),
    ("index --bogus query photos.index a.jpg", "maerestore index", "--bogus"),
    ("--bogus inpaint a.png b.png", "maerestore", "--bogus"),
])  # fmt: skip
def test_what_is_unknown_is_refused_by_the_verb_it_was_given_to(
    arguments: str, verb: str, unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments.split())
    assert capsys.readouterr() == ("", f"{verb}: unrecognized arguments: {unknown}; see {verb} --help\n")


def test_what_is_said_for_python_is_left_out_and_names_of_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["inpaint", "cat (in Python: no).jpg", "mask.png"]) == 2
    assert "'cat (in Python: no).jpg' does not exist" in capsys.readouterr().err
    for name in ("a.png", "mask.png"):
        Path(name).write_bytes(b"not looked at")
    assert command.main(["inpaint", "a.png", "mask.png", "-o", "a.png"]) == 2
    assert capsys.readouterr().err.endswith(": choose another output, or add --overwrite\n")


def test_an_error_keeps_what_is_said_for_python_where_it_is_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(InputError("'a (in Python: b)' is there: add --overwrite", "overwrite=True")))
    assert str(error) == "'a (in Python: b)' is there: add --overwrite (in Python: overwrite=True)"
    assert error.message == "'a (in Python: b)' is there: add --overwrite"


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_warning_that_cannot_be_told_ends_nothing() -> None:
    code = (
        "import sys, warnings; from maerestore.cli import main as c; from maerestore.errors import MaerestoreWarning\n"
        "def verb(_):\n  warnings.warn('odd', MaerestoreWarning); print('done'); return 0\n"
        "c.VERBS['show'].run = verb; sys.stderr = None if sys.argv[1:] == ['gone'] else sys.stderr\n"
        "sys.exit(c.main(['show', 'a.png']))"
    )
    with open("/dev/full", "w") as full:
        for extra in ([], ["gone"]):
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            done = subprocess.run([sys.executable, "-c", code, *extra], stdout=subprocess.PIPE, stderr=full,
                                  env=environment, check=False)  # fmt: skip
            assert (done.returncode, done.stdout) == (0, b"done\n")


def test_errors_of_files_are_not_those_of_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(command.VERBS["show"], "run", run)
    error = OSError(5, "Input/output error", "a.png")
    assert command.main(["show", "photo.png"]) == 2
    assert capsys.readouterr() == ("", "maerestore show: 'a.png': Input/output error\n")
    error = OSError(2, "No such file")  # of nothing that could be named
    with pytest.raises(OSError, match="No such file"):
        command.main(["show", "photo.png"])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
@pytest.mark.parametrize(("arguments", "advice"), [
    (["pretrain", "a.yaml", "--data", "fake", "-o", "out"], "--set accumulate=2"),
    (["train-restorer", "a.yaml", "--data", "fake", "-o", "out"], "--set accumulate=2"),
    (["show", "a.png"], None),
])  # fmt: skip
def test_too_little_memory_gets_advice_that_the_verb_can_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, arguments: list[str],
    advice: str | None,
) -> None:  # fmt: skip
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(command.VERBS[arguments[0]], "run", run)
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert "not enough memory" in said
    if advice is None:
        assert ("--device cpu" in said) == isinstance(error, RuntimeError)
    else:
        assert advice in said
        assert "--device" not in said
        assert "picture" not in said


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access", "unsupported memory format option"])
def test_an_error_that_only_speaks_of_memory_is_not_said_to_be_a_lack_of_it(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def run(_: object) -> int:
        raise RuntimeError(said)

    monkeypatch.setattr(command.VERBS["show"], "run", run)
    with pytest.raises(RuntimeError, match=said):
        command.main(["show", "a.png"])


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


def _run_a_verb(body: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = (
        "import os, signal, sys, time; from pathlib import Path; from maerestore.cli import main as c\n"
        "if hasattr(signal, 'SIGHUP'):\n    signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup has it ignored
        f"def run(args):\n    {body}\n    return 0\n"
        "c.VERBS['show'].run = run; sys.exit(c.main(['show', 'photo.png']))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | environment, check=False)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_process_that_is_told_to_end_leaves_no_file_half_written(name: str, code: int, tmp_path: Path) -> None:
    done = _run_a_verb(
        "from maerestore.image import atomic_file\n"
        f"    with atomic_file({str(tmp_path / 'out.png')!r}) as file:\n"
        f"        file.write(b'half'); os.kill(os.getpid(), signal.{name}); time.sleep(10)"
    )
    assert (done.returncode, done.stderr) == (code, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
def test_an_ignored_signal_stays_ignored() -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from maerestore.cli import main as c; "
        "c.VERBS['show'].run = lambda _: 0 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 1; "
        "sys.exit(c.main(['show', 'photo.png']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_process_around_it_gets_its_handlers_back(told: list[dict[str, str]]) -> None:
    before = signal.getsignal(signal.SIGTERM), sys.stdout.errors
    command.main(["show", "photo.png"])
    assert (signal.getsignal(signal.SIGTERM), sys.stdout.errors) == before


def test_a_path_that_the_system_refuses_gets_one_line() -> None:
    done = _run_a_verb("Path('x' * 300).read_bytes()")
    assert done.returncode == 2
    assert done.stderr == b"maerestore show: '" + b"x" * 300 + b"': File name too long\n"


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", b"caf\xe9\n"), ("ascii", b"caf\\udce9\n")])
def test_a_name_that_is_no_text_can_be_printed(encoding: str, printed: bytes) -> None:
    done = _run_a_verb(r"print(os.fsdecode(b'caf\xe9'))", PYTHONIOENCODING=f"{encoding}:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")
