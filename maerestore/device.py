"""The device that networks run on."""

from __future__ import annotations

import torch

from maerestore.hub.errors import ModelError


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Turn the name of a device into an available device.

    Args:
        name: "auto" (CUDA, then MPS, then CPU), or any device of torch: "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ModelError: an unknown name, or a device that this machine lacks.

    Example:
        >>> pick_device("cpu"), pick_device(torch.device("cpu", 0))
        (device(type='cpu'), device(type='cpu'))
    """
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind in there if there[kind]))
    try:
        device = torch.device(name if isinstance(name, torch.device) else str(name))
    except RuntimeError as err:
        raise ModelError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:0, mps or another of torch") from err
    count = _devices(device.type)
    if (device.index or 0) >= count:
        others = f": there are {count} of them" if device.index and count > 1 else ""
        raise ModelError(f"device {device} is not available here{others}: use auto or cpu")
    return torch.device("cpu") if device.type == "cpu" else device  # tensors know no cpu:0


def _devices(kind: str) -> int:
    """How many devices of a kind this machine has."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind in ("cpu", "mps"):
        return int(kind == "cpu" or torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # torch.xpu and the like; "meta", which holds no numbers, has none
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        return 0
    return int(module.device_count())
