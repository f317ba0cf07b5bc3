from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import UserList
from pathlib import Path

import numpy as np
import pytest

from maerestore import MaerestoreError
from maerestore.augment.settings import STRATEGIES, ViewSettings, check_share


def test_the_defaults():
    settings = ViewSettings()
    assert settings.mask_ratio == settings.ratio_range == (0.4, 0.75)
    assert (settings.strategy, settings.blend, settings.model, settings.size) == ("random", 1.0, "augment", None)


def test_the_strategies_are_the_policies_of_masking():
    from maerestore.masking.patches import POLICIES

    assert STRATEGIES == POLICIES


@pytest.mark.parametrize("given", [0.5, (0.5, 0.5), [0.5, 0.5], UserList([0.5, 0.5]), np.float32(0.5)])
def test_a_ratio_is_kept_as_a_pair_of_floats(given):
    ratio = ViewSettings(mask_ratio=given).mask_ratio
    assert ratio == (0.5, 0.5)
    assert [type(end) for end in ratio] == [float, float]


def test_values_are_kept_as_plain_python():
    settings = ViewSettings(blend=np.float64(0.25), model=Path("a/b"), size=np.int64(64))
    assert (settings.blend, settings.model, settings.size) == (0.25, os.path.join("a", "b"), 64)
    assert [type(v) for v in (settings.blend, settings.model, settings.size)] == [float, str, int]


def test_they_are_frozen_hashable_and_go_round_through_a_dict():
    settings = ViewSettings(mask_ratio=(0.1, 0.9), strategy="grid", size=64)
    assert ViewSettings(**settings.to_dict()) == settings
    assert hash(ViewSettings(**settings.to_dict())) == hash(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.blend = 0.5


@pytest.mark.parametrize(
    ("settings", "nothing"),
    [({}, False), ({"blend": 0}, True), ({"mask_ratio": 0}, True), ({"mask_ratio": (0, 0.5)}, False)],
)
def test_they_know_whether_a_view_can_differ(settings, nothing):
    assert ViewSettings(**settings).changes_nothing is nothing


@pytest.mark.parametrize("value", [True, None, "0.5", float("nan"), 1.01, -0.01, (0.5,)])
def test_what_is_no_share_is_named(value):
    with pytest.raises(MaerestoreError, match=r"p must be a number in \[0, 1\], got "):
        check_share("p", value)


@pytest.mark.parametrize("size", [True, 0, -4, 3.0, "64"])
def test_what_is_no_size_is_named(size):
    with pytest.raises(ValueError, match=f"size .* got {size!r}"):
        ViewSettings(size=size)


def test_settings_are_had_without_torch():
    code = "import maerestore.augment.settings, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
