"""`--seed` decides what `maerestore inpaint` draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ((), "out.png"),
        (("--samples", "2", "--sharp", "off"), "out_2.png"),
        # The smooth fill is the same for every seed, and the map is of what the model was shown.
        (("--sharp", "off", "--confidence", "sure.png"), "sure.png"),
    ],
)
def test_two_seeds_differ_and_each_repeats_itself(
    options: tuple[str, ...], written: str, fill: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    pictures = []
    for seed in (3, 3, 4):
        assert fill("photo.png", "mask.png", "-o", "out.png", "--seed", seed, "--overwrite", "--quiet", *options) == 0
        pictures.append(Path(written).read_bytes())
    three, again, four = pictures
    assert three == again
    assert three != four
