"""Under `torch.compile`: views are made outside the graphs, and without it nothing of the compiler is loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from maerestore.augment.batch import BatchMAEAugment
from maerestore.augment.core import MaskedViews
from maerestore.augment.graphs import outside_graphs
from maerestore.augment.settings import ViewSettings

from .hosts import HOSTS, as_tensor, photos


def test_views_are_made_without_the_compiler(model):
    script = """
import sys
from maerestore.augment import batch, core, kornia  # torchvision loads the compiler itself
print("torch._dynamo" in sys.modules)
import torch
from maerestore import BatchMAEAugment
BatchMAEAugment(model=sys.argv[1], p=1)(torch.rand(2, 3, 32, 32))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def bare(model):
    views = MaskedViews(ViewSettings(model=model, mask_ratio=0.5), precision="fp32")

    def augment(images):
        seed = int(torch.randint(2**60, ()))
        return views.render(images, views.draw(len(images), np.random.default_rng(seed)))

    return augment


MAKERS = {
    "batch": lambda model: BatchMAEAugment(model=model, precision="fp32", p=1),
    "torchvision": lambda model: HOSTS["torchvision"].transform(model=model, precision="fp32", p=1),
    "kornia": lambda model: HOSTS["kornia"].transform(model=model, precision="fp32", p=1),
    "bare": bare,
}


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_compiled_pipeline_makes_new_views_at_every_call_and_traces_none_of_it(model, kind):
    torch._dynamo.reset()
    torch.manual_seed(0)
    augment, head = MAKERS[kind](model), torch.nn.Conv2d(3, 2, 3, stride=3)
    traced: list[str] = []

    def backend(graph, examples):
        traced.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def step(images):
        return head(augment(images * 1)).tanh()

    compiled = torch.compile(step, backend=backend)
    images = as_tensor(photos(4, dtype=np.float32))
    with torch.no_grad():
        outs = [compiled(images) for _ in range(6)]
        assert len({out.numpy().tobytes() for out in outs}) == 6
        torch.manual_seed(1)
        once = compiled(images)
        torch.manual_seed(1)
        assert torch.allclose(once, step(images), atol=1e-5)
    assert any("tanh" in name for name in traced)
    # What the model, its masks and the scaling would be made of.
    assert not [name for name in traced if any(part in name for part in ("interpolate", "gather", "attention", "sort"))]


def test_a_graph_breaks_at_a_call_and_goes_on_behind_it():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    calls = []

    @outside_graphs
    def drawn(x, *, by):
        calls.append(torch.compiler.is_compiling())
        return x + by * float(np.random.default_rng(len(calls)).random())

    counter = CompileCounter()
    compiled = torch.compile(lambda x: drawn(x * 2, by=3) * 2, backend=counter)
    outs = [float(compiled(torch.ones(()))) for _ in range(12)]
    assert len(set(outs)) == 12
    assert calls == [False] * 12
    assert counter.frame_count == 2
    assert drawn.__name__ == "drawn"
