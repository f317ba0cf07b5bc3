"""Packages whose names are imported when they are first used: `import maerestore` loads neither torch nor OpenCV."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], names: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` of a package.

    Args:
        package: its `__name__`.
        modules: for each name that is imported late, the module that it is taken from.
        names: its `__all__`.

    Example:
        >>> find, names = lazy_names("shapes", {"sqrt": "math"}, ["sqrt"])
        >>> find("sqrt")(9.0), names()
        (3.0, ['sqrt'])
        >>> find("cbrt")
        Traceback (most recent call last):
        AttributeError: module 'shapes' has no attribute 'cbrt'
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return find, lambda: list(names)
