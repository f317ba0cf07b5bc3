"""Runs that train a refiner, alone or with its autoencoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from maerestore.cli.main import main
from maerestore.errors import MaerestoreError
from maerestore.hub import save as saving
from maerestore.hub.config import read_notes
from maerestore.hub.load import load_autoencoder
from maerestore.hub.refiner import load_refiner, read_refiner_notes
from maerestore.model.smooth import smooth_fill
from maerestore.train.recipe_file import load_recipe
from maerestore.train.restorer_recipe import RestorerRecipe
from maerestore.train.values import RecipeError
from train.test_pretrain import assert_same_state, log_of
from train.test_processes import assert_same_update, launch, start_of, state_of

ADVERSARY = {"start": 16, "width": 4, "layers": 1, "weight": 0.5, "feature_matching": 2.0}
JOINT = [{"match": "^autoencoder", "lr": 0.1}]
RECIPES = Path(__file__).resolve().parents[2] / "scripts/recipes"


@pytest.fixture
def restorer(trainer, restorer_settings, autoencoder_folder):
    """make(name="run", stop_at=None, init=..., **settings): a run of the tiny recipe with these settings."""

    def make(name="run", stop_at=None, init=autoencoder_folder, **settings):
        return trainer(RestorerRecipe(**{**restorer_settings, **settings}), name, stop_at, init=init)

    return make


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_loss_goes_down(restorer, tmp_path):
    restorer(samples=8 * 60).run()
    losses = [record["loss"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])


def test_a_frozen_autoencoder_stays_and_comes_with_the_refiner(restorer, tmp_path, autoencoder_folder):
    run = restorer(stop_at=3)
    before = weights_of(run.model)
    run.run()
    moved = {
        name.split(".")[0] for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"refiner"}
    assert all(p.grad is None and not p.requires_grad for p in run.model.autoencoder.parameters())
    folder = tmp_path / "run/model"
    assert read_notes(folder) == read_notes(autoencoder_folder) == {"training": {"samples": 5}, "fill": {"feather": 2}}
    assert read_refiner_notes(folder) == {"samples": 24, "data": run.corpus.fingerprint}
    for saved, average in (
        (load_autoencoder(folder), run.average.autoencoder),
        (load_refiner(folder), run.average.refiner),
    ):
        for name, value in average.state_dict().items():
            torch.testing.assert_close(saved.state_dict()[name], value, atol=1e-4, rtol=1e-3)


def test_joint_training_changes_both(restorer):
    run = restorer(stop_at=3, groups=JOINT)
    before = weights_of(run.model)
    run.run()
    after = run.model.state_dict()
    for name in ("refiner.stem.weight", "autoencoder.patch_embed.proj.weight", "autoencoder.decoder_pred.weight"):
        assert not torch.equal(before[name], after[name]), name
    assert torch.equal(before["autoencoder.pos_embed"], after["autoencoder.pos_embed"])


@pytest.mark.parametrize("settings", [{"adversarial": ADVERSARY}, {"groups": JOINT, "resolution": [[0, 24], [24, 32]]}])
def test_a_stopped_and_resumed_run_ends_like_one_that_never_stopped(restorer, settings):
    whole = restorer("whole", **settings)
    figures = whole.run()
    first = restorer("parts", 3, **settings)
    first.run()
    second = restorer("parts", **settings)
    assert (second.step, second.samples) == (3, 24)
    assert_same_state(second, first)
    assert second.run() == pytest.approx(figures, abs=1e-3)
    assert_same_state(second, whole)
    if whole.adversary is not None:
        for name, value in whole.adversary.discriminator.state_dict().items():
            torch.testing.assert_close(value, second.adversary.discriminator.state_dict()[name])


def test_an_adversary_joins_at_its_sample(restorer, tmp_path):
    restorer(adversarial=ADVERSARY).run()
    log = [record for record in log_of(tmp_path / "run") if "loss" in record]
    assert ["adversarial" in record for record in log] == [False, False, True, True, True, True]
    for record in log[2:]:
        parts = record["mse"] + record["l1"] + 0.5 * record["adversarial"] + 2 * record["feature_matching"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)
        assert record["discriminator_r1"] > 0


@pytest.mark.parametrize("settings", [{"adversarial": ADVERSARY}, {"groups": JOINT}])
def test_an_accumulated_batch_makes_the_same_update(restorer, settings):
    whole, parts = (restorer(f"in-{n}", samples=24, accumulate=n, **settings) for n in (1, 4))
    start = start_of(whole)
    whole.run()
    parts.run()
    assert_same_update(state_of(parts), state_of(whole), start, 1e-3)


@pytest.mark.slow
def test_two_processes_with_half_the_batch_make_the_same_update(
    restorer, restorer_settings, packed, tmp_path, autoencoder_folder
):
    settings = {"samples": 24, "adversarial": {**ADVERSARY, "start": 8}, "groups": JOINT}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**restorer_settings, **settings}))
    both = launch(recipe, packed, tmp_path / "both", 2, "train-restorer", "--model", autoencoder_folder)
    alone = restorer("alone", **settings)
    start = start_of(alone)
    alone.run()
    assert (both["step"], both["samples"]) == (3, 24)
    assert_same_update(both, state_of(alone), start, 1e-3)


def test_a_part_of_a_batch_is_cut_from_the_whole_and_unknown_pixels_stay_unknown(restorer):
    run = restorer()
    whole = run._batch(slice(0, 8))
    part = run._batch(slice(3, 8))
    assert part.seen_side == whole.seen_side
    for one, other in zip(part[:4], whole[:4], strict=True):
        assert torch.equal(one, other[3:8])
    hole = whole.holes > 0
    torch.testing.assert_close(smooth_fill(torch.where(hole, 99.0, whole.photos), whole.holes), whole.smooth)
    assert bool((whole.weights[hole] == 1).all())
    assert set(whole.weights[~hole].unique().tolist()) == {0.0, run.recipe.rim_weight}


def test_the_ratio_decides_what_the_autoencoder_sees(restorer):
    run = restorer()
    sides = []
    for run.step in range(30):
        sides.append(run._batch(slice(0, 2)).seen_side)
    assert set(sides) == {16, 32}
    assert 5 < sides.count(16) < 25


def test_bf16_trains_weights_that_stay_in_single_precision(restorer, tmp_path):
    run = restorer(samples=24, precision="bf16", adversarial=ADVERSARY, groups=JOINT)
    run.run()
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert all(np.isfinite(record["loss"]) for record in log_of(tmp_path / "run") if "loss" in record)


def test_compiled_training_makes_the_same_update(restorer, monkeypatch):
    """Without the last step of compilation, the code generator, which has a test of its own in pretraining."""
    compiler, compile_function, compiled_modules, compiled_functions = torch.nn.Module.compile, torch.compile, [], []

    def compile_to_graphs(module, **options):
        compiled_modules.append(module)
        compiler(module, backend="aot_eager", fullgraph=True, **options)

    def compile_function_to_graphs(function, **options):
        if "backend" not in options:  # or it is a module's, from above
            compiled_functions.append(function.__name__)
        return compile_function(function, **{"backend": "aot_eager", "fullgraph": True, **options})

    torch._dynamo.reset()
    settings = {"samples": 16, "ratios": {1: 1}, "adversarial": {**ADVERSARY, "start": 0, "r1": 0.1, "r1_every": 2}}
    plain = restorer("plain", **settings)
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "compile", compile_to_graphs)
        patched.setattr(torch, "compile", compile_function_to_graphs)
        compiled = restorer("compiled", **settings, compile=True)
    config = compiled.model.autoencoder.config
    assert len(compiled_modules) == config.depth + config.decoder_depth + 1  # and the refiner
    assert compiled_functions == ["smooth_fill", "forward", "layers"]  # the last two of the discriminator
    start = start_of(plain)
    for run in (plain, compiled):
        run.run()
    assert_same_update(state_of(compiled), state_of(plain), start, 1e-3)
    torch._dynamo.reset()


@pytest.mark.parametrize("native", [True, False])
def test_native_crops_are_not_resampled(restorer, native):
    run = restorer(native=native)
    photos = 255 * run.model.autoencoder.denormalize(run._batch(slice(0, 8)).photos)
    assert ((photos - photos.round()).abs().max() < 0.01) == native


def test_a_refiner_of_the_same_settings_is_trained_on(restorer, tmp_path):
    first = restorer("first", samples=16)
    first.run()
    again = restorer("second", init=tmp_path / "first")  # a run folder is a model
    for name, value in first.average.refiner.state_dict().items():
        torch.testing.assert_close(again.model.refiner.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    other = {"feature_layer": 1, "widths": [4, 8, 8, 16], "dilations": [1, 2]}
    anew = restorer("third", init=tmp_path / "first", refiner=other)
    assert not anew.model.refiner.head.weight.any()


def test_a_run_may_train_on_the_model_that_it_saves_over(restorer, tmp_path):
    restorer(samples=8).run()
    (tmp_path / "run/checkpoint.pt").unlink()
    restorer(samples=8, init=tmp_path / "run/model").run()
    assert read_notes(tmp_path / "run/model")["training"] == {"samples": 5}


def test_a_resumed_run_keeps_the_notes_and_needs_no_more_of_what_it_started_from(
    restorer, tmp_path, autoencoder_folder, capsys
):
    other = tmp_path / "other"
    shutil.copytree(autoencoder_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"fill": {"feather": 9.0}}))
    restorer(samples=8).run()
    assert "not with" not in capsys.readouterr().err
    restorer(samples=16, init=other).run()
    said = capsys.readouterr().err
    assert f"the run goes on with what it started from, {autoencoder_folder}: not with {other}" in said
    notes = {"training": {"samples": 5}, "fill": {"feather": 2.0}}
    assert read_notes(tmp_path / "run/model") == notes
    shutil.rmtree(autoencoder_folder)
    shutil.rmtree(tmp_path / "run/model")  # the checkpoint has them too
    restorer(samples=24).run()
    assert "not with" not in capsys.readouterr().err
    assert read_notes(tmp_path / "run/model") == notes


def test_settings_of_fills_that_were_fitted_while_it_trains_are_kept(restorer, tmp_path, capsys):
    path = tmp_path / "run/model/config.json"
    run = restorer(samples=24, save_every=8)
    save, fitted = run._save_model, []

    def fit_and_save(training):
        if path.exists() and not fitted:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"fill": {"smooth": 3.0}}))
            fitted.append(training["samples"])
        save(training)

    run._save_model = fit_and_save
    run.run()
    assert fitted == [16]
    assert read_notes(path.parent) == {"training": {"samples": 5}, "fill": {"smooth": 3.0}}
    assert "fit them again" not in capsys.readouterr().err  # the autoencoder that they are for is frozen


def test_settings_of_fills_are_said_to_be_outdated_where_the_autoencoder_moves(restorer, capsys):
    for samples, outdated in ((16, True), (16, False), (24, True)):
        restorer(samples=samples, groups=JOINT).run()
        assert ("fit them again" in capsys.readouterr().err) == outdated


def test_a_save_that_fails_leaves_the_model_with_its_refiner(restorer, tmp_path, monkeypatch):
    restorer(samples=8).run()
    before = load_refiner(tmp_path / "run/model").state_dict()

    def full(weights, path, *args, **settings):
        if any(name.startswith("stem") for name in weights):
            raise OSError(28, "No space left on device")
        return write(weights, path, *args, **settings)

    write = saving.save_file
    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(MaerestoreError, match="No space left"):
        restorer(samples=16).run()
    after = load_refiner(tmp_path / "run/model").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_crops_too_small_for_the_perceptual_network_are_refused_before_the_first_step(restorer):
    loss = {"mse": 1, "perceptual": {"backbone": "squeezenet1_1", "weights": "random"}}
    with pytest.raises(MaerestoreError, match="cannot be had from pictures of 16 px") as caught:
        restorer(loss=loss, resolution=[[0, 32], [16, 16]])
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_before_it_held_notes_goes_on_with_those_of_the_runs_model(restorer, tmp_path):
    restorer(samples=8).run()
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if k not in ("notes", "source")}, tmp_path / "run/checkpoint.pt")
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    (tmp_path / "run/model/config.json").write_text(json.dumps(config | {"fill": {"feather": 7.0}}))
    restorer(samples=16).run()
    assert read_notes(tmp_path / "run/model")["fill"] == {"feather": 7.0}


def test_validation_measures_every_family_and_draws_a_picture(restorer, tmp_path):
    perceptual = {"backbone": "squeezenet1_1", "weights": "random", "layers": ["features.1"]}
    figures = restorer(samples=8, loss={"mse": 1, "perceptual": perceptual}).run()
    names = {"coarse_psnr", "mean_psnr", "sharp_psnr", "mean_perceptual", "sharp_perceptual"}
    assert set(figures) == {f"{name}_{family}" for name in names for family in ("thin", "medium", "thick", "centre")}
    assert all(np.isfinite(value) for value in figures.values())
    with Image.open(tmp_path / "run/fills-000000008.jpg") as picture:
        assert picture.size == (13 * 40, 2 * 40)


def test_a_checkpoint_of_another_kind_is_refused(restorer, trainer, tiny_recipe, tiny_settings, tmp_path):
    restorer("restorer", samples=8).run()
    trainer(tiny_recipe(samples=8), "pretrained").run()
    refusals = [
        lambda: trainer(tiny_recipe(samples=16), "restorer"),
        lambda: trainer(tiny_recipe(samples=16), "new", init=tmp_path / "restorer/checkpoint.pt"),
        lambda: restorer("pretrained"),
        lambda: restorer("restorer", refiner={"feature_layer": 1, "widths": [4, 8, 8, 16], "dilations": [1, 2]}),
    ]
    for refusal in refusals:
        with pytest.raises(RecipeError, match=r"checkpoint\.pt") as caught:
            refusal()
        assert "\n" not in str(caught.value)
    # The folder model/ in it is what a pretraining run may start from.
    assert trainer(tiny_recipe(samples=8), "new", init=tmp_path / "restorer").samples == 0


@pytest.mark.parametrize("settings", [
    {"refiner": {"width": 3}}, {"refiner": {"widths": [1, 2]}}, {"refiner": {"feature_layer": 7}}, {"refiner": 3},
    {"loss": {}}, {"loss": {"masked_mse": 1}}, {"loss": {"perceptual": {"weights": 5}}}, {"ratios": {0.5: 1}},
    {"ratios": {1: 0}}, {"ratios": {"one": 1}}, {"ratios": [1]}, {"validation_side": 3}, {"layer_decay": 0.5},
    {"groups": [{"match": "nowhere", "lr": 1}]}, {"adversarial": {"feature_matching": -1}},
    {"families": {"mats": 1}},
], ids=str)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(restorer, settings):
    with pytest.raises(MaerestoreError) as caught:
        restorer(**settings)
    assert "\n" not in str(caught.value)


def test_the_side_for_the_autoencoder_is_whole_patches():
    recipe = RestorerRecipe()
    for side, ratio, expected in ((256, 1, 256), (256, 2, 128), (250, 2, 128), (192, 3, 64), (10, 4, 8)):
        assert recipe.seen_side(side, ratio, 8) == expected


@pytest.mark.parametrize("name", ["restorer-cpu", "restorer-gpu"])
def test_the_recipes_of_the_repository_are_valid(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml", [], RestorerRecipe)
    assert set(recipe.loss) == {"mse", "l1", "perceptual"}


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(restorer_settings, trainer, packed, tmp_path, autoencoder_folder):
    """command(*options, **settings): the exit code of `maerestore train-restorer`."""

    def call(*options, **settings):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({**restorer_settings, "samples": 16, **settings}))
        arguments = ["train-restorer", recipe, "--data", packed, "-o", tmp_path / "cli", "--cpu", "--workers", "0"]
        return main([str(a) for a in (*arguments, "--model", autoencoder_folder, *options)])

    return call


def test_the_command_trains_and_saves_both_networks(command, tmp_path, capsys):
    assert command("--set", "samples=24", "--set", "refiner.widths=[4, 8, 8, 16]") == 0
    out, err = capsys.readouterr()
    assert "sharp_psnr_centre" in out
    assert "finished after 24 samples" in err
    assert load_refiner(tmp_path / "cli").config.widths == (4, 8, 8, 16)
    assert json.loads((tmp_path / "cli/model/config.json").read_text())["refiner"]["training"]["samples"] == 24


@pytest.mark.parametrize(("options", "settings", "message"), [
    (("--set", "refiner.widths=3"), {}, "widths must be whole numbers"),
    (("--set", "refinre=3"), {}, "recipe.yaml with --set refinre=3: unknown setting(s) refinre"),
    ((), {"refiner": {"feature_layer": 1, "width": 3}}, "unknown setting(s) width"),
    ((), {"masking": {}}, "unknown setting(s) masking"),
    (("--model", "no/where/at/all"), {}, "no model 'no/where/at/all'"),
    (("--model", ""), {}, "no model ''"),
], ids=str)  # fmt: skip
def test_what_does_not_fit_gets_one_line(command, tmp_path, capsys, options, settings, message):
    assert command(*options, **settings) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "cli").exists()
