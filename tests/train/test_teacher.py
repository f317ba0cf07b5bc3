"""Learning from a frozen network: its vectors, the distance from them, runs that resume or share a batch."""

import dataclasses
import json
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maerestore.hub.errors import ModelError
from maerestore.hub.load import load_autoencoder
from maerestore.train.contrastive import Contrast, pooled
from maerestore.train.contrastive_settings import ContrastiveSettings, TeacherSettings
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.teacher import Teacher, disagreement
from maerestore.train.values import RecipeError
from train.test_contrastive import PLAIN, RECIPES, TEACHER, TINY, seeded
from train.test_pretrain import log_of


class Channels(nn.Module):
    """A network whose one layer is the picture itself."""

    def forward(self, x):
        return {"features": x}


def test_a_vector_is_the_mean_over_the_positions_at_unit_length():
    teacher = Teacher(TeacherSettings(**TEACHER))
    teacher.extractor = Channels()
    teacher.mean.zero_()
    teacher.std.fill_(1.0)
    pictures = torch.zeros(2, 3, 32, 32)
    pictures[0, 0, :16], pictures[0, 1, :, :] = 0.6, 0.4  # means .3 and .4
    pictures[1, 2] = 0.01
    torch.testing.assert_close(teacher(pictures), torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("layer", ["features", "flatten"])  # a map, and a vector
def test_a_vector_depends_on_its_picture_alone_and_not_on_its_size(layer):
    teacher = Teacher(TeacherSettings(**TEACHER, layer=layer))
    pictures = torch.rand(19, 3, 8, 8, generator=seeded())
    together = teacher(pictures)
    assert together.shape == (19, teacher.dim)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(19))
    torch.testing.assert_close(torch.cat([teacher(p[None]) for p in pictures]), together, atol=1e-5, rtol=1e-4)
    assert float((together[1:] - together[:-1]).norm(dim=1).min()) > 1e-3
    larger = F.interpolate(pictures, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(teacher(larger), together, atol=1e-5, rtol=1e-4)


def test_gray_pictures_are_seen_in_three_equal_channels():
    teacher = Teacher(TeacherSettings(**TEACHER))
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
    contrast = Contrast(ContrastiveSettings(**TINY, pooling=pooling, teacher=TEACHER), config, teacher_dim=5)
    latent, wanted = torch.randn(4, 7, config.embed_dim), F.normalize(torch.randn(4, 5), dim=1)
    parts = pooled(latent, pooling)
    assert len(contrast.teacher_heads) == len(parts)
    target = F.normalize(wanted - wanted.mean(0), dim=1)
    cosines = [F.cosine_similarity(contrast.teacher_heads[i](part), target) for i, part in enumerate(parts)]
    torch.testing.assert_close(contrast.teacher_loss(latent, wanted), 1 - torch.stack(cosines).mean())


def test_what_the_teachers_vectors_have_in_common_is_followed_in_training_only(tiny_model):
    config = tiny_model().config
    contrast = Contrast(ContrastiveSettings(**TINY, teacher=TEACHER), config, teacher_dim=2)
    latent, one, other = torch.randn(3, 7, config.embed_dim), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for i, vector in enumerate((one, other, one)):  # at first the plain mean
        contrast.teacher_loss(latent, vector.expand(3, -1))
        assert contrast.centre.tolist() == pytest.approx([[1, 0], [1 / 2, 1 / 2], [2 / 3, 1 / 3]][i])
    contrast.eval()
    contrast.teacher_loss(latent, other.expand(3, -1))
    assert contrast.centre.tolist() == pytest.approx([2 / 3, 1 / 3])
    contrast.train()
    contrast.batches.fill_(1000)  # later the last fifty count
    contrast.teacher_loss(latent, other.expand(3, -1))
    assert contrast.centre.tolist() == pytest.approx([0.98 * 2 / 3, 0.98 / 3 + 0.02])


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_comes_closer_to_the_teacher_and_ships_no_head(trainer, tiny_recipe, tmp_path):
    taught = {**TINY, "weight": 0.0, "hide": 0.25, "views": PLAIN, "teacher": {**TEACHER, "weight": 0.5}}
    run = trainer(tiny_recipe(samples=8 * 30, contrastive=taught, ema_decay=0.5))
    figures = run.run()
    log = [record for record in log_of(tmp_path / "run") if "loss" in record]
    for record in log:
        assert record["loss"] == pytest.approx(record["masked_mse"] + 0.5 * record["teacher"], rel=1e-5)
        assert "contrastive" not in record
    losses = [record["teacher"] for record in log]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert 0 < figures["teacher"] < 0.9 * losses[0]
    saved = load_autoencoder(tmp_path / "run/model").state_dict()
    assert saved.keys() == run.model.state_dict().keys()
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert {name.partition(".")[0] for name in state["contrast"]} == {"teacher_heads", "centre", "batches"}


@pytest.mark.parametrize("gray", [False, True])
def test_the_teacher_sees_the_crops_before_they_are_distorted(trainer, tiny_recipe, tiny_settings, gray):
    model = {**tiny_settings, "depth": 1, "mask_embed": True}
    if gray:  # and in no more colours than the model
        model |= {"in_chans": 1, "mean": [0.5], "std": [0.5]}
    taught = {**TINY, "hide": 0.0, "teacher": TEACHER, "views": {"jitter": 1.0, "gray": 0.0, "blur": 0.0}}
    run = trainer(tiny_recipe(model=model, samples=8, contrastive=taught))
    seen, batches, teacher = [], [], run.teacher.forward
    run.teacher.forward = lambda crops: seen.append(crops) or teacher(crops)
    batch = run._batch
    run._batch = lambda part: batches.append(batch(part)) or batches[-1]
    run.run()
    views = run.model.denormalize(batches[0].views.images)
    assert [len(crops) for crops in seen] == [4, 16]  # two photographs are kept aside for validation
    difference = (seen[1] - views).abs().mean((1, 2, 3))
    assert 0.02 < float(difference.max()) < 0.4


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "named"), [
    (3, "teacher is a mapping"), ({"wieght": 1}, "teacher: wieght"), ({"weight": -1}, "weight must not be neg"),
    ({"side": 0}, "side must be positive"), ({"side": 64.5}, "side must be a whole number"),
    ({"layers": 0}, "layers must be positive"), ({"backbone": 3}, "backbone must be a name"),
    ({"weights": 3}, "weights must be a name"), ({"layer": None}, "layer must be a name"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(tiny_recipe, settings, named):
    with pytest.raises(RecipeError, match=named) as caught:
        tiny_recipe(contrastive={"teacher": settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "named"), [
    ({}, "weights of the backbone 'mobilenet_v2' are missing"), ({"backbone": "nope", "weights": "random"}, "nope"),
    ({**TEACHER, "layer": "nope"}, "layers of squeezenet1_1"), ({"weights": "nowhere.safetensors"}, "no such file"),
    ({**TEACHER, "backbone": "swin_t"}, "features of swin_t gives neither"),
    ({**TEACHER, "backbone": "vit_b_32", "layer": "encoder", "side": 160}, "pictures of 160 px .*Wrong image height"),
    ({**TEACHER, "backbone": "alexnet", "side": 16}, "pictures of 16 px .*too small"),
])  # fmt: skip
def test_a_teacher_that_cannot_be_had_is_refused_in_one_line(trainer, tiny_recipe, settings, named):
    with pytest.raises((ModelError, RecipeError), match=f"contrastive.teacher: .*{named}") as caught:
        trainer(tiny_recipe(contrastive={"teacher": settings}))
    assert "\n" not in str(caught.value)


def test_without_a_network_the_way_out_is_named(trainer, tiny_recipe, monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises((ModelError, RecipeError), match="no network") as caught:
        trainer(tiny_recipe(contrastive={"teacher": {"weights": "torchvision"}}))
    for words in ("--set contrastive.teacher.weights=FILE", "--set contrastive.teacher=null"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("teacher", [None, {"weights": "torchvision", "weight": 0}])
def test_a_teacher_that_is_switched_off_is_not_loaded(trainer, tiny_recipe, teacher):
    assert trainer(tiny_recipe(contrastive={"teacher": teacher})).teacher is None
    with pytest.raises(RecipeError, match="weight must be positive, as there is no teacher"):
        tiny_recipe(contrastive={"weight": 0, "teacher": teacher})


def test_photographs_are_decoded_as_large_as_the_views_want_them(tiny_recipe):
    assert tiny_recipe(contrastive={"side": 64}).decoded_side == 80
    assert tiny_recipe(contrastive={"side": 16}).decoded_side == tiny_recipe().decoded_side == 40
    assert tiny_recipe(contrastive={"side": 64}, short_side=50).decoded_side == 50


def test_the_recipe_loads_and_starts_from_the_default_model():
    recipe = load_recipe(RECIPES / "teach-cpu.yaml")
    assert recipe.contrastive.teacher is not None
    assert PretrainRecipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    base = load_recipe(RECIPES / "default-gpu.yaml").config
    assert recipe.config == dataclasses.replace(base, image_size=recipe.config.image_size)
