"""Values of a recipe, as YAML gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from maerestore.errors import MaerestoreError

_Value = TypeVar("_Value")


class RecipeError(MaerestoreError):
    """A recipe that cannot be read or does not fit."""


def number(name: str, value: Any) -> float:
    """A float; YAML reads 3e-3, without a dot, as text."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise RecipeError(f"{name} must be a number, got {value!r}")
    return result


def whole(name: str, value: Any) -> int:
    """An int; 1e6 is one too."""
    result = number(name, value)
    if result != int(result):
        raise RecipeError(f"{name} must be a whole number, got {value!r}")
    return int(result)


def pair(name: str, value: Any, kind: Callable[[str, Any], _Value]) -> tuple[_Value, _Value]:
    """Two values of one kind."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise RecipeError(f"{name} takes two values, got {value!r}")
    return kind(name, value[0]), kind(name, value[1])
