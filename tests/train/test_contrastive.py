"""The contrastive loss beside the reconstruction: views, losses, runs that resume or share a batch."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from maerestore.hub.load import load_autoencoder
from maerestore.train.contrastive import Contrast, ContrastiveObjective, ViewRetrieval, info_nce
from maerestore.train.contrastive_settings import ContrastiveSettings
from maerestore.train.crops import random_crops
from maerestore.train.losses import Criterion
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.values import RecipeError
from maerestore.train.views import ViewSettings, blur, colour_matrix, distort, two_views
from train.test_pretrain import assert_same_state, log_of
from train.test_processes import SETTINGS, launch, start_of

RECIPES = Path(__file__).resolve().parents[2] / "scripts/recipes"
TINY = {"width": 16, "dim": 8, "reconstruct": 2, "queue": 24}
TEACHER = {"backbone": "squeezenet1_1", "weights": "random", "side": 32}
PLAIN = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def photographs():
    """Canvases of six photographs of noise, 40 x 52, and their sizes."""
    canvas = torch.randint(0, 256, (6, 40, 52, 3), generator=seeded(), dtype=torch.uint8)
    return canvas, torch.tensor([[40, 52, 0]], dtype=torch.int32).expand(6, -1)


# --- views ------------------------------------------------------------------------------------------------------


def test_views_depend_on_the_generator_and_a_part_is_cut_from_the_whole(photographs):
    canvas, sizes = photographs
    whole = two_views(canvas, sizes, 6, slice(0, 6), 16, ViewSettings(), seeded())[0]
    assert whole.shape == (2, 6, 3, 16, 16)
    assert 0 <= float(whole.min()) < float(whole.max()) <= 1
    part = two_views(canvas[2:5], sizes[2:5], 6, slice(2, 5), 16, ViewSettings(), seeded())[0]
    torch.testing.assert_close(part, whole[:, 2:5])
    other = two_views(canvas, sizes, 6, slice(0, 6), 16, ViewSettings(), seeded(1))[0]
    assert all(not torch.equal(a, b) for a, b in zip(whole.flatten(0, 1), other.flatten(0, 1), strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_views_without_distortions_are_random_crops(photographs):
    canvas, sizes = photographs
    views = two_views(canvas, sizes, 6, slice(0, 6), 16, ViewSettings(**PLAIN), seeded())[0]
    crops = random_crops(canvas, sizes, 6, slice(0, 6), 16, (0.2, 1.0), seeded())
    torch.testing.assert_close(views[0], crops, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_picture_is_distorted_by_its_own_numbers(channels):
    images = torch.rand(1, channels, 16, 16, generator=seeded()).expand(8, -1, -1, -1)
    draws = torch.rand(9, 8, generator=seeded(1))
    together = distort(images, draws, ViewSettings())
    for i in range(8):
        torch.testing.assert_close(together[i : i + 1], distort(images[:1], draws[:, i : i + 1], ViewSettings()))
    assert len({round(float(each.sum()), 3) for each in together}) == 8


def test_gray_views_have_equal_channels_and_keep_their_brightness():
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    gray = distort(images, torch.rand(9, 4, generator=seeded()), ViewSettings(**{**PLAIN, "gray": 1.0}))
    luma = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(gray, luma.expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_turning_the_hue_keeps_gray_and_brightness_and_a_whole_turn_keeps_all():
    matrices = colour_matrix(torch.ones(3), torch.tensor([0.0, 1.0, 2 * torch.pi]))
    torch.testing.assert_close(matrices.sum(2), torch.ones(3, 3), atol=1e-5, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(luma @ matrices, luma.expand(3, -1), atol=1e-5, rtol=0)
    for whole in (matrices[0], matrices[2]):
        torch.testing.assert_close(whole, torch.eye(3), atol=1e-5, rtol=0)
    assert float((matrices[1] - torch.eye(3)).abs().max()) > 0.3


def test_blur_is_a_gaussian_of_each_pictures_own_deviation():
    images = torch.rand(3, 2, 12, 12, generator=seeded())
    sigma = torch.tensor([0.0, 0.8, 1.5])
    blurred = blur(images, sigma, reach=1.5)
    assert torch.equal(blurred[0], images[0])
    for i in (1, 2):
        line = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma[i]) ** 2)
        kernel = (line[:, None] * line / line.sum() ** 2).expand(2, 1, -1, -1)
        expected = F.conv2d(F.pad(images[i : i + 1], (3, 3, 3, 3), mode="replicate"), kernel, groups=2)
        torch.testing.assert_close(blurred[i : i + 1], expected, atol=1e-5, rtol=1e-5)


# --- losses -----------------------------------------------------------------------------------------------------


def test_info_nce_is_the_cross_entropy_of_its_definition():
    z = F.normalize(torch.randn(8, 5, generator=seeded()), dim=1)
    expected = []
    for i in range(8):
        scores = torch.exp(z @ z[i] / 0.3)
        others = sum(scores[k] for k in range(8) if k != i)
        expected.append(-torch.log(scores[(i + 4) % 8] / others))
    assert float(info_nce(z, 0.3)) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


def test_nnclr_finds_the_neighbour_of_the_other_view(tiny_model):
    config = tiny_model().config
    contrast = Contrast(ContrastiveSettings(loss="nnclr", temperature=0.3, **TINY), config)
    latent, queue = torch.randn(6, 5, 32, generator=seeded()), contrast.queue[0].clone()
    loss = contrast(latent)
    z = contrast.heads[0](latent[:, 0])
    p = F.normalize(contrast.predictors[0](z), dim=1)
    z = F.normalize(z, dim=1)
    near = queue[(z @ queue.T).argmax(1)]
    one = F.cross_entropy(near[:3] @ p[3:].T / 0.3, torch.arange(3))
    two = F.cross_entropy(near[3:] @ p[:3].T / 0.3, torch.arange(3))
    torch.testing.assert_close(loss, (one + two) / 2)
    torch.testing.assert_close(contrast.queue[0, :3], z[:3])
    assert torch.equal(contrast.queue[0, 3:], queue[3:])


def test_the_queue_goes_round_and_only_in_training(tiny_model):
    contrast = Contrast(ContrastiveSettings(loss="nnclr", **{**TINY, "queue": 5}), tiny_model().config)
    for seed in range(2):
        contrast(torch.randn(6, 5, 32, generator=seeded(seed)))
    last = torch.randn(6, 5, 32, generator=seeded(1))
    expected = F.normalize(contrast.heads[0](last[:3, 0]), dim=1)
    torch.testing.assert_close(contrast.queue[0, [3, 4, 0]], expected)
    assert int(contrast.place) == 1
    before = contrast.queue.clone()
    contrast.eval()(last)
    assert torch.equal(contrast.queue, before)


@pytest.mark.parametrize(("pooling", "used"), [("cls", [0]), ("mean", [1, 2]), ("cls+mean", [0, 1, 2])])
def test_pooling_says_which_tokens_are_compared(tiny_model, pooling, used):
    contrast = Contrast(ContrastiveSettings(layers=0, pooling=pooling), tiny_model().config)
    latent = torch.randn(4, 3, 32, generator=seeded(), requires_grad=True)
    contrast(latent).backward()
    assert [i for i in range(3) if float(latent.grad[:, i].abs().sum()) > 0] == used


def objective_inputs(noise_images, head_only=False):
    mask = torch.ones(2, 16)
    mask[:, :6] = 0
    return {"images": noise_images(2), "mask": mask, "num_visible": 6, "pixel_mask": torch.zeros(2, 1, 32, 32),
            "pixel_weight": None, "hidden_noise": None, "views": noise_images(8, seed=1),
            "view_noise": torch.rand(8, 16, generator=seeded()), "head_only": head_only}  # fmt: skip


def gradients(module, inputs):
    module.zero_grad(set_to_none=True)
    loss, terms, _ = module(**inputs)
    loss.backward()
    return terms, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["infonce", "nnclr"])
def test_the_objective_adds_the_weighted_loss_and_can_spare_the_encoder(tiny_model, noise_images, loss):
    model = tiny_model(mask_embed=True).train()
    contrast = Contrast(ContrastiveSettings(weight=0.5, loss=loss, **TINY), model.config)
    objective = ContrastiveObjective(model, Criterion(None, model.config), contrast)
    inputs = objective_inputs(noise_images)
    total, terms, _ = objective(**inputs)
    assert float(total.detach()) == pytest.approx(float((terms["masked_mse"] + 0.5 * terms["contrastive"]).detach()))
    _, both = gradients(objective, inputs)
    _, head_only = gradients(objective, {**inputs, "head_only": True})
    model.zero_grad(set_to_none=True)
    arguments = {"mask": inputs["mask"], "num_visible": 6, "pixel_mask": inputs["pixel_mask"]}
    model.loss(inputs["images"], model(inputs["images"], **arguments).pred, inputs["mask"]).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(head_only[f"model.{name}"], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert not torch.allclose(both["model.cls_token"], head_only["model.cls_token"], rtol=0.1)
    assert all(float(value.abs().max()) > 0 for name, value in head_only.items() if name.startswith("contrast."))


def test_retrieval_counts_views_that_find_each_other(tiny_model, noise_images):
    model = tiny_model(mask_embed=True)
    contrast = Contrast(ContrastiveSettings(layers=0), model.config)
    photos = noise_images(5).sigmoid()
    same = ViewRetrieval(torch.stack([photos, photos]), batch_size=3).measure(model, contrast)
    shifted = ViewRetrieval(torch.stack([photos, photos.roll(1, 0)])).measure(model, contrast)
    assert (same["retrieval_cls"], same["retrieval_mean"]) == (1.0, 1.0)
    assert (shifted["retrieval_cls"], shifted["retrieval_mean"]) == (0.0, 0.0)
    assert same["contrastive"] < shifted["contrastive"]


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_learns_to_match_views_and_ships_no_head(trainer, tiny_recipe, tmp_path):
    # One view is the other, up to the crop: with so little to learn, a few steps show.
    views = {**PLAIN, "scale": [0.8, 1.0]}
    recipe = tiny_recipe(samples=8 * 30, contrastive={**TINY, "hide": 0.25, "views": views}, ema_decay=0.5)
    run = trainer(recipe)
    figures = run.run()
    log = [record for record in log_of(tmp_path / "run") if "loss" in record]
    for record in log:
        assert record["loss"] == pytest.approx(record["masked_mse"] + record["contrastive"], rel=1e-5)
    losses = [record["contrastive"] for record in log]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert {"retrieval_cls", "retrieval_mean", "contrastive", "psnr_thick", "masked_mse"} <= set(figures)
    saved = load_autoencoder(tmp_path / "run/model").state_dict()
    assert saved.keys() == run.model.state_dict().keys()
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert state["contrast"].keys() == run.contrast.state_dict().keys()


@pytest.mark.parametrize("settings", [
    {"loss": "infonce", "pooling": "cls+mean", "head_samples": 16}, {"loss": "nnclr", "side": 24},
    {"pooling": "cls+mean", "teacher": TEACHER}, {"weight": 0.0, "loss": "nnclr", "teacher": TEACHER},
])  # fmt: skip
def test_a_stopped_and_resumed_run_ends_like_one_that_never_stopped(trainer, tiny_recipe, settings):
    masking = {"policies": {"random": 1, "free_form": 1, "attention": 1}}
    recipe = tiny_recipe(optimizer="muon", samples=48, masking=masking, contrastive={**TINY, **settings})
    whole = trainer(recipe, "whole")
    figures = whole.run()
    trainer(recipe, "parts", stop_at=3).run()
    resumed = trainer(recipe, "parts")
    assert (resumed.step, resumed.samples) == (3, 24)
    assert resumed.run() == pytest.approx(figures, abs=1e-3)
    assert_same_state(resumed, whole)
    for name, value in whole.contrast.state_dict().items():
        torch.testing.assert_close(value, resumed.contrast.state_dict()[name], msg=name)


@pytest.mark.parametrize("taught", [False, True])
def test_while_the_head_learns_alone_the_encoder_hears_of_the_reconstruction_only(trainer, tiny_recipe, taught):
    weights = [{"weight": 0.0, "teacher": {**TEACHER, "weight": w}} if taught else {"weight": w} for w in (1e-4, 1e-3)]
    recipes = [tiny_recipe(samples=8, contrastive={**TINY, "head_samples": 8, **each}) for each in weights]
    one, other = (trainer(recipe, str(i)) for i, recipe in enumerate(recipes))
    one.run(), other.run()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], atol=1e-6, rtol=1e-4, msg=name)


def test_groups_set_the_rate_of_the_head_and_freeze_lower_blocks(trainer, tiny_recipe, tiny_settings):
    model = {**tiny_settings, "mask_embed": True}
    groups = [{"match": r"^contrast\.", "lr": 3.0}, {"match": r"^(cls_token|patch_embed|blocks\.0\.)", "lr": 0}]
    run = trainer(tiny_recipe(samples=16, model=model, groups=groups, contrastive=TINY, layer_decay=0.5))
    before = start_of(run)
    rates = {id(p): group["lr_scale"] for o in run.optimizers for group in o.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in run.contrast.parameters()} == {3.0}
    assert rates[id(run.model.norm.weight)] == 1.0
    run.run()
    for name, value in run.model.state_dict().items():
        moves = not name.startswith(("cls_token", "patch_embed", "blocks.0", "pos_embed", "decoder_pos_embed"))
        assert torch.equal(value, before[name]) != moves, name


@pytest.mark.slow
@pytest.mark.parametrize("contrastive", [{"loss": "infonce", "teacher": TEACHER}, {"loss": "nnclr"}])
def test_two_processes_compare_the_views_of_both(trainer, packed, tmp_path, tiny_settings, contrastive):
    """After one step AdamW's first moments are a share of the gradients."""
    settings = {
        **SETTINGS, "optimizer": "adamw", "samples": 8, "model": {**tiny_settings, "depth": 1, "mask_embed": True},
        "contrastive": {**TINY, **contrastive, "hide": 0.25}, "validation_images": 0,
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
    if "teacher" in contrastive:
        torch.testing.assert_close(both["contrast"]["centre"], alone.contrast.centre)
    if contrastive.get("loss") == "nnclr":
        torch.testing.assert_close(both["contrast"]["queue"], alone.contrast.queue)
        assert int(both["contrast"]["place"]) == 8


@pytest.mark.parametrize("loss", ["infonce", "nnclr"])
def test_a_validation_asks_nothing_of_other_processes(tiny_model, noise_images, monkeypatch, loss):
    """One of several processes validates: a collective would wait for the others for ever."""
    model = tiny_model(mask_embed=True)
    contrast = Contrast(ContrastiveSettings(loss=loss, **TINY), model.config)
    asked = []
    monkeypatch.setattr("maerestore.train.contrastive._several", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.nn.functional.all_gather", lambda x: asked.append(x) or [x])
    photos = noise_images(3).sigmoid()
    assert "contrastive" in ViewRetrieval(torch.stack([photos, photos])).measure(model, contrast)
    assert asked == []
    contrast(torch.randn(6, 5, 32))
    assert len(asked) == 2 + (loss == "nnclr")  # where it trains, it asks them


@pytest.mark.slow
def test_two_processes_go_on_after_a_validation(packed, tmp_path, tiny_settings):
    settings = {
        **SETTINGS, "samples": 16, "model": {**tiny_settings, "depth": 1, "mask_embed": True},
        "contrastive": {**TINY, "loss": "nnclr", "hide": 0.25}, "validate_every": 8,
    }  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    assert launch(recipe, packed, tmp_path / "both", 2)["samples"] == 16
    measured = [record for record in log_of(tmp_path / "both") if "retrieval_cls" in record]
    assert len(measured) == 2


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "named"), [
    (3, "mapping"), ({"wieght": 1}, "wieght"), ({"weight": 0}, "weight"), ({"loss": "dino"}, "loss"),
    ({"temperature": 0}, "temperature"), ({"pooling": "max"}, "pooling"), ({"layers": -1}, "layers"),
    ({"dim": 0}, "dim"), ({"hide": 1.0}, "hide"), ({"side": 20}, "side"), ({"reconstruct": 0}, "reconstruct"),
    ({"head_samples": -1}, "head_samples"), ({"queue": 0}, "queue"), ({"views": 3}, "views"),
    ({"views": {"hue": 0.7}}, "hue"), ({"views": {"scale": [0.5, 2]}}, "scale"), ({"views": {"flip": 1}}, "flip"),
    ({"views": {"solarize": 1}}, "solarize"), ({"weight": "much"}, "weight"),
    ({"weight": -1, "teacher": TEACHER}, r"contrastive\.weight must be positive, or 0"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(tiny_recipe, settings, named):
    with pytest.raises(RecipeError, match=named) as caught:
        tiny_recipe(contrastive=settings)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_run_is_refused(trainer, tiny_recipe, tiny_settings):
    with pytest.raises(RecipeError, match="reconstruct 3"):
        trainer(tiny_recipe(contrastive={"reconstruct": 3}))
    with pytest.raises(RecipeError, match="hide"):
        tiny_recipe(model={**tiny_settings, "hidden": "noise"}, contrastive={})
    with pytest.raises(RecipeError, match="accumulate 8 parts has one in each"):
        tiny_recipe(batch_size=8, accumulate=8, contrastive={})
    tiny_recipe(batch_size=8, accumulate=4, contrastive={})
    tiny_recipe(batch_size=8, accumulate=8, contrastive={"weight": 0, "teacher": TEACHER})  # it compares none
    trainer(tiny_recipe(samples=8)).run()
    with pytest.raises(RecipeError, match="contrastive"):
        trainer(tiny_recipe(samples=16, contrastive=TINY))


@pytest.mark.parametrize("name", ["contrast-cpu", "contrast-gpu"])
def test_the_recipes_load_and_survive_their_dictionary(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.contrastive is not None
    assert PretrainRecipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    base = load_recipe(RECIPES / {"contrast-cpu": "small-cpu.yaml", "contrast-gpu": "default-gpu.yaml"}[name])
    assert recipe.config == base.config
