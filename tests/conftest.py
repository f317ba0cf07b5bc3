"""A tiny autoencoder for every test that wants one; torch is imported only when one is made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

# Read when torch is first imported: threads that wait for each other make tiny tensors slow on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {
    "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip

FORKED = """
import multiprocessing, sys
import torch

{before}
torch.set_num_threads(2)
torch.randn(1500, 1500) @ torch.randn(1500, 1500)  # the threads of OpenMP and of the products are there
torch.rand(2000, 2000).exp()

def child(queue):
    {child}
    queue.put((answer, torch.get_num_threads()))

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
worker = context.Process(target=child, args=(queue,), daemon=True)
worker.start()
worker.join(60)
if worker.is_alive():
    worker.kill()
    sys.exit("hangs")
answer, threads = queue.get()
{after}
"""


@pytest.fixture
def run_forked() -> Callable[..., Any]:
    """run(before, child, after, *arguments): a script whose process forks after OpenMP has started, as it ended.

    `before` runs in the parent, `child` in the forked process, where it sets `answer`, and `after` in the parent again,
    which then knows `answer` and the child's `threads`.
    """
    if not hasattr(os, "fork"):
        pytest.skip("no fork")

    def run(before: str, child: str, after: str, *arguments: str) -> Any:
        script = FORKED.format(before=before, child=child.strip(), after=after)
        # Threads that do not spin while they wait: on a busy machine the parent is slow otherwise.
        environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)

    return run


@pytest.fixture
def tiny_settings() -> dict[str, Any]:
    """Settings of a `MAEConfig` with 16 patches."""
    return dict(TINY)


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """make(seed=0, **settings): a model none of whose trained weights is zero, so that each of them matters."""

    def make(seed: int = 0, **settings: Any) -> Any:
        import torch

        from maerestore.model import MAEConfig, MaskedAutoencoder

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MaskedAutoencoder(MAEConfig(**{**TINY, **settings}))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += 0.1 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def noise_images() -> Callable[..., Any]:
    """make(n, height, width, channels=3, seed=0): (n, channels, height, width) of normal noise."""

    def make(n: int = 2, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> Any:
        import torch

        return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="module")
def hub_server() -> Any:
    """A server on loopback that speaks the Hub's protocol."""
    from hub.hub_server import HubServer

    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def hub(hub_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """The server, empty, with a token that may write."""
    from hub.hub_server import connect

    hub_server.reset()
    connect(hub_server, monkeypatch, tmp_path / "home")
    return hub_server
