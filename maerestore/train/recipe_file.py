"""Recipes as YAML files."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.run_recipe import RunRecipe
from maerestore.train.values import RecipeError

Kind = TypeVar("Kind", bound=RunRecipe)


def load_recipe(
    path: Path,
    overrides: list[str] | None = None,
    kind: type[Kind] = PretrainRecipe,  # type: ignore[assignment]
) -> Kind:
    """Read a YAML recipe.

    Args:
        path: the file.
        overrides: "key=value" strings that replace settings; the value is read as YAML, and dots lead into mappings:
            "masking.mask_ratio=0.75". What leads into a mapping that the file leaves out adds to the default one.
        kind: the recipe's class.

    Raises:
        RecipeError: not there, no YAML mapping, an unknown key, or a value that does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise RecipeError(f"{path}: cannot be read ({err.strerror})") from err
    except UnicodeDecodeError as err:
        raise RecipeError(f"{path}: not valid YAML ({err})") from err
    values, defaults = _yaml(text, str(path)), kind().to_dict()
    for item in overrides or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"--set wants KEY=VALUE, got {item!r}")
        _put(values, key, _yaml(value, f"--set {item}"), defaults)
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of settings")
    blamed = f"{path} with --set {' --set '.join(overrides)}" if overrides else path
    unknown = sorted(set(map(str, values)) - {f.name for f in fields(kind)})
    if unknown:
        raise RecipeError(f"{blamed}: unknown setting(s) {', '.join(unknown)}")
    try:
        return kind(**values)
    except RecipeError as err:
        raise RecipeError(f"{blamed}: {err}") from err


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as err:  # the second for a date that there is not
        raise RecipeError(f"{what}: not valid YAML ({str(err).splitlines()[0]})") from err


def _put(values: Any, key: str, value: Any, defaults: Any) -> None:
    """Set a value in nested mappings; where a name on the way is none, the recipe's own checks say so.

    A mapping that is not there yet is the default one: `loss.l1=0.1` adds to the loss, and does not replace it.
    """
    *way, last = key.split(".")
    for name in way:
        defaults = defaults.get(name) if isinstance(defaults, dict) else None
        if isinstance(defaults, list) and len(defaults) == 1:  # a single phase may stand for a list of them
            defaults = defaults[0]
        start = copy.deepcopy(defaults) if isinstance(defaults, dict) else {}
        values = values.setdefault(name, start) if isinstance(values, dict) else None
    if isinstance(values, dict):
        values[last] = value
    elif way:
        raise RecipeError(f"--set {key}: {way[-1]} is no mapping")
