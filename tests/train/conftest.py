"""Drawn photographs, packed once; and a pretraining recipe of a few dozen samples."""

import itertools

import numpy as np
import pytest
from PIL import Image


def gradient(width, height, seed=0):
    """A smooth RGB picture in which no two corners look alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    weights = rng.uniform(0.1, 0.9, (3, 2))
    shades = [20 + 200 * (a * x + b * y) / (a + b) for a, b in weights]
    return Image.fromarray(np.stack(shades, -1).astype(np.uint8))


def file_names(count, held_out):
    """File names that are, or are not, kept aside for validation."""
    from maerestore.train.packing import held_out as is_held_out

    names = (f"{i}.png" for i in itertools.count())
    return list(itertools.islice((name for name in names if is_held_out(name) == held_out), count))


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """A packed folder of 14 training photographs and 3 held out, short side 40; every third one is a portrait."""
    from maerestore.train.packing import pack

    source = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(file_names(14, False) + file_names(3, True)):
        gradient(*((40, 52) if seed % 3 == 0 else (56, 40)), seed).save(source / name)
    target = tmp_path_factory.mktemp("packed")
    pack([source], target, 40)
    return target


@pytest.fixture
def tiny_recipe(tiny_settings):
    """make(**settings): a recipe for 32 px images that logs every step."""
    from maerestore.train.pretrain_recipe import PretrainRecipe

    def make(**settings):
        values = {
            "model": {**tiny_settings, "depth": 1, "mask_embed": True}, "samples": 64, "batch_size": 8,
            "base_lr": 3e-2, "warmup_samples": 16, "mask_count": 32, "precision": "fp32",
            "log_every": 8, "validate_every": 10_000, "save_every": 10_000, "validation_images": 2,
        }  # fmt: skip
        return PretrainRecipe(**{**values, **settings})

    return make


@pytest.fixture
def autoencoder_folder(tiny_model, tmp_path):
    """A tiny autoencoder in single precision, with notes."""
    import torch

    from maerestore.hub.save import save_autoencoder

    folder = tmp_path / "autoencoder"
    save_autoencoder(tiny_model(depth=1, mask_embed=True), folder, {"samples": 5}, {"feather": 2.0}, torch.float32)
    return folder


@pytest.fixture
def restorer_settings():
    """Settings of a restorer's recipe for 32 px images that logs every step."""
    return {
        "refiner": {"feature_layer": 1, "widths": [4, 4, 8, 16], "dilations": [1, 2]},
        "samples": 48, "batch_size": 8, "base_lr": 0.3, "warmup_samples": 8, "mask_count": 32, "precision": "fp32",
        "resolution": [[0, 32]], "ratios": {1: 1, 2: 1}, "families": {"boxes": 1, "mat": 1, "thick": 1},
        "log_every": 8, "validate_every": 10_000, "save_every": 10_000, "validation_images": 2, "validation_side": 40,
    }  # fmt: skip


@pytest.fixture
def trainer(packed, tmp_path):
    """make(recipe, name="run", stop_at=None): a run of the recipe on the CPU; process-wide settings are put back."""
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from maerestore.train.pretrain import Pretrainer
    from maerestore.train.restorer import RestorerTrainer
    from maerestore.train.restorer_recipe import RestorerRecipe

    precision = torch.get_float32_matmul_precision()

    def reset():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    def make(recipe, name="run", stop_at=None, **settings):
        reset()
        kind = RestorerTrainer if isinstance(recipe, RestorerRecipe) else Pretrainer
        run = kind(recipe, settings.pop("data", packed), tmp_path / name, cpu=True, **settings)
        train_step = run._train_step

        def step(*args, **kwargs):
            result = train_step(*args, **kwargs)
            run.signals.wanted = run.signals.wanted or run.step == stop_at
            return result

        run._train_step = step
        return run

    yield make
    reset()
    torch.set_float32_matmul_precision(precision)
