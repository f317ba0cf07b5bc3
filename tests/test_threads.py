"""A forked process computes though the threads of its parent are gone, whoever imported what first; else it hangs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILL = """
    hole = torch.zeros(80, 80, dtype=torch.bool)
    hole[20:70, 30:80] = True
    answer = inpainter.inpaint(torch.rand(3, 80, 80), hole).sum().item()
"""
LOAD = "from maerestore import Inpainter; inpainter = Inpainter.from_pretrained(sys.argv[1], device='cpu')"
AUGMENT = """
    from maerestore import BatchMAEAugment
    answer = BatchMAEAugment(model=sys.argv[1], p=1.0)(torch.rand(64, 3, 128, 128)).sum().item()
"""


EXTRACTOR = (
    "from maerestore.features import FeatureExtractor as Extractor; "
    "extractor = Extractor.from_pretrained(sys.argv[1], device='cpu')"
)
EXTRACT = """
    answer = extractor(torch.rand(4, 3, 80, 80)).abs().sum().item()
"""


@pytest.fixture
def model(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a tiny model that fills holes."""
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(mask_embed=True), tmp_path)
    return tmp_path


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
def test_a_fork_after_openmp_has_started_does_not_hang(
    before: str, child: str, model: Path, run_forked: Callable[..., Any]
) -> None:
    done = run_forked(before, child, "print(answer > 0, threads, torch.get_num_threads())", str(model))
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
