"""What every training run does around its steps: log, validation, saving, resuming; one process or many.

On Hugging Face accelerate. Every step draws what is random from a generator seeded with (seed, step), for the whole
batch; each process then takes its part. So a run that stops and resumes computes what one that never stopped does,
without storing the state of any generator, and several processes compute what one would (on a GPU up to rounding: which
kernels are fastest is found out anew). Tar shards that stream in are the exception: their order is another one then
(`maerestore.train.streams`).
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from PIL import Image
from torch import Tensor, nn

from maerestore.image.errors import reason_of
from maerestore.precision import trains_in_bf16
from maerestore.train.adversary import Adversary
from maerestore.train.checkpoint import CHECKPOINT, write_checkpoint
from maerestore.train.compilation import compile_blocks
from maerestore.train.corpus import Corpus, Layout
from maerestore.train.log import Meter, Progress, RunLog
from maerestore.train.losses import Composite
from maerestore.train.masks import HoleBanks
from maerestore.train.optim import build_optimizers, set_lr, update_ema
from maerestore.train.packing import DataError
from maerestore.train.run_recipe import RunRecipe
from maerestore.train.sources import open_corpus
from maerestore.train.stopping import StopSignals, WaitEnded
from maerestore.train.trained import Trained
from maerestore.train.values import RecipeError, changes
from maerestore.train.workers import was_killed

Recipe = TypeVar("Recipe", bound=RunRecipe)
Batch = TypeVar("Batch")

PATIENCE = timedelta(hours=12)  # of a process for the others: one decodes the photographs, and saves and validates


class TrainingRun(ABC, Generic[Recipe, Batch]):
    """One run: build it, then `run()`.

    A run folder holds `checkpoint.pt` (to resume from), `model/` (the averaged weights, as a Hub repository would hold
    them), `log.jsonl`, `tensorboard/`, and `fills-*.jpg`, the validation pictures.

    Args:
        recipe: what to compute.
        data: what `maerestore.train.sources.open_corpus` opens.
        out: the run folder.
        cpu: stay on the CPU even if there is an accelerator.
        init: what to start from; where `out` has a checkpoint, that one is resumed instead.
        workers: processes that decode photographs and draw holes.

    Attributes:
        model: what is trained.
        average: the moving average of its weights.
        banks: the free-form holes it is shown.
        adversary: the discriminator beside it, or None.
        contrast: the head of a contrastive loss beside it, or None.

    Raises:
        RecipeError: settings that do not fit each other, the checkpoint or the number of processes.
        DataError: no photographs there.
    """

    model: nn.Module
    average: nn.Module
    banks: HoleBanks
    adversary: Adversary | None
    contrast: nn.Module | None = None
    outdated: bool = False  # whether settings of fills were fitted for weights of before

    def __init__(
        self,
        recipe: Recipe,
        data: str | Path,
        out: Path,
        cpu: bool = False,
        init: str | Path | None = None,
        workers: int = 4,
    ) -> None:
        self.recipe, self.out, self.workers = recipe, out, workers
        self.saved = (out / CHECKPOINT).is_file()  # whether the folder's model is one of this run
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if trains_in_bf16(recipe.precision, cpu) else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.device = self.accelerator.device
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # pictures have few shapes
            # cuDNN's attention plans for a fifth of a second at every new number of tokens.
            torch.backends.cuda.enable_cudnn_sdp(False)
        try:
            self.layout = Layout(
                recipe.batch_size, self.accelerator.num_processes, self.accelerator.process_index, recipe.accumulate
            )
            objective = self._build(init)
        except (ValueError, TypeError, AttributeError) as err:  # options of another type than they should have, too
            raise RecipeError(reason_of(err)) from err
        self.optimizers = build_optimizers(self.model, recipe, self.contrast)
        self.step = self.samples = 0
        self.changed: list[str] = []  # since the part of the run that is resumed
        self.signals = StopSignals()
        # What is decoded once, is decoded by one; where machines share no folder, by one on each.
        with self.accelerator.main_process_first(), self.accelerator.local_main_process_first():
            self.corpus: Corpus = open_corpus(
                str(data), self.device, recipe.decoded_side, self.layout, out, recipe.resident_gb, workers, recipe.seed
            )
        if self.saved:
            self._resume(out / CHECKPOINT)
        self._check_processes()
        self.corpus.seek(self.samples)
        if recipe.compile:
            compile_blocks(self.model)
        prepared = self.accelerator.prepare(objective, *self.optimizers)
        self.objective, self.optimizers = prepared[0], list(prepared[1:])

    # --- what a kind of run says -----------------------------------------------------------------------------------

    @abstractmethod
    def _build(self, init: str | Path | None) -> nn.Module:
        """Set model, average and adversary; the objective, a module around the model, comes back."""

    @abstractmethod
    def _batch(self, part: slice) -> Batch:
        """Part of the step's batch, on the device."""

    @abstractmethod
    def _compare(self, batch: Batch, pasted: bool) -> tuple[Tensor, dict[str, Tensor], Composite | None]:
        """Run the model: the loss, its terms by name, and, where asked for, what an adversary is shown."""

    @abstractmethod
    def _prepare_validation(self) -> bool:
        """Get what is measured on; False where nothing was kept aside."""

    @abstractmethod
    def _measure(self) -> tuple[dict[str, float], Image.Image]:
        """Figures and a picture of the averaged model on what was kept aside."""

    @abstractmethod
    def _save_model(self, training: dict[str, Any]) -> None:
        """Write the averaged model to `model/`."""

    @abstractmethod
    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        """A checkpoint of a run like this one."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What a checkpoint says beside the weights: plain values."""

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train until `recipe.samples` were seen or SIGTERM or SIGINT arrives.

        Returns:
            the last validation's figures; empty where no photograph was held out.

        Raises:
            RecipeError: a loss or weights that are not finite, or a folder that cannot be written.
            DataError: photographs that cannot be read any more, or a decoding process that was killed.
        """
        main = self.accelerator.is_main_process
        figures: dict[str, float] = {}
        with self.signals:
            self.log = RunLog(self.out if main else None, self.samples)
            try:
                with self.signals.waiting():
                    self.validates = main and self._prepare_validation()
                with Progress(self.recipe.samples, self.samples, hidden=not main) as self.progress:
                    self._introduce()
                    figures = self._loop()
                    self._conclude()
            except WaitEnded:
                pass  # before the first step, or in one of several processes: there is nothing to be saved
            except RuntimeError as err:
                if not str(err).startswith("DataLoader worker"):
                    raise
                raise DataError(was_killed("a decoding process")) from err
            finally:
                self.corpus.close()
                self.banks.close()
                self.log.close()
        return figures

    def _loop(self) -> dict[str, float]:
        recipe, figures = self.recipe, {}
        accelerator = self.accelerator
        kept = -1  # the step last saved here; a run with nothing left to train saves, as its recipe may have changed
        meter = Meter(
            recipe.log_every, recipe.batch_size, self.step, self.samples, lambda each: accelerator.reduce(each, "mean")
        )
        while self.samples < recipe.samples and not self.signals.stopping(self.accelerator, self.step):
            try:
                meter.add(*self._train_step(meter.timed))
            except WaitEnded:
                if self.accelerator.num_processes > 1:
                    raise
                break  # what the step waited for comes before it changes anything
            self.progress.advance(recipe.batch_size)
            if self._due(recipe.log_every):
                self._log(meter.take())
            if self._due(recipe.save_every):
                meter.check()
                self._save()
                kept = self.step
            if self._due(recipe.validate_every):
                figures = self._validate()
                meter.restart()
        meter.check()
        if kept != self.step:
            self._save()  # at once: who sends a signal may not wait for a validation
        if not self.signals.number and not (self._due(recipe.validate_every) and figures):
            figures = self._validate()
        return figures

    def _introduce(self) -> None:
        corpus, say = self.corpus, self.progress.line
        left_out = f", {corpus.corrupt} corrupt files left out" if corpus.corrupt else ""
        say(f"{corpus.description}{left_out}; on {self.device}, {self.accelerator.num_processes} process(es)")
        if not self.validates and self.recipe.validation_images and self.accelerator.is_main_process:
            say("nothing is validated: one photograph in 64 is kept aside by its name, and here that is none")
        if self.samples:
            changed = f"; changed since: {', '.join(self.changed)}" if self.changed else ""
            say(f"going on from {self.samples:,} of {self.recipe.samples:,} samples{changed}")
        if self.samples >= self.recipe.samples:
            say(f"nothing is left to train: --set samples=N with a larger number than {self.recipe.samples:,} goes on")

    def _conclude(self) -> None:
        if self.samples < self.recipe.samples:
            self.progress.line(f"stopped and saved after {self.samples:,} samples: the same command goes on from here")
        else:
            self.progress.line(f"finished after {self.samples:,} samples; the model is {self.out / 'model'}")
        if self.corpus.corrupt:
            self.progress.line(f"{self.corpus.corrupt} corrupt files were left out")
        if self.outdated:
            self.progress.line("the model's fill settings were fitted before: fit them again (scripts/fit_blend.py)")

    def _train_step(self, timed: bool) -> tuple[dict[str, Tensor], tuple[float, float] | None]:
        """Returns the losses by name; and, if asked for, the seconds spent on data and on the whole step."""
        recipe, parts, adversary = self.recipe, self.layout.parts, self.adversary
        start = self._clock() if timed else 0.0
        waited = 0.0
        losses: dict[str, Tensor] = {}
        set_lr(self.optimizers, recipe.lr * recipe.lr_factor(self.samples))
        judged = adversary is not None and self.samples >= adversary.start
        for part in parts:
            mark = self._clock() if timed else 0.0
            with self.signals.waiting():
                batch = self._batch(part)
            waited += self._clock() - mark if timed else 0.0
            with contextlib.nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.objective):
                loss, terms, pasted = self._compare(batch, judged)
                if adversary is not None and pasted is not None:
                    shown = pasted.photo, pasted.picture, pasted.hidden
                    with self.accelerator.autocast():
                        judged_terms = adversary.generator_terms(*shown)
                    for name, value in judged_terms.items():
                        terms[name] = value
                        loss = loss + adversary.weights[name] * value
                self.accelerator.backward(loss / len(parts))
            if adversary is not None and pasted is not None:
                with self.accelerator.autocast():
                    verdicts = adversary.discriminator_step(*shown, share=1 / len(parts), last=part is parts[-1])
                terms |= {f"discriminator_{name}": value for name, value in verdicts.items()}
            for name, value in {"loss": loss, **terms}.items():
                losses[name] = losses.get(name, 0.0) + value.detach() / len(parts)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += recipe.batch_size
        update_ema(self.average, self.model, recipe.ema_decay, self.step)
        return losses, (waited, self._clock() - start) if timed else None

    def _generator(self) -> torch.Generator:
        """The step's randomness."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        return generator

    def _due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of `every` samples."""
        return self.step > 0 and self.samples // every > (self.samples - self.recipe.batch_size) // every

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _log(self, values: dict[str, float]) -> None:
        recipe = self.recipe
        values |= {"lr": recipe.lr * recipe.lr_factor(self.samples), "side": recipe.side(self.samples)}
        if self.corpus.corrupt:
            values["corrupt_files"] = self.corpus.corrupt
        if self.device.type == "cuda":
            values["gpu_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self.log.write(self.step, self.samples, values)
        self.progress.loss(values["loss"], values.get("gpu_gb"))

    def _validate(self) -> dict[str, float]:
        if not self.validates:
            return {}
        figures, picture = self._measure()
        self.log.write(self.step, self.samples, figures)
        self.log.picture(self.samples, picture)
        self.progress.line(f"{self.samples} samples: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        return figures

    # --- saving and resuming -----------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write checkpoint and model.

        Raises:
            RecipeError: weights that are not finite, in every process; or a folder that cannot be written.
        """
        if not self._trained.finite():  # of the step just made; the losses say it one step later
            raise RecipeError(f"weights are not finite after {self.samples} samples, and are not saved: lower base_lr")
        if self.accelerator.is_main_process:
            seen = {"samples": self.samples, "data": self.corpus.fingerprint}
            place = {"step": self.step, **seen, "recipe": self.recipe.to_dict(), **self._facts()}
            write_checkpoint(self.out / CHECKPOINT, place | self._trained.state_dict())
            self._save_model(seen)

    @property
    def _trained(self) -> Trained:
        return Trained(self.model, self.average, self.optimizers, self.adversary, self.contrast)

    def _resume(self, path: Path) -> None:
        """Take over a checkpoint of this run: weights, optimisers and the place in the run."""
        state = self._read_checkpoint(path)
        self._trained.load_state_dict(state, path)
        self.step, self.samples = state["step"], state["samples"]
        self.changed = changes(state.get("recipe"), self.recipe.to_dict())
        if state.get("data", self.corpus.fingerprint) != self.corpus.fingerprint:
            self.changed.append("the photographs")

    def _check_processes(self) -> None:
        """Processes on another machine must have found the same checkpoint."""
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.device))
        if int(steps.min()) != int(steps.max()):
            raise RecipeError(f"{self.out}: not every machine has the same {CHECKPOINT}: use a folder that all share")
