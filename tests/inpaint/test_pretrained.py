"""An inpainter that was saved fills as it did before: nothing of it is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maerestore import ModelError
from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.pipeline import Inpainter

from .conftest import box_mask, random_model, textured
from .test_refine import random_refiner

MASK = box_mask(70, 90, (20, 30, 48, 60), (60, 0, 64, 40))
CURVE = BlendCurve((0.0, 2.0, 9.0), (0.1, 1 / 3, 0.7))


def inpainter_of(refined: bool, **settings: Any) -> Inpainter:
    settings = {"curve": CURVE, "smooth": 0.7, "size": 48, "precision": "fp32", **settings}
    return Inpainter(random_model(), refiner=random_refiner() if refined else None, **settings)


def fills(inpainter: Inpainter) -> np.ndarray:
    photo = textured(70, 90)
    return np.stack([inpainter.inpaint(photo, MASK), inpainter.inpaint(photo, MASK, sharp=False)])


@pytest.mark.parametrize("refined", [True, False])
def test_it_comes_back_from_a_folder_and_fills_alike(refined: bool, tmp_path: Path) -> None:
    before = inpainter_of(refined)
    before.save_pretrained(tmp_path / "saved")
    after = Inpainter.from_pretrained(tmp_path / "saved", device="cpu", precision="fp32")
    assert (after.curve, after.smooth, after.size) == (CURVE, 0.7, 48)
    assert (after.refiner is not None) == refined
    np.testing.assert_array_equal(fills(after), fills(before))


def test_it_comes_back_from_the_hub_and_fills_alike(hub: Any) -> None:
    before = inpainter_of(refined=True)
    before.push_to_hub("org/name", private=True, training={"samples": 7}, refiner_training={"samples": 99})
    after = Inpainter.from_pretrained("org/name", device="cpu", precision="fp32")
    np.testing.assert_array_equal(fills(after), fills(before))


def test_facts_and_number_format_go_along(tmp_path: Path) -> None:
    inpainter = inpainter_of(refined=True)
    inpainter.save_pretrained(str(tmp_path), training={"samples": 7}, refiner_training={"samples": 9}, dtype=torch.half)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["training"], config["refiner"]["training"]) == ({"samples": 7}, {"samples": 9})
    total = sum(p.numel() for net in (inpainter.model, inpainter.refiner) if net for p in net.parameters())
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < 3 * total
    assert next(inpainter.model.parameters()).dtype == torch.float32


def test_settings_that_could_not_be_loaded_again_are_not_written(tmp_path: Path) -> None:
    for setting, value in (("size", 50), ("smooth", 100.0)):
        inpainter = inpainter_of(refined=False)
        setattr(inpainter, setting, value)
        with pytest.raises(ModelError, match="the fill settings do not fit"):
            inpainter.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "fill",
    [{"curve": {"distance": [0, float("nan")], "share": [0, 1]}}, {"curve": {"distance": [0, 1e999], "share": [0, 1]}},
     {"curve": {"distance": [0, 10**400], "share": [0, 1]}}, {"size": 8 * 10**9}, {"smooth": 10**400}, {"curve": "x"}],
    ids=lambda fill: str(fill)[:40],
)  # fmt: skip
def test_fill_settings_of_a_damaged_config_are_refused(tmp_path: Path, fill: dict[str, Any]) -> None:
    inpainter_of(refined=False).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fill": fill}))
    with pytest.raises(ModelError, match="the fill settings in its config do not fit"):
        Inpainter.from_pretrained(tmp_path, device="cpu")


def test_saving_over_a_model_with_a_refiner_leaves_none(tmp_path: Path) -> None:
    inpainter_of(refined=True).save_pretrained(tmp_path)
    inpainter_of(refined=False).save_pretrained(tmp_path)
    assert Inpainter.from_pretrained(tmp_path, device="cpu").refiner is None
