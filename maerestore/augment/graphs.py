"""Views are made outside the graphs that `torch.compile` makes of the code around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """A function that breaks the graph where it is called: it draws with NumPy, and looks at values.

    As `torch.compiler.disable`, which imports torch's compiler as soon as it decorates: 1.5 s and 150 MB in every
    process that makes views, a spawned worker say, though nothing is compiled there. Here that waits until a graph is
    made.

    Example:
        >>> outside_graphs(max)(1, 2)
        2
    """
    outside: list[Callable[P, R]] = []  # made once: a graph is guarded by the very function that it calls

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not outside:
            outside.append(torch.compiler.disable(function))
        return outside[0](*args, **kwargs)

    return call
