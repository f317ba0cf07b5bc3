"""`--seed` decides what is drawn."""

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


def test_a_grid_of_views_heeds_its_seed(command: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    small = ("--grid", "--strategy", "random", "--mask-ratio", 0.5, "--overwrite")
    pictures = []
    for seed in (3, 3, 4):
        assert command("augment", folder / "photo.png", "-o", folder / "grid.png", "--seed", seed, *small)[0] == 0
        pictures.append((folder / "grid.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
