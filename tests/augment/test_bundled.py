"""The bundled small model, and the README's snippets, which use it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maerestore
from maerestore.augment import MaskedViews, ViewSettings, models
from maerestore.hub.fetch import resolve_model

ROOT = Path(maerestore.__file__).parents[1]
LIMIT = 12 * 1024 * 1024


def snippets() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Augmenting\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize("host", ["albumentations", "torchvision", "kornia"])
def test_the_readme_runs_as_printed(host, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(models, "_models", {})
    (code,) = [code for code in snippets() if f"maerestore.augment.{host}" in code]
    torch.manual_seed(0)
    namespace = {}
    exec(code, namespace)
    made = namespace.get("view", namespace.get("images"))
    shape = {"albumentations": (224, 224, 3), "torchvision": (3, 224, 224), "kornia": (8, 3, 128, 128)}[host]
    assert tuple(made.shape) == shape
    assert namespace["MAEAugment"].__module__ == f"maerestore.augment.{host}"
    assert namespace["MAEAugment"](p=0.5)._views.settings.model == "augment"
    # By chance an image may have been left as it is: with p = 0.5, hardly eight times in a row.
    image = Image.open("tests/data/boat.jpg")
    for _ in range(8):
        if host == "albumentations":
            namespace["transform"](image=np.asarray(image))
        elif host == "torchvision":
            namespace["transform"](image)
    assert models.is_loaded("augment")


def test_the_readme_s_batches_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = [code for code in snippets() if "BatchMAEAugment" in code]
    namespace = {}
    exec(code, namespace)
    images, labels = torch.rand(4, 3, 128, 128), torch.arange(4)
    views, same = namespace["augment"](images, labels)
    assert same is labels
    assert int((views != images).flatten(1).any(1).sum()) == 2
    loader = torch.utils.data.DataLoader([(image, 1) for image in images], 4, collate_fn=namespace["augment"].collate)
    assert next(iter(loader))[0].shape == images.shape


def test_it_is_small_and_made_for_whole_patches():
    folder = resolve_model("augment")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT
    config = models.config_of("augment")
    assert (config.image_size, config.patch_size, config.in_chans) == (128, 16, 3)
    assert config.has_decoder
    assert not config.mask_embed


def test_it_rebuilds_hidden_patches_of_a_photograph_better_than_their_mean_colour():
    photo = Image.open(ROOT / "tests/data/boat.jpg").resize((256, 256))
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    views = MaskedViews(ViewSettings(mask_ratio=0.5), precision="fp32")
    ours, plain = [], []
    for seed in range(4):
        view = views.render(image, views.draw(1, np.random.default_rng(seed))).float()
        changed = (view != image).any(1, keepdim=True)
        hidden = torch.nn.functional.max_pool2d(changed.float(), 32).repeat_interleave(32, 2).repeat_interleave(32, 3)
        error = (view - image.float()) ** 2
        ours.append(float((error * hidden).sum() / hidden.sum()))
        visible = 1 - hidden
        mean = (image * visible).sum((2, 3), keepdim=True) / visible.sum()
        plain.append(float((((mean - image) ** 2) * hidden).sum() / hidden.sum()))
    assert np.mean(ours) < 0.5 * np.mean(plain)
