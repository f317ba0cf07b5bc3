"""The names of models, as tables, indexes and heads store them. Needs no torch."""

from __future__ import annotations

import os

from maerestore.hub.fetch import BUNDLED

__all__ = ["TIMM", "name_to_keep"]

TIMM = "timm:"
"""What names of timm's models begin with."""


def name_to_keep(model: str) -> str:
    """The name of a model as what is made with it stores it: the absolute path for a folder or file on this machine.

    A relative path would lead somewhere else from another working directory, or be taken for a name on the Hub.
    """
    here = model not in BUNDLED and not model.startswith(TIMM) and os.path.exists(model)
    return os.path.abspath(model) if here else model
