"""The pretraining loop, on Hugging Face accelerate: one process or many, CPU or GPU.

Every step draws its crops and masks from a generator seeded with (seed, step, process), so a run that stops and resumes
computes the same as one that never stopped, without storing the state of any generator.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from maerestore.hub.load import load_autoencoder
from maerestore.hub.save import save_autoencoder
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.train.data import MaskBank, MaskBatch, PackedPhotos
from maerestore.train.optim import build_optimizers, set_lr, update_ema
from maerestore.train.recipe import PretrainRecipe, RecipeError
from maerestore.train.validate import Validation


def _one_of(span: tuple[float, float], rng: np.random.Generator) -> float:
    """One of five values spread over a range: each is a shape for torch.compile, so there must not be many."""
    return span[0] + (span[1] - span[0]) * int(rng.integers(5)) / 4


class Pretrainer:
    """One run: build it, then `run()`.

    A run folder holds `checkpoint.pt` (to resume from), `model/` (the averaged weights, as a Hub repository would hold
    them), `log.jsonl` and `fills-*.jpg`, the validation pictures.

    Args:
        recipe: what to compute.
        data: a packed folder.
        out: the run folder.
        cpu: stay on the CPU even if there is an accelerator.
        init: a model folder, or the checkpoint of another run, whose weights this one starts from; where `out` has a
            checkpoint, that one is resumed instead.
    """

    def __init__(
        self, recipe: PretrainRecipe, data: Path, out: Path, cpu: bool = False, init: Path | None = None
    ) -> None:
        self.recipe, self.out = recipe, out
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if recipe.precision == "bf16" else "no")
        self.device = self.accelerator.device
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        self.model = MaskedAutoencoder(recipe.config).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = build_optimizers(self.model, recipe)
        self.step = self.samples = 0
        self.photos = PackedPhotos(data, self.device)
        self.banks: dict[int, MaskBank] = {}
        self.stop = False

        if (out / "checkpoint.pt").is_file():
            self._resume(out / "checkpoint.pt")
        elif init is not None:
            self._start_from(init)
        prepared = self.accelerator.prepare(self.model, *self.optimizers)
        self.wrapped, self.optimizers = prepared[0], list(prepared[1:])
        self.forward = torch.compile(self.wrapped) if recipe.compile else self.wrapped
        # Validation runs at the model's own size, whatever side is trained on at the moment.
        held = self.photos.held_ids[: recipe.validation_images]
        self.validation = (
            Validation(self._channels(self.photos.centre_crops(held, recipe.config.image_size))) if len(held) else None
        )

    def run(self) -> dict[str, float]:
        """Train until `recipe.samples` were seen or SIGTERM or SIGINT arrives.

        Returns:
            the last validation's figures; empty where no photograph was held out.
        """
        recipe, main = self.recipe, self.accelerator.is_main_process
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        bar = tqdm(
            total=recipe.samples,
            initial=self.samples,
            unit="img",
            unit_scale=True,
            disable=not main,
            dynamic_ncols=True,
            mininterval=2.0,
        )
        if main:
            self.out.mkdir(parents=True, exist_ok=True)
        figures: dict[str, float] = {}
        losses: list[torch.Tensor] = []
        mark, mark_samples, data_seconds = time.perf_counter(), self.samples, 0.0
        try:
            while self.samples < recipe.samples and not self._stopping():
                loss, waited = self._train_step(timed=self._due(recipe.log_every))
                losses.append(loss)
                bar.update(recipe.batch_size)
                if waited is not None:
                    data_seconds = waited
                if self._due(recipe.log_every):
                    now = time.perf_counter()
                    rate = (self.samples - mark_samples) / (now - mark)
                    mean = float(torch.stack(losses).mean())
                    self._log(
                        {
                            "loss": mean,
                            "images_per_second": rate,
                            "data_share": data_seconds,
                            "lr": recipe.lr * recipe.lr_factor(self.samples),
                            "side": recipe.side(self.samples),
                        }
                    )
                    bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                    losses, mark, mark_samples = [], now, self.samples
                    if not np.isfinite(mean):
                        raise RuntimeError(f"the loss became {mean} after {self.samples} samples: lower base_lr")
                if self._due(recipe.validate_every):
                    figures = self._validate()
                    mark, mark_samples = time.perf_counter(), self.samples
                if self._due(recipe.save_every):
                    self._save()
            if not self._due(recipe.validate_every) or not figures:
                figures = self._validate()
            self._save()
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return figures

    # --- one step -----------------------------------------------------------------------------------------------

    def _train_step(self, timed: bool) -> tuple[torch.Tensor, float | None]:
        recipe, accelerator = self.recipe, self.accelerator
        start = self._clock() if timed else 0.0
        images, masks = self._batch()
        ready = self._clock() if timed else 0.0
        set_lr(self.optimizers, recipe.lr * recipe.lr_factor(self.samples))
        output = self.forward(
            images,
            mask=masks.mask,
            pixel_mask=masks.pixel_mask,
            pixel_weight=masks.pixel_weight,
            num_visible=masks.num_visible,
        )
        accelerator.backward(output.loss)
        accelerator.clip_grad_norm_(self.wrapped.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += recipe.batch_size
        update_ema(self.average, self.model, recipe.ema_decay, self.step)
        share = (ready - start) / max(self._clock() - start, 1e-9) if timed else None
        return output.loss.detach(), share

    def _batch(self) -> tuple[torch.Tensor, MaskBatch]:
        recipe, processes = self.recipe, self.accelerator.num_processes
        generator = torch.Generator(self.device)
        generator.manual_seed(recipe.seed * 1_000_003 + self.step * processes + self.accelerator.process_index)
        choice = np.random.default_rng((recipe.seed, self.step))  # the same in every process: equal shapes
        count, side = recipe.batch_size // processes, recipe.side(self.samples)
        images = self.photos.random_crops(count, side, recipe.crop_scale, generator)
        bank = self._bank(side)
        if choice.uniform() < recipe.free_form:
            bucket = int(choice.integers(MaskBank.BUCKETS))
            masks = bank.free_form(count, generator, bucket, _one_of(recipe.free_form_drop, choice))
        else:
            masks = bank.random_patches(count, _one_of(recipe.mask_ratio, choice), generator)
            if recipe.config.mask_embed:  # every parameter takes part in every step, as several processes need
                masks.pixel_mask = torch.zeros(count, 1, side, side, device=self.device)
        return self.model.normalize(self._channels(images)), masks

    def _channels(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(1, keepdim=True) if self.recipe.config.in_chans == 1 else images

    def _bank(self, side: int) -> MaskBank:
        if side not in self.banks:
            recipe = self.recipe
            self.banks = {
                side: MaskBank(
                    side,
                    recipe.config.patch_size,
                    recipe.families,
                    recipe.mask_count,
                    max(1, recipe.rim_width * side // 128),
                    recipe.rim_weight,
                    recipe.seed,
                    self.device,
                )
            }
        return self.banks[side]

    # --- around it ----------------------------------------------------------------------------------------------

    def _due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of `every` samples."""
        return self.step > 0 and self.samples // every > (self.samples - self.recipe.batch_size) // every

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _stopping(self) -> bool:
        """Whether a signal came; several processes ask each other every few steps, so that all end at the same one."""
        if self.accelerator.num_processes == 1:
            return self.stop
        if self.step % 16:
            return False
        flag = torch.tensor([float(self.stop)], device=self.device)
        return float(self.accelerator.reduce(flag, "sum")) > 0

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stop = True  # the loop ends after this step, and saves

    def _log(self, values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": self.step, "samples": self.samples, **values}
            with (self.out / "log.jsonl").open("a") as sink:
                sink.write(json.dumps(record) + "\n")

    def _validate(self) -> dict[str, float]:
        if self.validation is None or not self.accelerator.is_main_process:
            return {}
        figures = self.validation.measure(self.average)
        self._log(figures)
        tqdm.write(f"{self.samples} samples: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        self.validation.picture(self.average).save(self.out / f"fills-{self.samples:09d}.jpg", quality=88)
        return figures

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "samples": self.samples,
            "recipe": self.recipe.to_dict(),
            "config": asdict(self.recipe.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        partial = self.out / f".checkpoint-{os.getpid()}.pt"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")
        save_autoencoder(self.average, self.out / "model", {"samples": self.samples, "data": self.photos.sha256})

    def _resume(self, path: Path) -> None:
        """Take over a checkpoint of this run: weights, optimisers and the place in the run."""
        state = self._read(path)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples = state["step"], state["samples"]

    def _start_from(self, init: Path) -> None:
        """Take over weights: a model folder's, or the averaged ones of another run's checkpoint."""
        if init.is_dir():
            source = load_autoencoder(init)
            self._check_config(init, source.config)
            weights = source.state_dict()
        else:
            weights = self._read(init)["average"]
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            config = MAEConfig.from_dict(state["config"])
        except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as err:
            raise RecipeError(f"{path}: not a checkpoint of this package ({str(err).splitlines()[0]})") from err
        self._check_config(path, config)
        return state

    def _check_config(self, source: Path, config: MAEConfig) -> None:
        ours, theirs = self.recipe.config.to_dict(), config.to_dict()
        other = [name for name in ours if ours[name] != theirs[name]]
        if other:
            raise RecipeError(f"{source}: was trained with another {', '.join(other)} than the recipe's")
