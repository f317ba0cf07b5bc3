import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.errors import MaerestoreError
from maerestore.hub.config import read_folder
from maerestore.hub.load import load_autoencoder
from maerestore.model.positions import resample_positions, sincos_positions
from maerestore.train.checkpoint import write_checkpoint
from maerestore.train.values import RecipeError


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_state(one, other):
    for mine, theirs in ((one.model, other.model), (one.average, other.average)):
        states = mine.state_dict(), theirs.state_dict()
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            torch.testing.assert_close(value, states[1][name], atol=1e-6, rtol=1e-6, msg=name)
    for mine, theirs in zip(one.optimizers, other.optimizers, strict=True):
        states = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert states[0].keys() == states[1].keys()
        for key, entries in states[0].items():
            for name, value in entries.items():
                torch.testing.assert_close(value, states[1][key][name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_goes_down(trainer, tiny_recipe, tmp_path, optimizer):
    trainer(tiny_recipe(samples=8 * 70, optimizer=optimizer)).run()
    losses = [record["loss"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert len(losses) == 70
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])


def test_a_step_uses_the_rate_of_the_schedule_and_moves_the_average(trainer, tiny_recipe):
    recipe = tiny_recipe(optimizer="muon")
    run = trainer(recipe, stop_at=1)
    before = {name: value.clone() for name, value in run.average.named_parameters()}
    run.run()
    rates = {group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups}
    assert rates == {recipe.lr * recipe.lr_factor(0)}
    for name, now in run.average.named_parameters():
        expected = torch.lerp(before[name], run.model.get_parameter(name).detach(), 1 - 2 / 11)
        torch.testing.assert_close(now, expected, atol=1e-6, rtol=1e-5, msg=name)
    assert not torch.equal(before["decoder_pred.weight"], run.average.decoder_pred.weight)


def test_gradients_are_clipped_to_norm_one(trainer, tiny_recipe):
    run = trainer(tiny_recipe(), stop_at=1)
    with torch.no_grad():
        run.model.decoder_pred.bias.fill_(100.0)
    norms = []

    def look(*_):
        gradients = [p.grad.norm() for p in run.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))

    run.optimizers[0].optimizer.register_step_pre_hook(look)
    run.run()
    assert norms == [pytest.approx(1.0, abs=1e-3)]


@pytest.mark.parametrize("settings", [
    {"optimizer": "adamw", "schedule": "cosine"},
    {"optimizer": "muon", "schedule": "wsd", "resolution": [[0, 16], [40, 32]],
     "masking": {"policies": {"random": 1, "free_form": 1, "attention": 1}, "free_form_drop": [0, 0.5]}},
], ids=["adamw", "muon"])  # fmt: skip
def test_a_stopped_and_resumed_run_ends_like_one_that_never_stopped(trainer, tiny_recipe, tmp_path, settings):
    recipe = tiny_recipe(**settings)
    whole = trainer(recipe, "whole")
    figures = whole.run()
    first = trainer(recipe, "parts", stop_at=3)
    first.run()
    assert (first.step, first.samples) == (3, 24)
    second = trainer(recipe, "parts")
    assert (second.step, second.samples) == (3, 24)
    assert_same_state(second, first)
    resumed_figures = second.run()
    assert (second.step, second.samples) == (8, 64)
    assert_same_state(second, whole)
    assert resumed_figures == pytest.approx(figures, abs=1e-3)
    losses = [[r["loss"] for r in log_of(tmp_path / name) if "loss" in r] for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_stopping_matters_to_the_comparison(trainer, tiny_recipe):
    """The comparison of the resumed run can fail: one step fewer is another state."""
    one, other = trainer(tiny_recipe(), "one", stop_at=3), trainer(tiny_recipe(), "other", stop_at=4)
    one.run()
    other.run()
    with pytest.raises(AssertionError):
        assert_same_state(one, other)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_after_the_step_and_saves(trainer, tiny_recipe, tmp_path, number):
    reached = []
    previous = signal.signal(number, lambda *_: reached.append("outer handler"))
    try:
        run = trainer(tiny_recipe())
        train_step = run._train_step

        def step(*args, **kwargs):
            if run.step == 2:
                os.kill(os.getpid(), number)
            return train_step(*args, **kwargs)

        run._train_step = step
        run.run()
        assert reached == []
        os.kill(os.getpid(), number)  # the handler of before is back
        assert reached == ["outer handler"]
    finally:
        signal.signal(number, previous)
    assert run.step == 3
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert (state["step"], state["samples"]) == (3, 24)
    assert load_autoencoder(tmp_path / "run/model").config == run.recipe.config


def test_a_run_folder_holds_log_checkpoint_model_and_pictures(trainer, tiny_recipe, tmp_path):
    recipe = tiny_recipe(samples=40, log_every=16, validate_every=16, save_every=16)
    run = trainer(recipe)
    figures = run.run()
    folder = tmp_path / "run"
    pictures = [f"fills-{samples:09d}.jpg" for samples in (16, 32, 40)]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["checkpoint.pt", "log.jsonl", "model", "tensorboard", *pictures]
    )
    with Image.open(folder / pictures[0]) as picture:
        assert picture.size == (9 * 32, 2 * 32)
    log = log_of(folder)
    steps = [record for record in log if "loss" in record]
    assert [record["samples"] for record in steps] == [16, 32]
    assert [record["step"] for record in steps] == [2, 4]
    for record in steps:
        assert record["lr"] == pytest.approx(recipe.lr * recipe.lr_factor(record["samples"]))
        assert record["side"] == 32
        assert record["images_per_second"] > 0
    validations = [record for record in log if "psnr_thin" in record]
    assert [record["samples"] for record in validations] == [16, 32, 40]
    assert set(figures) == {"psnr_thin", "psnr_medium", "psnr_thick", "psnr_centre", "masked_mse"}
    assert all(np.isfinite(value) for value in figures.values())
    assert {name: validations[-1][name] for name in figures} == figures


def test_the_saved_model_holds_the_averaged_weights(trainer, tiny_recipe, tmp_path):
    run = trainer(tiny_recipe(samples=24))
    run.run()
    saved = load_autoencoder(tmp_path / "run/model").state_dict()
    for name, value in run.average.state_dict().items():
        torch.testing.assert_close(saved[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert not torch.allclose(saved["decoder_pred.weight"], run.model.state_dict()["decoder_pred.weight"], atol=1e-5)
    assert read_folder(tmp_path / "run/model")["training"] == {"samples": 24, "data": run.corpus.fingerprint}


def test_a_finished_run_started_again_only_validates(trainer, tiny_recipe):
    first = trainer(tiny_recipe(samples=16))
    figures = first.run()
    again = trainer(tiny_recipe(samples=16))
    assert again.run() == pytest.approx(figures)
    assert again.step == 2


def test_fitted_settings_of_fills_are_kept_and_said_to_be_outdated(trainer, tiny_recipe, tmp_path, capsys):
    trainer(tiny_recipe(samples=16)).run()
    path = tmp_path / "run/model/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"fill": {"smooth": 2.0}}))
    for samples, outdated in ((16, False), (24, True)):
        trainer(tiny_recipe(samples=samples)).run()
        assert json.loads(path.read_text())["fill"] == {"smooth": 2.0}
        assert ("fit them again" in capsys.readouterr().err) == outdated
    (tmp_path / "run/checkpoint.pt").unlink()  # another run in its place, whose weights they do not fit
    trainer(tiny_recipe(samples=8)).run()
    assert "fill" not in json.loads(path.read_text())


def test_a_step_is_drawn_from_seed_and_step_alone(trainer, tiny_recipe):
    one, other = trainer(tiny_recipe(), "one"), trainer(tiny_recipe(), "other")
    other.run()
    other.step, other.samples = 0, 0
    images, masks, *_ = one._batch(slice(0, 8))
    again, masks_again, *_ = other._batch(slice(0, 8))
    assert torch.equal(images, again)
    assert torch.equal(masks.mask, masks_again.mask)
    other.step = 1
    assert not torch.equal(images, other._batch(slice(0, 8))[0])
    assert not torch.equal(images, trainer(tiny_recipe(seed=1), "third")._batch(slice(0, 8))[0])


@pytest.mark.parametrize(("policy", "kind"), [("random", "patches"), ("free_form", "holes")])
def test_the_policy_decides_between_patches_and_holes(trainer, tiny_recipe, policy, kind):
    run = trainer(tiny_recipe(masking={"policies": {policy: 1.0}, "free_form_drop": [0.0, 0.5]}))
    for run.step in range(4):
        masks = run._batch(slice(0, 8)).masks
        assert (masks.pixel_weight is not None) == (kind == "holes")
        assert masks.mask.sum(1).tolist() == [16 - masks.num_visible] * 8


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_takes_bf16_where_the_processor_has_it(trainer, tiny_recipe, monkeypatch, fast):
    monkeypatch.setattr("maerestore.precision._has_fast_bf16", lambda: fast)
    run = trainer(tiny_recipe(samples=8, precision="auto"))
    assert run.accelerator.mixed_precision == ("bf16" if fast else "no")


def test_bf16_trains_weights_that_stay_in_single_precision(trainer, tiny_recipe, tmp_path):
    run = trainer(tiny_recipe(samples=24, precision="bf16"))
    run.run()
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert all(np.isfinite(record["loss"]) for record in log_of(tmp_path / "run") if "loss" in record)


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(trainer, tiny_recipe, tmp_path):
    run = trainer(tiny_recipe())
    with torch.no_grad():
        run.model.decoder_pred.bias.fill_(float("nan"))
    with pytest.raises(RecipeError, match="base_lr"):
        run.run()
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_model_without_mask_embed_is_refused_where_pixels_are_hidden(tiny_recipe, tiny_settings):
    # It would see what it is scored on.
    with pytest.raises(RecipeError, match="mask_embed"):
        tiny_recipe(model=tiny_settings, masking={"policies": {"free_form": 1.0}})


def test_a_gray_model_trains_on_the_light_of_colour_photographs(trainer, tiny_recipe, tiny_settings, tmp_path):
    model = {**tiny_settings, "mask_embed": True, "in_chans": 1, "mean": [0.5], "std": [0.25]}
    run, colour = trainer(tiny_recipe(model=model, samples=8), "gray"), trainer(tiny_recipe(samples=8), "colour")
    light = colour.model.denormalize(colour._batch(slice(0, 8)).images).mean(1, keepdim=True)
    torch.testing.assert_close(run._batch(slice(0, 8)).images, (light - 0.5) / 0.25, atol=1e-4, rtol=0)
    start = run.model.patch_embed.proj.weight.clone()
    run.run()
    assert (run.samples, run.model.config.in_chans) == (8, 1)
    assert not torch.equal(run.model.patch_embed.proj.weight, start)
    assert load_autoencoder(tmp_path / "gray/model").config.in_chans == 1


def test_a_checkpoint_of_another_configuration_is_refused(trainer, tiny_recipe, tiny_settings):
    trainer(tiny_recipe(samples=8)).run()
    other = {**tiny_settings, "depth": 1, "mask_embed": True, "num_heads": 4}
    with pytest.raises(ValueError, match=r"num_heads|config"):
        trainer(tiny_recipe(samples=8, model=other))


def test_a_run_starts_from_the_weights_of_a_model_folder(trainer, tiny_recipe, tiny_model, tmp_path, capsys):
    from maerestore.hub.save import save_autoencoder

    source = tiny_model(seed=5, depth=1, mask_embed=True)
    save_autoencoder(source, tmp_path / "source", dtype=torch.float32)
    started = trainer(tiny_recipe(samples=8), init=tmp_path / "source")
    assert started.samples == 0
    for name, value in source.state_dict().items():
        assert torch.equal(started.model.state_dict()[name], value)
        assert torch.equal(started.average.state_dict()[name], value)
    started.run()
    assert "its own checkpoint" not in capsys.readouterr().err
    trainer(tiny_recipe(samples=16), init=tmp_path / "nowhere").run()
    assert f"from its own checkpoint: {tmp_path / 'nowhere'} counts where a run begins" in capsys.readouterr().err


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_run_starts_from_a_model_of_another_image_size(trainer, tiny_recipe, tiny_settings, tmp_path, checkpoint):
    first = trainer(tiny_recipe(samples=8), "first")
    first.run()
    model = {**tiny_settings, "depth": 1, "mask_embed": True, "image_size": 48}
    source = tmp_path / "first" / ("checkpoint.pt" if checkpoint else "model")
    started = trainer(tiny_recipe(samples=8, model=model), init=source)
    assert started.model.config.image_size == 48
    for name, value in first.average.state_dict().items():
        ours = started.model.state_dict()[name]
        if name.endswith("pos_embed"):
            grids = ((32 // first.model.config.patch_size,) * 2, (48 // first.model.config.patch_size,) * 2)
            value = resample_positions(value, *grids)
            assert not torch.allclose(value, sincos_positions(value.shape[2], grids[1]), atol=0.1)
        torch.testing.assert_close(ours, value, atol=2e-3, rtol=1e-3, msg=name)  # models are saved in half precision
        assert torch.equal(started.average.state_dict()[name], ours)
    started.run()


def test_a_run_whose_model_knows_holes_starts_from_one_that_does_not(trainer, tiny_recipe, tiny_model, tmp_path):
    from maerestore.hub.save import save_autoencoder

    source = tiny_model(seed=5, depth=1, mask_embed=False)
    save_autoencoder(source, tmp_path / "source", dtype=torch.float32)
    started = trainer(tiny_recipe(samples=8), init=tmp_path / "source")
    ours = started.model.state_dict()
    assert not ours.pop("patch_embed.mask_proj.weight").any()
    assert all(torch.equal(ours[name], value) for name, value in source.state_dict().items())
    assert len(ours) == len(source.state_dict())
    started.run()
    save_autoencoder(tiny_model(depth=1, mask_embed=True), tmp_path / "other")
    model = {**started.recipe.model, "mask_embed": False}
    with pytest.raises(RecipeError, match="mask_embed"):  # the other way something would be lost
        trainer(tiny_recipe(samples=8, model=model), "second", init=tmp_path / "other")


def test_of_two_settings_that_differ_the_image_size_is_not_the_one_named(trainer, tiny_recipe, tiny_settings, tmp_path):
    trainer(tiny_recipe(samples=8), "first").run()
    model = {**tiny_settings, "depth": 1, "mask_embed": True, "image_size": 60, "patch_size": 12}
    with pytest.raises(RecipeError, match="model: was trained with another patch_size than"):
        trainer(tiny_recipe(samples=8, model=model), init=tmp_path / "first/model")


def test_a_model_folder_of_another_size_is_refused(trainer, tiny_recipe, tiny_model, tmp_path):
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(depth=2, mask_embed=True), tmp_path / "source")
    with pytest.raises(RecipeError, match="depth"):
        trainer(tiny_recipe(samples=8), init=tmp_path / "source")


def test_an_adversary_joins_at_its_sample_and_resumes(trainer, tiny_recipe, tmp_path):
    recipe = tiny_recipe(adversarial={"start": 16, "width": 4, "layers": 1, "weight": 0.5}, samples=48)
    whole = trainer(recipe, "whole")
    whole.run()
    trainer(recipe, "parts", stop_at=4).run()
    resumed = trainer(recipe, "parts")
    resumed.run()
    assert_same_state(resumed, whole)
    for name, value in whole.adversary.discriminator.state_dict().items():
        torch.testing.assert_close(value, resumed.adversary.discriminator.state_dict()[name])
    log = [record for record in log_of(tmp_path / "whole") if "loss" in record]
    assert ["adversarial" in record for record in log] == [False, False, True, True, True, True]
    for record in log[2:]:
        assert record["loss"] == pytest.approx(record["masked_mse"] + 0.5 * record["adversarial"], rel=1e-5)
        assert record["discriminator_loss"] > 0


@pytest.mark.parametrize("settings", [
    {"adversarial": {"widht": 4}}, {"adversarial": {"norm": "batch"}}, {"adversarial": {"betas": 3}},
    {"loss": {"perceptual": {"weights": 5}}}, {"loss": {"l3": 1}}, {"loss": {"mse": -1}},
    {"batch_size": 10, "accumulate": 4}, {"groups": [{"match": "nowhere", "lr": 1}]},
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(trainer, tiny_recipe, settings):
    with pytest.raises(MaerestoreError) as caught:
        trainer(tiny_recipe(**settings))
    assert "\n" not in str(caught.value)


def test_resuming_with_another_optimizer_is_refused(trainer, tiny_recipe):
    trainer(tiny_recipe(samples=8, optimizer="muon")).run()
    with pytest.raises(RecipeError, match="optimizer"):
        trainer(tiny_recipe(samples=16, optimizer="adamw"))


@pytest.mark.parametrize("named", [True, False], ids=["named", "of before there were names"])
def test_resuming_with_other_frozen_parameters_is_refused(trainer, tiny_recipe, tmp_path, named):
    """Groups have as many parameters as before, so that moments would get to others of them."""
    frozen = [[{"match": name, "lr": 0}] for name in ("cls_token", "decoder_pred.bias")]
    trainer(tiny_recipe(samples=8, groups=frozen[0])).run()
    path = tmp_path / "run/checkpoint.pt"
    state = torch.load(path, weights_only=True)
    if not named:
        for group in state["optimizers"][0]["param_groups"]:
            del group["names"]
        write_checkpoint(path, state)
    with pytest.raises(RecipeError, match="optimisers are not the recipe's"):
        trainer(tiny_recipe(samples=16, groups=frozen[1]))
    if named:  # nothing but names tells these two, of one shape, apart
        state["optimizers"][0]["param_groups"][0]["names"][:2] = ["b", "a"]
        write_checkpoint(path, state)
        with pytest.raises(RecipeError, match="optimisers are not the recipe's"):
            trainer(tiny_recipe(samples=16, groups=frozen[0]))
    else:
        assert trainer(tiny_recipe(samples=16, groups=frozen[0])).samples == 8


@pytest.mark.parametrize("hidden", ["noise", "mean"])
def test_a_model_trains_with_something_in_its_hidden_patches(trainer, tiny_recipe, tiny_settings, tmp_path, hidden):
    model = {**tiny_settings, "depth": 1, "hidden": hidden}
    run = trainer(tiny_recipe(model=model, masking={"policies": {"block": 1}}))
    before = run.model.decoder_pred.weight.clone()
    run.run()
    assert not torch.equal(before, run.model.decoder_pred.weight)
    assert load_autoencoder(tmp_path / "run/model").config.hidden == hidden


def test_a_resumed_run_takes_changed_settings_of_the_recipe(trainer, tiny_recipe):
    trainer(tiny_recipe(samples=8, weight_decay=0.05)).run()
    resumed = trainer(tiny_recipe(samples=16, weight_decay=0.5))
    assert {group["weight_decay"] for o in resumed.optimizers for group in o.param_groups} == {0.0, 0.5}


def test_a_resumed_run_takes_changed_settings_of_the_adversary(trainer, tiny_recipe):
    adversary = {"width": 4, "layers": 1, "lr": 1e-3}
    trainer(tiny_recipe(samples=8, adversarial=adversary)).run()
    changed = {**adversary, "lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.1}
    resumed = trainer(tiny_recipe(samples=16, adversarial=changed))
    (group,) = resumed.adversary.optimizer.param_groups
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (1e-5, (0.9, 0.95), 0.1)
    assert len(resumed.adversary.optimizer.state) == len(group["params"])  # the moments came along


@pytest.mark.parametrize("where", ["model", "average", "adversary"])
def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(trainer, tiny_recipe, tmp_path, where):
    """The loss of the last step is finite still; what the step made of the weights is not."""
    run = trainer(tiny_recipe(samples=8, adversarial={"width": 4, "layers": 1}))
    run.run()
    before = [(tmp_path / "run" / name).read_bytes() for name in ("checkpoint.pt", "model/model.safetensors")]
    network = run.adversary.discriminator if where == "adversary" else getattr(run, where)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(RecipeError, match="lower base_lr"):
        run._save()
    assert before == [(tmp_path / "run" / n).read_bytes() for n in ("checkpoint.pt", "model/model.safetensors")]


def test_a_disk_that_is_full_ends_a_run_in_one_line_and_keeps_the_checkpoint(tmp_path):
    """A limit on the size of files stands in for it."""
    code = (
        "import resource, torch; from pathlib import Path; from maerestore.train.checkpoint import write_checkpoint\n"
        "path = Path('checkpoint.pt'); write_checkpoint(path, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n"
        "try:\n    write_checkpoint(path.absolute(), {'step': 2, 'model': torch.zeros(10**6)})\n"
        "except Exception as err:\n    print(type(err).__name__, err)\n"
        "print(torch.load(path))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = "the checkpoint cannot be written (is the disk full?); the checkpoint.pt of before is kept"
    assert done.stdout == f"RecipeError {tmp_path}: {said}\n{{'step': 1}}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_a_killed_process_leaves_of_a_checkpoint_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda self, target: os._exit(9))
    if (child := os.fork()) == 0:
        write_checkpoint(tmp_path / "checkpoint.pt", {"step": 1})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    write_checkpoint(tmp_path / "checkpoint.pt", {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_an_error_that_is_not_the_disks_is_not_said_to_be(tmp_path, monkeypatch):
    def save(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("maerestore.train.checkpoint.torch.save", save)
    with pytest.raises(RuntimeError, match="CUDA"):
        write_checkpoint(tmp_path / "checkpoint.pt", {})


def test_a_run_is_saved_before_it_is_validated(trainer, tiny_recipe, tmp_path):
    run = trainer(tiny_recipe(samples=16, validate_every=8, save_every=8))
    measure, saved = run._measure, []

    def measured():
        saved.append(torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["samples"])
        return measure()

    run._measure = measured
    run.run()
    assert saved == [8, 16]


@pytest.mark.parametrize(("every", "kept"), [(8, [8, 16, 24]), (16, [16, 24]), (24, [24])])
def test_each_step_is_saved_once(trainer, tiny_recipe, every, kept):
    run = trainer(tiny_recipe(samples=24, save_every=every, validation_images=0))
    save, saved = run._save, []
    run._save = lambda: (saved.append(run.samples), save())
    run.run()
    assert saved == kept


def test_processes_wait_for_the_one_that_decodes(trainer, tiny_recipe):
    run = trainer(tiny_recipe(samples=8))
    assert run.accelerator.init_handler.timeout >= timedelta(hours=6)


def test_the_log_says_how_much_gpu_memory_was_used(trainer, tiny_recipe, tmp_path, monkeypatch, capsys):
    run = trainer(tiny_recipe(samples=8))
    run.run()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 51_200_000_000)
    run.device = torch.device("cuda")
    run._log({"loss": 0.5})
    assert log_of(tmp_path / "run")[-1]["gpu_gb"] == 51.2
    assert capsys.readouterr().err.strip().endswith("51.2 GB of GPU memory at most")
    assert "gpu_gb" not in log_of(tmp_path / "run")[0]


def test_a_stopped_run_saves_without_validating_and_says_so(trainer, tiny_recipe, tmp_path, capsys):
    run = trainer(tiny_recipe(validate_every=8))
    train_step = run._train_step

    def step(*args, **kwargs):
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args, **kwargs)

    run._train_step = step
    saved = []
    validate = run._validate
    run._validate = lambda: saved.append((tmp_path / "run/checkpoint.pt").exists()) or validate()
    run.run()
    assert run.signals.number == signal.SIGTERM
    assert saved == [False] * 3  # those that were due, and none at the end
    said = capsys.readouterr().err
    assert "14 photographs in memory, 3 more kept aside" in said
    assert "stopped and saved after 24 samples" in said
    again = trainer(tiny_recipe(samples=32))
    again.run()
    said = capsys.readouterr().err
    assert "going on from 24 of 32 samples; changed since: samples 64 -> 32, validate_every 8 -> 10000\n" in said
    assert "finished after 32 samples" in said


def test_a_resumed_run_says_what_is_other_than_before(trainer, tiny_recipe, tmp_path, capsys):
    trainer(tiny_recipe(samples=8)).run()
    trainer(tiny_recipe(samples=16, loss={"masked_mse": 0.5}, base_lr=0.01), data="fake:32").run()
    said = capsys.readouterr().err
    assert "going on from 8 of 16 samples; changed since: samples 8 -> 16, base_lr 0.03 -> 0.01, loss." in said
    assert ", the photographs\n" in said
    trainer(tiny_recipe(samples=16, loss={"masked_mse": 0.5}, base_lr=0.01), data="fake:32").run()
    assert "going on from 16 of 16 samples\nnothing is left to train: " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"x", b"junk", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_refused_in_one_line(trainer, tiny_recipe, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.pt").write_bytes(content)
    with pytest.raises(RecipeError, match=r"checkpoint\.pt") as caught:
        trainer(tiny_recipe())
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to unpickle what it refuses


@pytest.mark.slow
def test_compiled_training_trains(trainer, tiny_recipe, tmp_path):
    """With the code generator itself."""
    run = trainer(tiny_recipe(samples=24, compile=True, masking={"policies": {"random": 1}}))
    blocks = [*run.model.blocks, *run.model.decoder_blocks]
    assert all(block._compiled_call_impl is not None for block in blocks)
    before = run.model.patch_embed.proj.weight.clone()
    run.run()
    assert float((run.model.patch_embed.proj.weight - before).abs().max()) > 1e-5
    torch._dynamo.reset()


def test_the_first_record_of_the_log_has_the_share_of_data(trainer, tiny_recipe, tmp_path):
    trainer(tiny_recipe(samples=16)).run()
    shares = [record["data_share"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


def test_tensorboard_holds_what_the_json_lines_say(trainer, tiny_recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tiny_recipe(samples=24)).run()
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    losses = [record["loss"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses)
    assert [e.step for e in events.Scalars("loss")] == [8, 16, 24]
    assert "fills" in events.Tags()["images"]


def test_a_log_that_went_further_than_the_checkpoint_is_taken_back(trainer, tiny_recipe, tmp_path):
    trainer(tiny_recipe(samples=24)).run()
    log = tmp_path / "run/log.jsonl"
    before = log.read_text()
    with log.open("a") as sink:  # as a run that was killed leaves it
        sink.write(json.dumps({"step": 4, "samples": 32, "loss": 9.0}) + '\n{"step": 5, "sam')
    trainer(tiny_recipe(samples=40)).run()
    assert log.read_text().startswith(before)
    assert [record["samples"] for record in log_of(tmp_path / "run") if "loss" in record] == [8, 16, 24, 32, 40]


def test_a_run_can_start_from_a_model_that_is_named(trainer, tiny_recipe):
    with pytest.raises(RecipeError, match="augment: was trained with another"):
        trainer(tiny_recipe(), init="augment")
