"""The options of features, which three verbs take alike."""

from __future__ import annotations

import argparse

import pytest

from maerestore.cli.feature_flags import feature_flags, feature_options
from maerestore.cli.main import build_parser
from maerestore.features.options import FeatureOptions

VERBS = [["features", "photos", "-o", "t.npy"], ["index", "build", "photos", "-o", "i"],
         ["classify", "fit", "photos", "-o", "h"]]  # fmt: skip


def parsed(verb: list[str], flags: str) -> argparse.Namespace:
    return build_parser().parse_args([*verb, *flags.split()])


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_flags_give_the_same_options(verb: list[str]) -> None:
    flags = "--pooling cls+mean --layers -1 0 --scales 1 0.5 --size 24 --no-normalize --precision fp32"
    args = parsed(verb, flags)
    assert feature_options(args) == FeatureOptions("cls+mean", (-1, 0), (1.0, 0.5), 24, False, "fp32")
    assert feature_flags(args) == [flag for flag in flags.split() if flag.startswith("--")]


@pytest.mark.parametrize("verb", VERBS)
def test_without_flags_the_defaults_stand(verb: list[str]) -> None:
    args = parsed(verb, "")
    assert feature_options(args) == FeatureOptions()
    assert feature_flags(args) == []
    assert feature_flags(parsed(verb, "--pooling mean --layers -1")) == ["--pooling", "--layers"]


@pytest.mark.parametrize("verb", VERBS)
def test_grids_fit_no_table(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(verb, "--pooling patch")
    assert stop.value.code == 2
    assert "a grid for each image" in capsys.readouterr().err
