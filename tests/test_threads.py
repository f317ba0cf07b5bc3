"""A forked process computes though the threads of its parent are gone, whoever imported what first; else it hangs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import multiprocessing, sys
import torch

BEFORE
torch.set_num_threads(2)
torch.randn(1500, 1500) @ torch.randn(1500, 1500)  # the threads of OpenMP and of the products are there
torch.rand(2000, 2000).exp()

def child(queue):
    CHILD
    queue.put((total, torch.get_num_threads()))

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
worker = context.Process(target=child, args=(queue,), daemon=True)
worker.start()
worker.join(60)
if worker.is_alive():
    worker.kill()
    sys.exit("hangs")
total, threads = queue.get()
print(total > 0, threads, torch.get_num_threads())
"""
FILL = """
    hole = torch.zeros(80, 80, dtype=torch.bool)
    hole[20:70, 30:80] = True
    total = inpainter.inpaint(torch.rand(3, 80, 80), hole).sum().item()
"""
LOAD = "from maerestore import Inpainter; inpainter = Inpainter.from_pretrained(sys.argv[1], device='cpu')"
AUGMENT = """
    from maerestore import BatchMAEAugment
    total = BatchMAEAugment(model=sys.argv[1], p=1.0)(torch.rand(64, 3, 128, 128)).sum().item()
"""


EXTRACTOR = (
    "from maerestore.features import FeatureExtractor as Extractor; "
    "extractor = Extractor.from_pretrained(sys.argv[1], device='cpu')"
)
EXTRACT = """
    total = extractor(torch.rand(4, 3, 80, 80)).abs().sum().item()
"""


@pytest.fixture
def model(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a tiny model that fills holes."""
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(mask_embed=True), tmp_path)
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("before", "child"),
    [("", AUGMENT), ("", LOAD + FILL), (LOAD, FILL), ("import maerestore", LOAD + FILL), (EXTRACTOR, EXTRACT)],
    ids=[
        "views, imported in the child",
        "fills, imported in the child",
        "fills of a parent's model",
        "imported bare",
        "features of a parent's model",
    ],
)
def test_a_fork_after_openmp_has_started_does_not_hang(before: str, child: str, model: Path) -> None:
    script = SCRIPT.replace("BEFORE", before).replace("CHILD", child.strip())
    # Threads that do not spin while they wait: on a busy machine the parent is slow otherwise.
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True, timeout=180,
                          env=environment, check=False)  # fmt: skip
    assert done.stdout.split() == ["True", "1", "2"], done.stdout + done.stderr


def told(connection: Any) -> None:
    """What a process says of itself."""
    from maerestore import threads

    connection.send(threads.is_forked())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_only_forked_workers_count_as_such(method: str) -> None:
    from maerestore.threads import is_forked

    assert not is_forked()
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    worker = context.Process(target=told, args=(there,))
    worker.start()
    assert here.recv() == (method == "fork")
    worker.join()
