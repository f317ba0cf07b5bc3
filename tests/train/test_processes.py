"""Several processes, or several parts of a batch, compute what one process with the whole batch does."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import yaml

from maerestore.train.corpus import Layout
from maerestore.train.recipe_file import load_recipe
from train.test_pretrain import log_of

SETTINGS = {
    "samples": 24, "batch_size": 8, "warmup_samples": 8, "base_lr": 1e-2, "optimizer": "muon", "precision": "fp32",
    "mask_count": 32,
    "log_every": 8, "validate_every": 1000, "save_every": 1000, "validation_images": 2,
    "masking": {"policies": {"random": 1, "block": 1, "free_form": 2, "attention": 1}, "free_form_drop": [0, 0.5]},
}  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(recipe, data, out, processes, verb="pretrain", *options):
    """Run a training verb in so many processes, as torchrun starts them."""
    port = str(free_port())
    running = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank),
               "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        command = [sys.executable, "-m", "maerestore", verb, recipe, "--data", data, "-o", out, "--cpu", *options]
        running.append(
            subprocess.Popen([*map(str, command), "--workers", "0"], env=env, stderr=subprocess.PIPE, text=True)
        )
    for process in running:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same_update(one, other, start, rounding=1e-4):
    """Weights and moments equal to single-precision rounding, and the weights far from where they started.

    AdamW divides by the size of the gradient, so rounding shows in full where that is next to nothing: the weights are
    compared with a twentieth of what they moved, the moments, which are gradients, by their own size.
    """
    moved = max(float((value - start[name]).abs().max()) for name, value in one["model"].items())
    assert moved > 1e-4
    for name, value in one["model"].items():
        torch.testing.assert_close(value, other["model"][name], atol=moved / 20, rtol=1e-5, msg=name)
    for mine, theirs in zip(one["optimizers"], other["optimizers"], strict=True):
        for key, moments in mine["state"].items():
            for name in {"exp_avg", "momentum_buffer"} & set(moments):
                size = float(moments[name].abs().max())
                torch.testing.assert_close(
                    moments[name], theirs["state"][key][name], atol=rounding * size, rtol=rounding
                )


def state_of(run):
    return {"model": run.model.state_dict(), "optimizers": [o.state_dict() for o in run.optimizers]}


def start_of(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.mark.slow
def test_two_processes_with_half_the_batch_make_the_same_update(trainer, packed, tmp_path, tiny_settings):
    settings = {"model": {**tiny_settings, "depth": 1, "mask_embed": True}, **SETTINGS}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    both = launch(recipe, packed, tmp_path / "both", 2)
    alone = trainer(load_recipe(recipe), "alone", workers=0)
    start = start_of(alone)
    alone.run()
    assert (both["step"], both["samples"]) == (alone.step, alone.samples) == (3, 24)
    assert_same_update(both, state_of(alone), start)
    # The log tells of the whole batch, not of the first process's half.
    told = ([each["loss"] for each in log_of(tmp_path / name) if "loss" in each] for name in ("both", "alone"))
    assert next(told) == pytest.approx(next(told), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_accumulated_batch_makes_the_same_update(trainer, tiny_recipe, optimizer):
    settings = {**SETTINGS, "optimizer": optimizer}
    whole, parts = (trainer(tiny_recipe(**settings, accumulate=n), f"in-{n}") for n in (1, 4))
    start = start_of(whole)
    whole.run()
    parts.run()
    assert_same_update(state_of(parts), state_of(whole), start)


@pytest.mark.parametrize(("hidden", "policy"), [("drop", "free_form"), ("noise", "grid"), ("mean", "attention-keep")])
def test_a_part_of_a_batch_is_cut_from_the_whole(trainer, tiny_recipe, tiny_settings, hidden, policy):
    model = {**tiny_settings, "depth": 1, "mask_embed": hidden == "drop", "hidden": hidden}
    run = trainer(tiny_recipe(model=model, masking={"policies": {policy: 1}}))
    whole = run._batch(slice(0, 8))
    for part in (slice(0, 3), slice(3, 8)):
        images, masks, noise, _ = run._batch(part)
        assert torch.equal(images, whole[0][part])
        assert torch.equal(masks.mask, whole[1].mask[part])
        if masks.pixel_weight is not None:
            assert torch.equal(masks.pixel_weight, whole[1].pixel_weight[part])
        assert (noise is not None) == (hidden == "noise")
        if noise is not None:
            assert torch.equal(noise, whole[2][part])


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="multiple of 6"):
        Layout(total=8, processes=3, process=0, accumulate=2)
    layouts = [Layout(24, 3, process, 2) for process in range(3)]
    covered = sorted(i for layout in layouts for part in layout.parts for i in range(24)[part])
    assert covered == list(range(24))
