"""What a pretraining run costs before it is started: operations, bytes, and what the device at hand reaches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from maerestore.model import blocks
from maerestore.train.pretrain import PretrainBatch, Pretrainer

SHAPES = 16  # steps whose masks are looked at: mask ratios and holes change from step to step


def counted_gflop(run: Pretrainer) -> float:
    """Floating-point operations of forward and backward, the mean over 16 steps' shapes, for one image (10^9)."""
    total = 0.0
    part = slice(0, min(4, run.layout.micro))
    for _ in _steps(run):
        batch = run._batch(part)
        with FlopCounterMode(display=False) as counter, run.accelerator.autocast():
            _loss(run, batch).backward()
        run.model.zero_grad(set_to_none=True)
        total += counter.get_total_flops() / len(batch.images)
    return total / SHAPES / 1e9


def activation_bytes(run: Pretrainer, images: int) -> int:
    """What a forward pass over so many images keeps for the backward pass, with the largest of 16 steps' shapes.

    Attention is counted as the fused kernel of a GPU keeps it: inputs and output, no matrix of weights. Temporaries of
    the backward pass are not counted, nor what `torch.compile` saves.
    """
    parameters = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    most = 0
    for _ in _steps(run):
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # with its history, an operation that saves its output would hold itself for ever

        batch = run._batch(slice(0, images))
        with _fused_attention(), run.accelerator.autocast(), saved_tensors_hooks(pack, lambda tensor: tensor):
            # The loss holds the graph, and with it every storage: no address is used twice while it lives.
            loss = _loss(run, batch)
        most = max(most, sum(kept.values()))
        del loss
    return most


def state_bytes(run: Pretrainer) -> dict[str, int]:
    """Weights, their gradients, the optimisers' state and the averaged weights; after the first step."""
    trained = [p for p in run.model.parameters() if p.requires_grad]
    states = [state for optimizer in run.optimizers for state in optimizer.state.values()]
    return {
        "weights": sum(p.nbytes for p in run.model.parameters()),
        "gradients": sum(p.nbytes for p in trained),
        "optimiser": sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor)),
        "average": sum(p.nbytes for p in run.average.parameters()),
    }


def peak_tflops(device: torch.device, precision: str) -> float:
    """What a matrix product reaches: the best of a few sizes, in 10^12 operations a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        repeats = 4 if device.type == "cpu" else 30
        for _ in range(3):
            a @ b
        start = clock(device)
        for _ in range(repeats):
            a @ b
        best = max(best, repeats * 2 * size**3 / (clock(device) - start) / 1e12)
    return best


def clock(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _loss(run: Pretrainer, batch: PretrainBatch) -> Tensor:
    """What a step on the batch makes small."""
    masks = batch.masks
    seen = batch.images, masks.mask, masks.num_visible, masks.pixel_mask, masks.pixel_weight, batch.noise
    loss, _, _ = run.objective(*seen)
    return loss


def _steps(run: Pretrainer) -> Iterator[int]:
    """The run, standing at each of its next steps in turn; afterwards where it was."""
    step = run.step
    try:
        for run.step in range(step, step + SHAPES):
            yield run.step
    finally:
        run.step = step


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as a GPU computes it; on a CPU, training takes plain products, which keep the weights."""
    plain = blocks.attend
    blocks.attend = lambda q, k, v, key_mask=None: F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
    try:
        yield
    finally:
        blocks.attend = plain
