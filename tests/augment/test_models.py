from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maerestore.augment import models, preload
from maerestore.hub.errors import ModelError

from .conftest import save_random


def test_a_model_is_loaded_once_and_frozen(model):
    first = models.load(model)
    assert models.load(model, torch.device("cpu")) is first
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert models.is_loaded(model)


def test_the_config_is_had_without_the_weights(tmp_path, monkeypatch):
    name = save_random(tmp_path / "config", depth=1)
    monkeypatch.setattr(models, "load_autoencoder", None)
    assert models.config_of(name).depth == 1
    assert not models.is_loaded(name)


def test_a_file_without_a_config_tells_its_sizes_by_its_weights(tmp_path):
    # The decoder's width is one whose heads are known.
    save_random(tmp_path / "model", depth=1, decoder_embed_dim=512, decoder_depth=1, decoder_num_heads=16)
    weights = models.load(str(tmp_path / "model")).state_dict()
    torch.save({"model": weights}, tmp_path / "other.pth")
    assert models.config_of(str(tmp_path / "other.pth")).embed_dim == 192


def test_preloading_loads(tmp_path):
    name = save_random(tmp_path / "preload", depth=1)
    assert not models.is_loaded(name)
    preload(Path(name))
    assert models.is_loaded(name)


def test_an_encoder_alone_is_refused(tmp_path):
    name = save_random(tmp_path / "encoder", depth=1, decoder_depth=0)
    with pytest.raises(ModelError, match="cannot reconstruct"):
        models.load(name)


@pytest.mark.parametrize("content", ['{"model_type": "maerestore", "autoencoder": {"depth": -1}}', "{", "[]"])
def test_a_damaged_config_is_told_in_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        models.config_of(str(tmp_path))
    assert "\n" not in str(caught.value)


VIEWS = """
import numpy as np
from maerestore.augment import MaskedViews, ViewSettings, models

views = MaskedViews(ViewSettings(model=sys.argv[1], mask_ratio=0.5), precision="fp32")
images = torch.rand(16, 3, 128, 128)
draw = views.draw(16, np.random.default_rng(0))
here = views.render(images, draw).double().sum().item()
"""
CHILD = "answer = models.is_loaded(sys.argv[1]), views.render(images, draw).double().sum().item()"
REPORT = """
print(answer[0], abs(answer[1] - here) < 1, threads, torch.get_num_threads())
print(sorted({"albumentations", "kornia", "torchvision"} & set(sys.modules)))
"""


def test_a_fork_after_openmp_has_started_does_not_hang(model, run_forked):
    done = run_forked(VIEWS, CHILD, REPORT, model)
    # In one thread, with the parent's weights; and the core needs no host.
    assert done.stdout.splitlines() == ["True True 1 2", "[]"], done.stdout + done.stderr


# Each reads its images before a view is drawn: those of torchvision have to be copied for their layout, and a replay of
# kornia draws nothing.
TORCHVISION = """
from torchvision import tv_tensors
from maerestore.augment.torchvision import MAEAugment

augment = MAEAugment(model=sys.argv[1], p=1)
images = tv_tensors.Image(torch.rand(3, 8, 3, 128, 128).transpose(0, 1))
view = lambda: augment(images)
"""
KORNIA = """
from maerestore.augment.kornia import MAEAugment

augment = MAEAugment(model=sys.argv[1], p=0.5)
images = torch.rand(16, 3, 128, 128)
params = augment.forward_parameters(images.shape)
params["batch_prob"] = torch.arange(16) % 2.0
view = lambda: augment(images, params=params)
"""


@pytest.mark.parametrize("before", [TORCHVISION, KORNIA], ids=["torchvision", "kornia"])
def test_adapters_do_not_hang_after_such_a_fork(model, run_forked, before):
    done = run_forked(before, "answer = bool((view() != images).any())", "print(answer, threads)", model)
    assert done.stdout.split() == ["True", "1"], done.stdout + done.stderr
