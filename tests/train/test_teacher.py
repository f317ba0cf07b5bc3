"""Learning from a frozen network: its vectors, the distance from them, runs that resume or share a batch."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from maerestore.hub.errors import ModelError
from maerestore.hub.load import load_autoencoder
from maerestore.train.contrastive import Contrast, pooled
from maerestore.train.contrastive_settings import ContrastiveSettings, TeacherSettings
from maerestore.train.recipe import PretrainRecipe, RecipeError, load_recipe
from maerestore.train.teacher import Teacher, disagreement
from train.test_contrastive import PLAIN, RECIPES, TINY, seeded
from train.test_pretrain import assert_same_state, log_of
from train.test_processes import SETTINGS, launch

RANDOM = {"backbone": "squeezenet1_1", "weights": "random", "side": 32}


class Channels(nn.Module):
    """A network whose one layer is the picture itself."""

    def forward(self, x):
        return {"features": x}


def test_a_vector_is_the_mean_over_the_positions_at_unit_length():
    teacher = Teacher(TeacherSettings(**RANDOM))
    teacher.extractor = Channels()
    teacher.mean.zero_()
    teacher.std.fill_(1.0)
    pictures = torch.zeros(2, 3, 32, 32)
    pictures[0, 0, :16], pictures[0, 1, :, :] = 0.6, 0.4  # means .3 and .4
    pictures[1, 2] = 0.01
    torch.testing.assert_close(teacher(pictures), torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("layer", ["features", "flatten"])  # a map, and a vector
def test_a_vector_depends_on_its_picture_alone_and_not_on_its_size(layer):
    teacher = Teacher(TeacherSettings(**RANDOM, layer=layer))
    pictures = torch.rand(19, 3, 8, 8, generator=seeded())
    together = teacher(pictures)
    assert together.shape == (19, teacher.dim)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(19))
    torch.testing.assert_close(torch.cat([teacher(p[None]) for p in pictures]), together, atol=1e-5, rtol=1e-4)
    assert float((together[1:] - together[:-1]).norm(dim=1).min()) > 1e-3
    larger = F.interpolate(pictures, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(teacher(larger), together, atol=1e-5, rtol=1e-4)


def test_gray_pictures_are_seen_in_three_equal_channels():
    teacher = Teacher(TeacherSettings(**RANDOM))
    gray = torch.rand(2, 1, 32, 32, generator=seeded())
    torch.testing.assert_close(teacher(gray), teacher(gray.expand(-1, 3, -1, -1)))


def test_the_disagreement_is_one_less_the_cosine():
    found = torch.tensor([[3.0, 4.0], [-2.0, 0.0]], requires_grad=True)
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value = disagreement(found, wanted)
    assert value.item() == pytest.approx((0.4 + 2.0) / 2)
    value.backward()
    assert float(found.grad[0].abs().max()) > 0


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_every_pooled_feature_has_a_head_of_its_own(tiny_model, pooling):
    config = tiny_model().config
    contrast = Contrast(ContrastiveSettings(**TINY, pooling=pooling, teacher=RANDOM), config, taught=5)
    latent, wanted = torch.randn(4, 7, config.embed_dim), F.normalize(torch.randn(4, 5), dim=1)
    parts = pooled(latent, pooling)
    assert len(contrast.copies) == len(parts)
    target = F.normalize(wanted - wanted.mean(0), dim=1)
    cosines = [F.cosine_similarity(contrast.copies[i](part), target) for i, part in enumerate(parts)]
    torch.testing.assert_close(contrast.copied(latent, wanted), 1 - torch.stack(cosines).mean())


def test_what_the_teachers_vectors_have_in_common_is_followed_in_training_only(tiny_model):
    config = tiny_model().config
    contrast = Contrast(ContrastiveSettings(**TINY, teacher=RANDOM), config, taught=2)
    latent, one, other = torch.randn(3, 7, config.embed_dim), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for i, vector in enumerate((one, other, one)):  # at first the plain mean
        contrast.copied(latent, vector.expand(3, -1))
        assert contrast.centre.tolist() == pytest.approx([[1, 0], [1 / 2, 1 / 2], [2 / 3, 1 / 3]][i])
    contrast.eval()
    contrast.copied(latent, other.expand(3, -1))
    assert contrast.centre.tolist() == pytest.approx([2 / 3, 1 / 3])
    contrast.train()
    contrast.batches.fill_(1000)  # later the last fifty count
    contrast.copied(latent, other.expand(3, -1))
    assert contrast.centre.tolist() == pytest.approx([0.98 * 2 / 3, 0.98 / 3 + 0.02])


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_comes_closer_to_the_teacher_and_ships_no_head(trainer, tiny_recipe, tmp_path):
    taught = {**TINY, "weight": 0.0, "hide": 0.25, "views": PLAIN, "teacher": {**RANDOM, "weight": 0.5}}
    run = trainer(tiny_recipe(samples=8 * 30, contrastive=taught, ema_decay=0.5))
    started = {name: value.clone() for name, value in run.contrast.state_dict().items()}
    figures = run.run()
    log = [record for record in log_of(tmp_path / "run") if "loss" in record]
    for record in log:
        assert record["loss"] == pytest.approx(record["masked_mse"] + 0.5 * record["teacher"], rel=1e-5)
    losses = [record["teacher"] for record in log]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert 0 < figures["teacher"] < 0.9 * losses[0]
    saved = load_autoencoder(tmp_path / "run/model").state_dict()
    assert saved.keys() == run.model.state_dict().keys()
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert state["contrast"].keys() == started.keys()  # heads, and nothing of the teacher
    changed = {name for name, value in state["contrast"].items() if not torch.equal(value, started[name])}
    assert changed >= {name for name in started if name.startswith("copies.")}


def test_the_teacher_sees_the_crops_before_they_are_distorted(trainer, tiny_recipe, monkeypatch):
    from maerestore.train import pretrain

    taught = {**TINY, "hide": 0.0, "teacher": RANDOM, "views": {"jitter": 1.0, "gray": 1.0, "blur": 0.0}}
    run = trainer(tiny_recipe(contrastive=taught))
    made, original = [], pretrain.two_views
    monkeypatch.setattr(pretrain, "two_views", lambda *a: made.append(original(*a)) or made[-1])
    run._batch(slice(0, 8))
    views, crops = made[0]
    assert not torch.allclose(views, crops, atol=0.05)
    torch.testing.assert_close(run.views.wanted, run.teacher(crops.flatten(0, 1)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(run.model.denormalize(run.views.images), views.flatten(0, 1), atol=1e-5, rtol=0)


def test_while_the_head_learns_alone_the_encoder_does_not_hear_the_teacher(trainer, tiny_recipe):
    taught = [{**TINY, "weight": 0.0, "head_samples": 8, "teacher": {**RANDOM, "weight": w}} for w in (1e-4, 1e-3)]
    one, other = (trainer(tiny_recipe(samples=8, contrastive=each), str(i)) for i, each in enumerate(taught))
    one.run(), other.run()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_stopped_and_resumed_run_ends_like_one_that_never_stopped(trainer, tiny_recipe):
    recipe = tiny_recipe(optimizer="muon", samples=48, contrastive={**TINY, "pooling": "cls+mean", "teacher": RANDOM})
    whole = trainer(recipe, "whole")
    figures = whole.run()
    trainer(recipe, "parts", stop_at=3).run()
    resumed = trainer(recipe, "parts")
    assert resumed.run() == pytest.approx(figures, abs=1e-3)
    assert_same_state(resumed, whole)
    for name, value in whole.contrast.state_dict().items():
        torch.testing.assert_close(value, resumed.contrast.state_dict()[name], msg=name)


def test_two_processes_learn_what_one_would(trainer, packed, tmp_path, tiny_settings):
    """After one step AdamW's first moments are a share of the gradients."""
    settings = {
        **SETTINGS, "optimizer": "adamw", "samples": 8, "model": {**tiny_settings, "depth": 1, "mask_embed": True},
        "contrastive": {**TINY, "hide": 0.25, "teacher": RANDOM}, "validation_images": 0,
    }  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    both = launch(recipe, packed, tmp_path / "both", 2)
    alone = trainer(load_recipe(recipe), "alone", workers=0)
    alone.run()
    mine, theirs = (state["state"] for state in (alone.optimizers[0].state_dict(), both["optimizers"][0]))
    assert mine.keys() == theirs.keys()
    for key, moments in mine.items():
        size = float(moments["exp_avg"].abs().max())
        assert size > 0
        torch.testing.assert_close(moments["exp_avg"], theirs[key]["exp_avg"], atol=1e-4 * size, rtol=1e-4)


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "named"), [
    (3, "mapping"), ({"wieght": 1}, "wieght"), ({"weight": 0}, "weight"), ({"weight": -1}, "weight"),
    ({"side": 16}, "side"), ({"side": 64.5}, "side"), ({"layers": 0}, "layers"), ({"backbone": 3}, "backbone"),
    ({"weights": 3}, "weights"), ({"layer": None}, "layer"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(tiny_recipe, settings, named):
    with pytest.raises(RecipeError, match=named) as caught:
        tiny_recipe(contrastive={"teacher": settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "named"), [
    ({}, "weights of the backbone 'mobilenet_v2' are missing"), ({"backbone": "nope", "weights": "random"}, "nope"),
    ({**RANDOM, "layer": "nope"}, "layers of squeezenet1_1"), ({"weights": "nowhere.safetensors"}, "no such file"),
])  # fmt: skip
def test_a_teacher_that_cannot_be_had_is_refused_in_one_line(trainer, tiny_recipe, settings, named):
    with pytest.raises((ModelError, RecipeError), match=named) as caught:
        trainer(tiny_recipe(contrastive={"teacher": settings}))
    assert "\n" not in str(caught.value)


def test_the_recipe_loads_and_starts_from_the_default_model():
    recipe = load_recipe(RECIPES / "teach-cpu.yaml")
    assert recipe.contrastive.teacher is not None
    assert PretrainRecipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    base = load_recipe(RECIPES / "default-gpu.yaml").config
    assert recipe.config == dataclasses.replace(base, image_size=recipe.config.image_size)
