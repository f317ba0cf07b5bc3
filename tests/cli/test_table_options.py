"""The options of `maerestore inpaint` mean with --table what they mean for one photo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.cli.main import main

from .conftest import hole, noise, save_mask


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder: a.png, masks of several kinds, and for each a table that names it."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise()).save("a.png")
    save_mask(Path("mask.png"), hole())
    save_mask(Path("keep.png"), ~hole())
    save_mask(Path("half.png"), hole()[::2, ::2])
    for name in ("mask", "keep", "half"):
        Path(f"{name}.csv").write_text(f"photo,mask\na.png,{name}.png\n")


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ("mask", ("--dilate", 3)),
        ("mask", ("--feather", 9)),
        ("mask", ("--sharp", "off")),
        ("mask", ("--seed", 7)),
        ("keep", ("--mask-white", "keep")),
        ("half", ("--resize-mask",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_an_option_does_to_a_table_what_it_does_to_one_photo(
    mask: str, options: tuple[Any, ...], table: None, model_folder: Path, fill: Callable[..., int]
) -> None:
    arguments = ["--table", f"{mask}.csv", "-o", "filled", "--model", model_folder, "--device", "cpu", "--quiet"]
    assert main(["inpaint", *map(str, arguments), *map(str, options)]) == 0
    assert fill("a.png", f"{mask}.png", "-o", "alone.png", "--quiet", *options) == 0
    assert Path("filled/a.png").read_bytes() == Path("alone.png").read_bytes()
    if mask == "mask":  # the others cannot be filled without their option: only of these it could be lost unseen
        assert fill("a.png", "mask.png", "-o", "plain.png", "--quiet") == 0
        assert (np.asarray(Image.open("plain.png")) != np.asarray(Image.open("alone.png"))).any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_device_and_precision_of_a_table_reach_the_model(
    precision: str, table: None, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    load, asked = Inpainter.from_pretrained, []

    def spy(*args: Any, **options: Any) -> Any:
        asked.append((*args, options))
        return load(*args, **options)

    monkeypatch.setattr(Inpainter, "from_pretrained", spy)
    arguments = ["--table", "mask.csv", "-o", "filled", "--model", model_folder, "--device", "cpu"]
    assert main(["inpaint", *map(str, arguments), "--precision", precision, "--quiet"]) == 0
    assert asked == [(str(model_folder), {"device": "cpu", "precision": precision})]
