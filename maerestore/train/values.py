"""Values of a recipe, as YAML gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from maerestore.errors import MaerestoreError

_Value = TypeVar("_Value")
_Block = TypeVar("_Block")


class RecipeError(MaerestoreError):
    """A recipe that cannot be read or does not fit."""


def number(name: str, value: Any) -> float:
    """A float; YAML reads 3e-3, without a dot, as text."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
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


def read_numbers(settings: Any, prefix: str = "") -> None:
    """Make numbers of the fields of a dataclass, frozen or not, that are declared as float or int.

    Raises:
        RecipeError: a value that is none; its name is the field's, after the prefix.
    """
    for f in fields(settings):
        if f.type in ("float", "int"):
            read = number if f.type == "float" else whole
            object.__setattr__(settings, f.name, read(prefix + f.name, getattr(settings, f.name)))


def check(conditions: list[tuple[bool, str]], prefix: str = "") -> None:
    """Raise a `RecipeError` with the first message whose condition does not hold, after the prefix."""
    for holds, message in conditions:
        if not holds:
            raise RecipeError(prefix + message)


def block(kind: type[_Block], name: str, values: Any) -> _Block:
    """A block of a recipe as the dataclass that holds it; one that is that already comes back.

    Raises:
        RecipeError: no mapping, an unknown key, or a value that does not fit.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise RecipeError(f"{name} is a mapping of settings, got {values!r}")
    unknown = sorted(set(map(str, values)) - {f.name for f in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise RecipeError(f"unknown setting(s) of {name}: {', '.join(unknown)}")
    return kind(**values)


def pair(name: str, value: Any, kind: Callable[[str, Any], _Value]) -> tuple[_Value, _Value]:
    """Two values of one kind."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise RecipeError(f"{name} takes two values, got {value!r}")
    return kind(name, value[0]), kind(name, value[1])


def changes(before: Any, now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two recipes; what a block had and has no longer, too.

    Example:
        >>> changes({"seed": 0, "loss": {"mse": 1.0, "bce": 0.1}}, {"seed": 0, "loss": {"mse": 0.5}})
        ['loss.mse 1.0 -> 0.5', 'loss.bce 0.1 -> None']
    """
    if not isinstance(before, dict):
        return []
    told = []
    for name in {**now, **before}:
        old, new = before.get(name), now.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            told += changes(old, new, f"{prefix}{name}.")
        elif _plain(old) != _plain(new):
            told.append(f"{prefix}{name} {old} -> {new}")
    return told


def _plain(value: Any) -> Any:
    """A value whose sequences are lists, as a recipe may hold either."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
