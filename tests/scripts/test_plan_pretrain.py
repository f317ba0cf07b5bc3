import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import plan_pretrain
from benchlib.cost import activation_bytes

from maerestore.train.pretrain import Pretrainer
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.values import RecipeError

RECIPES = sorted((Path(__file__).resolve().parents[2] / "scripts" / "recipes").glob("vit-*.yaml"))


@pytest.fixture
def recipe(tmp_path, tiny_settings):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({
        "model": {**tiny_settings, "depth": 1, "mask_embed": True}, "batch_size": 64, "samples": 4000, "mask_count": 16,
        "resolution": [[0, 32], [3000, 64]], "precision": "fp32",
    }))  # fmt: skip
    return path


def plan(recipe, tmp_path, *options):
    out = tmp_path / "plan.json"
    assert plan_pretrain.main([str(recipe), "--cpu", "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def test_states_and_operations_add_up(recipe, tmp_path, capsys):
    figures = plan(recipe, tmp_path, "--gpus", "2", "--tflops", "1e-6", "--set", "optimizer=adamw")
    weights = 4 * figures["parameters"]
    states = figures["states"]
    assert states["weights"] == states["average"] == weights
    assert 0.95 * weights < states["gradients"] < weights  # position tables are not trained
    assert states["optimiser"] == pytest.approx(2 * states["gradients"], rel=0.01)
    small, large = figures["stages"]
    assert (small["side"], small["samples"], large["side"], large["samples"]) == (32, 3000, 64, 1000)
    assert large["image"] > 3 * small["image"] > 0
    assert large["gflop"] > 3 * small["gflop"] > 0
    flop = sum(stage["samples"] * stage["gflop"] * 1e9 for stage in figures["stages"])
    assert figures["gpu_hours"] == pytest.approx(flop / 1e6 / 3600)
    assert "--num_processes 2 -m maerestore pretrain" in capsys.readouterr().out


def test_a_side_after_the_end_of_the_run_costs_nothing(recipe, tmp_path):
    figures = plan(recipe, tmp_path, "--gpus", "1", "--set", "samples=2000")
    assert [(stage["side"], stage["samples"]) for stage in figures["stages"]] == [(32, 2000)]


def test_less_memory_means_more_parts(recipe, tmp_path):
    whole = plan(recipe, tmp_path, "--gpus", "1")
    assert whole["accumulate"] == 1
    largest = whole["stages"][1]
    states = sum(whole["states"].values())
    room = states + largest["fixed"] + 17.5 * largest["image"]
    memory = str(room / 1e9 / plan_pretrain.RESERVE)
    less = plan(recipe, tmp_path, "--gpus", "1", "--memory", memory)
    assert less["images_that_fit"] in (16, 17, 18)  # as holes fall
    assert less["accumulate"] == 4
    assert plan(recipe, tmp_path, "--gpus", "4", "--memory", memory)["accumulate"] == 1


def test_what_does_not_fit_is_said(recipe, tmp_path, capsys):
    assert plan_pretrain.main([str(recipe), "--cpu", "--memory", "0.0001"]) == 2
    assert "not one image of 64 px" in capsys.readouterr().err
    assert plan_pretrain.main([str(recipe), "--cpu", "--gpus", "7"]) == 2
    assert "does not split over 7 GPUs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plan_pretrain.main([str(recipe), "--images", "1"])


def test_a_contrastive_loss_is_refused_in_one_line(recipe, capsys):
    assert plan_pretrain.main([str(recipe), "--cpu", "--set", "contrastive={weight: 1.0}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_loss_that_is_no_number_stops_it(recipe, monkeypatch, capsys):
    monkeypatch.setattr(Pretrainer, "_train_step", lambda *_, **__: ({"loss": torch.tensor(float("nan"))}, None))
    assert plan_pretrain.main([str(recipe), "--cpu"]) == 2
    assert "the loss at 32 px is" in capsys.readouterr().err


def test_what_a_layer_keeps_is_counted_as_by_hand(tmp_path, tiny_settings):
    """A wider MLP keeps its hidden tokens twice, before and after the GELU."""
    kept = []
    for ratio in (2.0, 4.0):
        model = {**tiny_settings, "depth": 1, "decoder_depth": 1, "mlp_ratio": ratio, "mask_embed": True}
        settings = {"model": model, "masking": {"mask_ratio": 0.0}, "batch_size": 4, "precision": "fp32"}
        run = Pretrainer(PretrainRecipe(**settings), "fake:8", tmp_path / str(ratio), cpu=True, workers=0)
        kept.append(activation_bytes(run, 4) - activation_bytes(run, 2))
    config = run.recipe.config
    tokens = config.grid_size**2 + 1
    assert (
        kept[1] - kept[0] == 2 * tokens * 2 * 2 * (config.embed_dim + config.decoder_embed_dim) * 4
    )  # images, of float32


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_published_sizes_read(path):
    recipe = load_recipe(path)
    size = {"vit-base-gpu": (768, 12, 12), "vit-large-gpu": (1024, 24, 16)}[path.stem]
    assert (recipe.config.embed_dim, recipe.config.depth, recipe.config.num_heads) == size


def test_one_image_too_many_for_a_split():
    stage = plan_pretrain.Stage(64, 1, 1.0, 0, 10**9, [0.0], 1.0)
    recipe = PretrainRecipe(batch_size=6)
    assert plan_pretrain.split(recipe, {"states": {}}, [stage], 1, 5.0)["accumulate"] == 2  # 4.25 fit, 3 divide 6
    with pytest.raises(RecipeError, match="not one image"):
        plan_pretrain.split(recipe, {"states": {"weights": 10**10}}, [stage], 1, 5.0)
