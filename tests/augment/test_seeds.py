"""A view follows from the seed, the image's name and the view's number: each of them matters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from maerestore.augment.cache import view_rng, write_views
from maerestore.augment.grid import view_panels
from maerestore.augment.settings import ViewSettings

from .conftest import save_random

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16,
         "decoder_depth": 1, "decoder_num_heads": 2}  # fmt: skip


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)


def test_seed_name_and_number_each_give_another_generator() -> None:
    keys = [
        (0, "cats/a.jpg", 1),
        (1, "cats/a.jpg", 1),
        (0, "dogs/a.jpg", 1),
        (0, "cats/b.jpg", 1),
        (0, "cats/a.jpg", 2),
    ]
    drawn = [view_rng(*key).integers(2**63) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn == [view_rng(*key).integers(2**63) for key in keys]


def test_images_that_are_equal_get_other_views_wherever_they_are(tmp_path: Path) -> None:
    settings = ViewSettings(model=save_random(tmp_path / "model", **SIZES))
    for name in ("cats/a.png", "cats/b.png", "dogs/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels()).save(tmp_path / "photos" / name)
    for seed in (3, 4):
        write_views(tmp_path / "photos", tmp_path / f"out{seed}", 2, settings, seed=seed)
    views = [np.asarray(Image.open(path)).tobytes() for path in tmp_path.glob("out*/*/*.png")]
    assert len(views) == len(set(views)) == 12


def test_a_seed_decides_the_rows_of_the_grid_and_each_row_has_one_draw(tmp_path: Path) -> None:
    settings = ViewSettings(model=save_random(tmp_path / "model", **SIZES))
    rgb = pixels().astype(np.float32) / 255
    three, again, four = (view_panels(rgb, settings, ("random", "block"), seed=seed) for seed in (3, 3, 4))
    for row, same, other in zip(three, again, four, strict=True):
        assert all(np.array_equal(view, repeated) for view, repeated in zip(row, same, strict=True))
        assert all((view != changed).any() for view, changed in zip(row[1:], other[1:], strict=True))
        hidden = [(view != row[0]).any(2) for view in row[1:]]
        assert all((more | less == more).all() for less, more in pairwise(hidden))
