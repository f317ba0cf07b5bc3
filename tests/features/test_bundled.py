"""The encoder that travels with the package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.features import FeatureExtractor
from maerestore.hub.fetch import bundled_folder

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(pooling="cls+mean", device="cpu")


def test_it_is_an_encoder_of_its_own_and_small(extractor):
    assert extractor.name == "features"
    assert not extractor.backbone.model.config.has_decoder
    assert sum(file.stat().st_size for file in (bundled_folder() / "features").iterdir()) < 31e6
    assert extractor.fingerprint != FeatureExtractor.from_pretrained("default", pooling="cls+mean").fingerprint
    assert sum(file.stat().st_size for file in bundled_folder().glob("*.safetensors")) < 48e6  # the default alone
    assert sum(file.stat().st_size for file in bundled_folder().rglob("*") if file.is_file()) < 92e6


def test_two_crops_of_a_photo_are_nearer_than_other_pictures(extractor):
    boat = Image.open(DATA / "boat.jpg")
    width, height = boat.size
    left, right = boat.crop((0, 0, int(0.8 * width), height)), boat.crop((int(0.2 * width), 0, width, height))
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    bars = np.tile(np.repeat(np.array([[255], [0]], np.uint8), 40, axis=0), (height // 80, width))[..., None]
    features = extractor([left, right, noise, np.repeat(bars, 3, axis=2)])
    similarity = features @ features.T
    assert similarity[0, 1] > max(similarity[0, 2], similarity[0, 3], similarity[1, 2], similarity[1, 3]) + 0.02


def test_the_readme_runs_as_printed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Features")[1].split("\n## ")[0]
    vectors, table = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, object] = {}
    exec(vectors, names)
    assert tuple(names["vectors"].shape) == (2, 320)
    assert names["fine"].dim == 2 * 2 * 2 * 320
    assert [grid.ndim for grid in names["grids"]] == [3]

    for label, shade in (("bright", 220), ("dark", 30)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30), (shade, shade - i, shade)).save(tmp_path / f"photos/{label}/{i}.png")
    (tmp_path / "photos/dark/broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    exec(table, names)
    assert names["table"].features.shape == (8, 320)
    assert names["classifier"].classes == ("bright", "dark")
