"""`maerestore.MAEAugment`: the transform of whichever host library the calling code uses."""

from __future__ import annotations

import importlib
import sys
from types import FrameType, ModuleType
from typing import Any

from maerestore.errors import MaerestoreError

HOSTS = ("albumentations", "torchvision", "kornia")
_TRANSFORMS = {  # the parts of a library that transforms live in
    "albumentations": "albumentations",
    "torchvision.transforms": "torchvision",
    "kornia.augmentation": "kornia",
}


def MAEAugment(*args: Any, host: str | None = None, **settings: Any) -> Any:
    """A masked-reconstruction transform for the library that the calling code uses.

    Importing the class itself, as in `from maerestore.augment.torchvision import MAEAugment`, is plainer: prefer it.

    The host is told from what the module that calls has imported: `albumentations`, `torchvision.transforms` (or its
    `v2`) or `kornia.augmentation`, anything from them, or else the whole of `torchvision` or `kornia`. If that is none
    or several of the three, name the host, or import the class itself.

    Args:
        *args, **settings: of the class: `maerestore.augment.albumentations.MAEAugment`,
            `maerestore.augment.torchvision.MAEAugment` or `maerestore.augment.kornia.MAEAugment`. All have
            `mask_ratio`, `strategy`, `blend`, `model`, `size`, `precision` and `p`.
        host: "albumentations", "torchvision" or "kornia".

    Returns:
        the transform.

    Raises:
        MaerestoreError: no host can be told, or an argument that does not fit.

    Example:
        >>> MAEAugment(mask_ratio=0.75, host="torchvision")
        MAEAugment(mask_ratio=(0.75, 0.75), strategy=random, blend=1.0, model=augment, precision=auto, p=0.5)
    """
    if host is None:
        host = _host_of(sys._getframe(1))
    if host not in HOSTS:
        raise MaerestoreError(f"host must be one of {', '.join(HOSTS)}, got {host!r}")
    return importlib.import_module(f"maerestore.augment.{host}").MAEAugment(*args, **settings)


def _host_of(frame: FrameType) -> str:
    values = [*frame.f_globals.values(), *frame.f_locals.values()]
    found = {host for value in values if (host := _home(value))}
    # The top modules say less: they are imported for data sets, networks and geometry too.
    found = found or {value.__name__ for value in values if isinstance(value, ModuleType)} & set(HOSTS)
    if len(found) == 1:
        return found.pop()
    seen = f"this module uses {' and '.join(sorted(found))}" if found else "this module uses none of them"
    raise MaerestoreError(
        f"host cannot be told, {seen}: give host= as one of {', '.join(HOSTS)}, "
        "or import the class, as in `from maerestore.augment.torchvision import MAEAugment`"
    )


def _home(value: Any) -> str | None:
    """The host whose transforms a module, class, function or object belongs to."""
    try:
        name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    except Exception:  # whatever stands in a namespace may answer as it likes
        return None
    if not isinstance(name, str):
        return None
    return next((host for part, host in _TRANSFORMS.items() if name == part or name.startswith(part + ".")), None)
