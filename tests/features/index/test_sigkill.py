"""A writer that is killed at any moment leaves the old index or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maerestore.features.index.image_index import ImageIndex

from .helpers import clustered, toy_table

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")

TESTS = Path(__file__).parents[2]
FEATURES = clustered(2000)
KEPT = 300  # images that stay throughout
FORK_SERVER = """
# Each line names a change; a forked process makes it and kills itself at its n-th operation on files.
import os, signal, sys
import faiss, filelock, numpy, pyarrow.compute, pyarrow.parquet  # not once more in each child
from features.index.test_sigkill import CHANGES, ImageIndex
from maerestore.features.index.entries import Entries
Entries.of(["a.png"], numpy.zeros(1, int), numpy.zeros(1, int), ".")  # has pyarrow look for pandas
os.fsync = lambda descriptor: None  # for power cuts; a killed process needs none, and it takes long
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree"}
for line in sys.stdin:
    folder, change, n = line.split()
    child = os.fork()
    if child == 0:
        left = int(n)
        def count(event, arguments):
            global left
            if event in EVENTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        index = ImageIndex.open(folder)
        sys.addaudithook(count)
        CHANGES[change](index)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ADDING = """
# Adds images one by one, and says after each what is there.
import sys
from features.index.test_sigkill import ImageIndex, add_one
index = ImageIndex.open(sys.argv[1])
n = len(index)
while True:
    add_one(index, n)
    n += 1
    print(n, flush=True)
"""


def names(*numbers: int) -> list[str]:
    return [f"{i}.png" for i in range(*numbers)]


def add_one(index: ImageIndex, n: int) -> None:
    index.add(toy_table(FEATURES[n : n + 1], names(n, n + 1)))


CHANGES: dict[str, Callable[[ImageIndex], object]] = {
    "add": lambda index: index.add(toy_table(FEATURES[KEPT : KEPT + 5], names(KEPT, KEPT + 5))),
    "remove": lambda index: index.remove(names(5)),
    "rebuild": lambda index: index.rebuild(),
    "build": lambda index: ImageIndex.build(index.folder, toy_table(FEATURES[:7], names(7)), overwrite=True),
}
AFTER = {"add": KEPT + 5, "remove": KEPT - 5, "rebuild": KEPT, "build": 7}


def check_whole(index: ImageIndex) -> None:
    """Names, vectors and the faiss index belong together."""
    numbers = [int(name[:-4]) for name in index.names]
    assert len(numbers) == len(set(numbers)) == len(index)
    expected = FEATURES[numbers] / np.linalg.norm(FEATURES[numbers], axis=1, keepdims=True)
    assert np.allclose(index.features(index.names), expected, atol=1e-3)
    asked = numbers[:3] + numbers[-3:]
    found = [hits[0].name for hits in index.search(FEATURES[asked], 1)]
    assert found == [f"{i}.png" for i in asked]


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS
    )


@pytest.mark.parametrize(("kind", "changes"), [("flat", ["add", "build"]), ("hnsw", ["add", "remove", "rebuild"])])
def test_killed_at_every_operation_on_files(
    tmp_path: Path, kind: str, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with start(FORK_SERVER) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for change in changes:
            folder, after = tmp_path / change, AFTER[change]
            table = toy_table(FEATURES[:KEPT], names(KEPT))
            seen, n, code = [], 0, -signal.SIGKILL
            ImageIndex.build(folder, table, kind=kind)
            while code != 0:
                n += 1
                server.stdin.write(f"{folder} {change} {n}\n")
                server.stdin.flush()
                code = int(server.stdout.readline())
                assert code in (0, -signal.SIGKILL)
                index = ImageIndex.open(folder)
                check_whole(index)
                seen.append(len(index))
                if change != "rebuild" and seen[-1] == after:  # done before it was killed: start again
                    ImageIndex.build(folder, table, kind=kind, overwrite=True)
            assert n > 15
            assert set(seen) == {KEPT, after}
            assert seen[0] == KEPT
            assert seen[-1] == after
        server.stdin.close()
    for change in changes:  # nothing of the killed writers is left once another has written
        index = ImageIndex.open(tmp_path / change)
        add_one(index, 1000)
        assert sorted(path.name for path in index.folder.iterdir()) == [(index.folder / "current").read_text().strip(),
                                                                        "current", "lock"]  # fmt: skip


def test_killed_at_random_times(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    ImageIndex.build(folder, toy_table(FEATURES[:KEPT], names(KEPT)), kind="hnsw")
    rng = random.Random(0)
    told = KEPT
    for _ in range(5):
        with start(ADDING, str(folder)) as writer:
            assert writer.stdout is not None
            told = int(writer.stdout.readline())  # it is at work now
            time.sleep(rng.uniform(0, 0.1))
            os.kill(writer.pid, signal.SIGKILL)
            told = max([told, *map(int, writer.stdout.read().split())])
        index = ImageIndex.open(folder)
        assert len(index) in (told, told + 1)
        assert index.names == names(len(index))
        check_whole(index)
    assert told >= KEPT + 5
