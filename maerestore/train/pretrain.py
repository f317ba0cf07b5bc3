"""Pretraining of the autoencoder: crops and masks, hide, encode, decode, compare."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maerestore.hub.config import read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.save import save_autoencoder
from maerestore.model import MaskedAutoencoder
from maerestore.train.adversary import build_adversary
from maerestore.train.checkpoint import initial_weights, read_checkpoint
from maerestore.train.contrastive import Contrast, ContrastiveObjective, ViewRetrieval
from maerestore.train.crops import cut, random_crops
from maerestore.train.losses import Composite, Criterion, composite
from maerestore.train.masks import HoleBanks, MaskBatch, MaskChoice, patch_masks
from maerestore.train.objective import Objective
from maerestore.train.phases import FREE_FORM
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.run import TrainingRun
from maerestore.train.teacher import Teacher
from maerestore.train.validate import Validation
from maerestore.train.values import RecipeError
from maerestore.train.views import two_views


class Views(NamedTuple):
    """Two views of each photograph for the contrastive loss.

    Attributes:
        images: (2 n, C, S, S), normalised; first views, then second ones.
        noise: (2 n, L), decides which patches are left out.
        crops: (2 n, C, S, S) in [0, 1], what they were made of; for a teacher.
    """

    images: Tensor
    noise: Tensor
    crops: Tensor | None


class PretrainBatch(NamedTuple):
    """What a step sees.

    Attributes:
        images: (n, C, side, side), normalised.
        masks: what is hidden of them.
        noise: (n, C, side, side), what stands in hidden patches, where the model takes that.
        views: of the photographs, for a contrastive loss.
    """

    images: Tensor
    masks: MaskBatch
    noise: Tensor | None = None
    views: Views | None = None


class Pretrainer(TrainingRun[PretrainRecipe, PretrainBatch]):
    """A pretraining run; arguments as for `TrainingRun`.

    `init` is a model, or the checkpoint of another run, whose weights this one starts from.
    """

    model: MaskedAutoencoder
    average: MaskedAutoencoder

    def _build(self, init: str | Path | None) -> Objective:
        recipe, self.told_init = self.recipe, init
        self.model = MaskedAutoencoder(recipe.config).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.cut = torch.compile(cut, dynamic=False) if recipe.compile else cut
        self.banks = HoleBanks(recipe, recipe.config.patch_size, self.device, self.workers)
        criterion = Criterion(recipe.loss, recipe.config).to(self.device)
        self.adversary = build_adversary(recipe.adversarial, recipe.config.in_chans, self.device)
        if init is not None and not self.saved:
            weights = initial_weights(init, recipe.config)
            self.model.load_state_dict(weights)
            self.average.load_state_dict(weights)
        if recipe.contrastive is None:
            return Objective(self.model, criterion)
        if self.layout.micro % recipe.contrastive.reconstruct:
            raise RecipeError(
                f"contrastive.reconstruct {recipe.contrastive.reconstruct} does not divide the {self.layout.micro} "
                "photographs of a process (and of a part, with accumulate)"
            )
        try:
            settings = recipe.contrastive.teacher
            self.teacher = None if settings is None else Teacher(settings).to(self.device)
        except ModelError as err:
            raise ModelError(f"contrastive.teacher: {err}") from err
        length = self.teacher.dim if self.teacher is not None else 0
        self.contrast = Contrast(recipe.contrastive, recipe.config, length).to(self.device)
        return ContrastiveObjective(self.model, criterion, self.contrast)

    def _introduce(self) -> None:
        super()._introduce()
        if self.told_init is not None and self.samples:
            self.progress.line(f"it goes on from its own checkpoint: {self.told_init} counts where a run begins")

    def _batch(self, part: slice) -> PretrainBatch:
        recipe, total, side = self.recipe, self.recipe.batch_size, self.recipe.side(self.samples)
        generator = self._generator()
        canvas, sizes = self.corpus.canvases(total, part, generator)
        views = None
        if recipe.contrastive is not None:
            views = self._views(canvas, sizes, part, generator)
            every = recipe.contrastive.reconstruct
            canvas, sizes = canvas[::every], sizes[::every]
            total, part = total // every, slice(part.start // every, part.stop // every)
        phase = recipe.phase(self.samples)
        choice = MaskChoice.draw(phase, np.random.default_rng((recipe.seed, self.step)))
        images = random_crops(canvas, sizes, total, part, side, recipe.crop_scale, generator, recipe.flip, self.cut)
        images = self.model.normalize(self._channels(images))
        if choice.policy == FREE_FORM:
            return PretrainBatch(
                images, self.banks.at(side, self.samples).masks(choice, total, part, generator), views=views
            )
        grid = side // recipe.config.patch_size
        masks = patch_masks(choice, total, part, grid, generator, lambda: self._responses(images))
        if recipe.config.mask_embed:  # every parameter takes part in every step, as several processes need
            masks.pixel_mask = torch.zeros(len(images), 1, side, side, device=self.device)
        noise = None
        if recipe.config.hidden == "noise":
            noise = torch.randn(total, *images.shape[1:], generator=generator, device=self.device)[part]
        return PretrainBatch(images, masks, noise, views)

    def _compare(self, batch: PretrainBatch, pasted: bool) -> tuple[Tensor, dict[str, Tensor], Composite | None]:
        masks, views = batch.masks, batch.views
        seen = batch.images, masks.mask, masks.num_visible, masks.pixel_mask, masks.pixel_weight, batch.noise
        if self.recipe.contrastive is None or views is None:
            loss, terms, pred = self.objective(*seen)
        else:
            head_only = self.samples < self.recipe.contrastive.head_samples
            wanted = self._wanted(views.crops)
            loss, terms, pred = self.objective(*seen, views.images, views.noise, head_only, wanted)
        shown = composite(self.model, batch.images, pred, masks.mask, masks.pixel_weight) if pasted else None
        return loss, terms, shown

    def _views(self, canvas: Tensor, sizes: Tensor, part: slice, generator: torch.Generator) -> Views:
        settings, total = self.recipe.contrastive, self.recipe.batch_size
        assert settings is not None
        side = settings.side or self.recipe.side(self.samples)
        views, crops = two_views(canvas, sizes, total, part, side, settings.views, generator)
        length = (side // self.recipe.config.patch_size) ** 2
        noise = torch.rand(2, total, length, generator=generator, device=self.device)[:, part].flatten(0, 1)
        views, crops = (self._channels(each.flatten(0, 1)) for each in (views, crops))
        return Views(self.model.normalize(views), noise, None if self.teacher is None else crops)

    def _wanted(self, crops: Tensor | None) -> Tensor | None:
        """What the teacher makes of (2 n, C, S, S) crops, undistorted: (2 n, teacher_dim)."""
        if self.teacher is None or crops is None:
            return None
        with self.accelerator.autocast():
            found: Tensor = self.teacher(crops)
            return found

    @torch.no_grad()
    def _responses(self, images: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.average.responses(images)

    def _channels(self, images: Tensor) -> Tensor:
        """Gray to RGB or RGB to gray, as the model wants it."""
        if images.shape[1] == self.recipe.config.in_chans:
            return images
        return images.mean(1, keepdim=True) if self.recipe.config.in_chans == 1 else images.expand(-1, 3, -1, -1)

    def _prepare_validation(self) -> bool:
        # At the model's own size, whatever side is trained on at the moment.
        images = self.corpus.centre_crops(self.recipe.validation_images, self.recipe.config.image_size)
        self.validation = Validation(self._channels(images)) if len(images) else None
        if self.recipe.contrastive is not None and len(images):
            canvas, sizes = self.corpus.held_out(self.recipe.validation_images)
            count, side = len(canvas), self.recipe.config.image_size
            generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
            views, crops = two_views(canvas, sizes, count, slice(count), side, self.recipe.contrastive.views, generator)
            views, crops = (torch.stack([self._channels(each) for each in pair]) for pair in (views, crops))
            self.retrieval = ViewRetrieval(views, self._wanted(crops.flatten(0, 1)))
        return self.validation is not None

    def _measure(self) -> tuple[dict[str, float], Image.Image]:
        assert self.validation is not None
        figures = self.validation.measure(self.average)
        if isinstance(self.contrast, Contrast):
            figures |= self.retrieval.measure(self.average, self.contrast)
        return figures, self.validation.picture(self.average)

    def _save_model(self, training: dict[str, Any]) -> None:
        folder = self.out / "model"
        notes: dict[str, dict[str, Any]] = {}
        if self.saved:
            with contextlib.suppress(ModelError):  # one that cannot be read is replaced
                notes = read_notes(folder)
        fill = notes.get("fill")  # by fit_blend.py, maybe since the last time
        if fill and notes.get("training", {}).get("samples") != training["samples"]:
            self.outdated = True
        save_autoencoder(self.average, folder, training, fill)
        self.saved = True

    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        return read_checkpoint(path, self.recipe.config)

    def _facts(self) -> dict[str, Any]:
        return {"config": asdict(self.recipe.config)}
