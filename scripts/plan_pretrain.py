"""Say what a pretraining run needs, and try it with random pictures: memory, accumulation, hours, launch command.

    python scripts/plan_pretrain.py scripts/recipes/vit-base-gpu.yaml --gpus 8 --memory 80 --tflops 250
    python scripts/plan_pretrain.py scripts/recipes/vit-large-gpu.yaml --gpus 64 --images 4 --json plan.json

The model is built in its full size and trained for a few steps of --images random pictures at each of the recipe's
sides, on the device at hand. Floating-point operations and what is kept for the backward pass are counted in these
steps, so the plan holds for other devices too; --tflops says how much of one GPU's speed reaches the model (a third of
what a matrix product gets there is a usual share; bench_pretrain.py measures it).
"""

from __future__ import annotations

import argparse
import math
import resource
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchlib.cost import activation_bytes, clock, counted_gflop, state_bytes
from benchlib.photos import BenchError
from benchlib.results import check_targets, write_json

from maerestore.errors import MaerestoreError
from maerestore.train.pretrain import Pretrainer
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.values import RecipeError

RESERVE = 0.85  # share of a GPU's memory to plan with: temporaries, fragments, the libraries' own


@dataclass(frozen=True)
class Stage:
    """What one side of the recipe's crops costs.

    Attributes:
        side: of the crops, in pixels.
        samples: seen at this side.
        gflop: forward and backward of one image, 10^9 operations.
        fixed: bytes kept for the backward pass whatever the batch is: weights in half precision.
        image: bytes kept for one image.
        losses: of the steps that were tried.
        seconds: of the last of them.
    """

    side: int
    samples: int
    gflop: float
    fixed: int
    image: int
    losses: list[float]
    seconds: float


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's setting")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="to plan for (default 8)")
    parser.add_argument("--memory", type=float, default=80, metavar="GB", help="of each, 10^9 bytes (default 80)")
    parser.add_argument("--tflops", type=float, default=250, help="of each that reach the model (default 250)")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="of the steps that are tried (default 4)")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="that are tried at each side (default 2)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args(argv)
    for name in ("gpus", "memory", "tflops", "images", "steps"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    if args.images < 2:
        parser.error("--images must be at least 2: what one image keeps is a difference")
    return args


def try_out(recipe: PretrainRecipe, images: int, steps: int, cpu: bool) -> tuple[dict[str, Any], list[Stage]]:
    """Build the model, and take some steps at each side that the run comes to.

    Returns:
        facts about the model and the device; the stages.

    Raises:
        RecipeError: the loss of a step is not a number, or the recipe has a contrastive loss.
    """
    if recipe.contrastive is not None:
        raise RecipeError(
            "the costs of a contrastive loss are not known here: plan without it (--set contrastive=null)"
        )
    rate = recipe.base_lr * recipe.batch_size / images  # what a whole batch would have
    holes = min(64, recipe.mask_count)
    small = recipe.but(batch_size=images, accumulate=1, base_lr=rate, compile=False, mask_count=holes)
    stages = []
    with tempfile.TemporaryDirectory() as folder:
        run = Pretrainer(small, f"fake:{max(16, images)}", Path(folder), cpu=cpu, workers=0)
        reached = [(start, side) for start, side in recipe.resolution if start < recipe.samples]
        ends = [*(start for start, _ in reached[1:]), recipe.samples]
        for (start, side), end in zip(reached, ends, strict=True):
            run.samples, losses, seconds = start, [], 0.0
            for _ in range(steps):
                before = clock(run.device)
                terms, _ = run._train_step(timed=False)
                losses.append(float(terms["loss"]))
                seconds = clock(run.device) - before
            if not all(map(math.isfinite, losses)):
                raise RecipeError(f"the loss at {side} px is {losses}: lower base_lr")
            one, two = (activation_bytes(run, n) for n in (images // 2, images))
            image = (two - one) // (images - images // 2)
            stages.append(
                Stage(side, end - start, counted_gflop(run), max(0, two - images * image), image, losses, seconds)
            )
        model = run.model
        decoder = sum(p.numel() for name, p in model.named_parameters() if name.startswith("decoder_"))
        facts = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "decoder_parameters": decoder,
            "states": state_bytes(run),
            "device": torch.cuda.get_device_name() if run.device.type == "cuda" else "CPU",
            "peak_bytes": (
                torch.cuda.max_memory_allocated()
                if run.device.type == "cuda"
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            ),
        }
    return facts, stages


def split(
    recipe: PretrainRecipe, facts: dict[str, Any], stages: list[Stage], gpus: int, memory: float
) -> dict[str, Any]:
    """How a batch is divided, so that a part fits into a GPU.

    Returns:
        images that fit at a time, accumulate, and the bytes that a part then takes.

    Raises:
        RecipeError: the batch does not divide by the GPUs, or one image does not fit.
    """
    if recipe.batch_size % gpus:
        raise RecipeError(f"batch_size {recipe.batch_size} does not split over {gpus} GPUs")
    states, each = sum(facts["states"].values()), recipe.batch_size // gpus
    worst = max(stages, key=lambda stage: stage.image)
    room = math.floor((RESERVE * memory * 1e9 - states - worst.fixed) / worst.image)
    fitting = [parts for parts in range(1, each + 1) if each % parts == 0 and each // parts <= room]
    if not fitting:
        raise RecipeError(
            f"{memory:g} GB hold the states ({states / 1e9:.1f} GB), but not one image of {worst.side} px"
        )
    micro = each // fitting[0]
    return {
        "images_that_fit": room,
        "accumulate": fitting[0],
        "images_at_a_time": micro,
        "bytes": states + worst.fixed + micro * worst.image,
    }


def report(
    args: argparse.Namespace,
    recipe: PretrainRecipe,
    facts: dict[str, Any],
    stages: list[Stage],
    plan: dict[str, Any],
) -> None:
    """Print the plan."""
    decoder, gpus = facts["decoder_parameters"], args.gpus
    print(f"model      {(facts['parameters'] - decoder) / 1e6:.1f} M parameters encode, {decoder / 1e6:.1f} M decode")
    states = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in facts["states"].items())
    print(f"states     {sum(facts['states'].values()) / 1e9:.2f} GB on every GPU: {states}")
    for stage in stages:
        losses = " -> ".join(f"{loss:.3f}" for loss in stage.losses)
        print(
            f"{stage.side:4} px    {stage.gflop:.1f} GFLOP and {stage.image / 1e6:.1f} MB an image, "
            f"{stage.samples / 1e6:g} M samples; "
            f"tried {args.steps} x {args.images}: loss {losses}, {stage.seconds:.1f} s a step"
        )
    print(f"tried on   {facts['device']}, {facts['peak_bytes'] / 1e9:.1f} GB at most")
    print(
        f"plan       batch {recipe.batch_size} on {gpus} x {args.memory:g} GB: {plan['images_that_fit']} images fit, "
        f"{plan['images_at_a_time']} at a time take {plan['bytes'] / 1e9:.0f} GB"
    )
    print(
        f"time       {plan['flop']:.2e} operations: {plan['gpu_hours']:.1f} GPU hours at {args.tflops:g} TFLOP/s, "
        f"{plan['gpu_hours'] / gpus:.1f} hours on {gpus}"
    )
    launch = "accelerate launch" + (f" --multi_gpu --num_processes {gpus}" if gpus > 1 else "")
    settings = "".join(f" --set {shlex.quote(item)}" for item in [*args.set, f"accumulate={plan['accumulate']}"])
    recipe_file = shlex.quote(str(args.recipe))
    print(f"launch     {launch} -m maerestore pretrain {recipe_file} --data 'SHARDS' -o RUN{settings}")


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        check_targets(args.json)
        recipe = load_recipe(args.recipe, args.set)
        facts, stages = try_out(recipe, args.images, args.steps, args.cpu)
        plan = split(recipe, facts, stages, args.gpus, args.memory)
    except (MaerestoreError, BenchError) as err:
        print(f"plan_pretrain: {err}", file=sys.stderr)
        return 2
    flop = sum(stage.samples * stage.gflop * 1e9 for stage in stages)
    plan |= {"gpus": args.gpus, "flop": flop, "gpu_hours": flop / (args.tflops * 1e12) / 3600}
    report(args, recipe, facts, stages, plan)
    if args.json:
        figures = {**facts, "stages": [vars(stage) for stage in stages], **plan, "recipe": recipe.to_dict()}
        write_json(args.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
