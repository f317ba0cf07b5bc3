"""The number format that networks compute in outside training."""

from __future__ import annotations

import torch

from maerestore.errors import MaerestoreError

PRECISIONS = ("auto", "fp32", "bf16")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a network runs in bfloat16.

    "auto" takes bfloat16 on CPUs that multiply it in hardware (AVX512-BF16 or AMX), and float32 elsewhere. Where a CPU
    only emulates it, it is slower. On an accelerator "auto" keeps float32, so that devices agree closely.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: where the network runs.

    Raises:
        MaerestoreError: another precision.

    Example:
        >>> uses_bf16("bf16", torch.device("cpu")), uses_bf16("auto", torch.device("cuda"))
        (True, False)
    """
    if precision not in PRECISIONS:
        raise MaerestoreError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "auto":
        return device.type == "cpu" and _has_fast_bf16()
    return precision == "bf16"


def trains_in_bf16(precision: str, cpu: bool) -> bool:
    """Whether a network is trained in bfloat16, its weights staying float32.

    "auto" takes bfloat16 where the processor multiplies it in hardware, GPUs too. A CPU that emulates it takes five
    times as long as in float32.

    Args:
        precision: "auto", "fp32" or "bf16".
        cpu: whether to stay on the CPU.

    Example:
        >>> trains_in_bf16("bf16", cpu=True), trains_in_bf16("fp32", cpu=False)
        (True, False)
    """
    if precision == "auto" and not cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return uses_bf16(precision, torch.device("cpu"))


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """A context in which matrix products are computed in bfloat16, or, with `bf16` False, as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def _has_fast_bf16() -> bool:
    # Older torch does not tell: float32 then.
    asked = getattr(torch.cpu, "get_capabilities", None)
    has = asked() if asked is not None else {}
    return torch.backends.mkldnn.is_available() and bool(has.get("avx512_bf16") or has.get("amx_bf16"))
