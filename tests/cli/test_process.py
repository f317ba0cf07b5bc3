"""The command as a process: how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = "import sys; from maerestore.cli import main as c, process; sys.argv[1:] = ['show', 'a.png']\n"


def ended(code: str, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code", [0, 2, 130])
@pytest.mark.parametrize("load", ["import torch", "import json"])
def test_it_ends_with_the_code_of_the_verb_and_all_that_was_written(load: str, code: int, tmp_path: Path) -> None:
    verb = f"def verb(_):\n  {load}\n  print('line ' * 9000); print('told', file=sys.stderr); return {code}\n"
    assert ended(f"{verb}c.VERBS['show'].run = verb; process.run()", tmp_path) == (
        code,
        "line " * 9000 + "\n",
        "told\n",
    )


def test_what_is_to_be_done_at_the_end_is_done(tmp_path: Path) -> None:
    verb = (
        "def verb(_):\n  import atexit, pathlib, tempfile, torch\n  global kept\n"
        f"  kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})\n"
        "  pathlib.Path(kept.name, 'file').write_text('x')\n"
        "  atexit.register(lambda: print('goodbye'))\n  return 0\n"
    )
    assert ended(f"{verb}c.VERBS['show'].run = verb; process.run()", tmp_path) == (0, "goodbye\n", "")
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_taken_apart(tmp_path: Path) -> None:
    verb = (
        "class Told:\n  def __del__(self): print('taken apart', flush=True)\n"
        "def verb(_):\n  import threading, time, torch\n  torch.told = Told()\n"
        "  threading.Thread(target=lambda: time.sleep(60), daemon=True).start()\n  return 0\n"
    )
    assert ended(f"{verb}c.VERBS['show'].run = verb; process.run()", tmp_path) == (0, "", "")


def test_a_thread_that_is_still_at_work_is_waited_for(tmp_path: Path) -> None:
    verb = (
        "def verb(_):\n  import threading, time, torch\n"
        "  threading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start()\n  return 0\n"
    )
    assert ended(f"{verb}c.VERBS['show'].run = verb; process.run()", tmp_path) == (0, "done\n", "")


@pytest.mark.skipif(os.name == "nt", reason="closes numbers of streams")
def test_a_process_without_stderr_does_its_work_and_says_nothing_in_its_place(tmp_path: Path) -> None:
    verb = (
        "def verb(_):\n  import os\n  file = open('result', 'w')\n  os.write(2, b'of a library')\n"
        "  print('warned', file=sys.stderr); print('bar', sys.stderr.isatty())\n  file.write('mine'); return 0\n"
    )
    code = START + f"{verb}c.VERBS['show'].run = verb; process.run()"
    command = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "bar False\n")
    assert (tmp_path / "result").read_text() == "mine"
