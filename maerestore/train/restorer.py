"""Training of the refiner, on a frozen autoencoder or together with it."""

from __future__ import annotations

import contextlib
import copy
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maerestore.hub.config import read_notes
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import resolve_model
from maerestore.hub.files import CONFIG_NAME
from maerestore.hub.load import load_autoencoder
from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_networks
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer
from maerestore.model.smooth import smooth_fill
from maerestore.train.adversary import build_adversary
from maerestore.train.checkpoint import CHECKPOINT, read_state
from maerestore.train.losses import Composite
from maerestore.train.masks import HoleBanks
from maerestore.train.restorer_losses import RestorerCriterion, paste
from maerestore.train.restorer_recipe import RestorerRecipe
from maerestore.train.run import TrainingRun
from maerestore.train.validate import RestorerValidation
from maerestore.train.values import RecipeError


class RestorerBatch(NamedTuple):
    """What a step sees of n photos.

    Attributes:
        photos: (n, 3, side, side), normalised.
        smooth: alike, with a smooth fill in the holes.
        holes, weights: (n, 1, side, side).
        seen_side: the side that the autoencoder sees them at.
    """

    photos: Tensor
    smooth: Tensor
    holes: Tensor
    weights: Tensor
    seen_side: int


class RestorerObjective(nn.Module):
    """A pass through the restorer and the criterion: what is differentiated, and shared by processes."""

    def __init__(self, restorer: Restorer, criterion: RestorerCriterion) -> None:
        super().__init__()
        self.restorer, self.criterion = restorer, criterion

    def forward(
        self, photos: Tensor, smooth: Tensor, holes: Tensor, weights: Tensor, seen_side: int
    ) -> tuple[Tensor, dict[str, Tensor], Composite]:
        """Fill and compare; arguments as in `RestorerBatch`.

        Returns:
            the loss, its terms by name, and the sharp picture in its photo.
        """
        restored = self.restorer(photos, holes, smooth, (seen_side, seen_side))
        pasted = paste(self.restorer, photos, restored.sharp, holes)
        loss, terms = self.criterion(photos, restored, weights, pasted)
        return loss, terms, pasted


class RestorerTrainer(TrainingRun[RestorerRecipe, RestorerBatch]):
    """A run that trains a refiner; arguments as for `TrainingRun`.

    `init` names the model to start from, as `maerestore.hub.fetch.resolve_model` takes it (None: the bundled one). If
    it has a refiner of the recipe's settings, that one is trained on. The model is saved with both networks, and keeps
    the notes of the one that it came from. A run that is resumed no longer needs that one, and takes no other.
    """

    model: Restorer
    average: Restorer
    ignored: str | None = None  # another model that a resumed run was told to start from

    def _build(self, init: str | Path | None) -> RestorerObjective:
        recipe = self.recipe
        self.source = _place(init)
        if self.saved:
            autoencoder, refiner = self._started()
        else:
            folder = resolve_model(None if init is None else str(init))
            autoencoder, refiner = load_autoencoder(folder, need_decoder=True), load_refiner(folder)
            self.notes = read_notes(folder)  # now: the run may save over it, or outlive it
        config = RefinerConfig(**{"feature_dim": autoencoder.config.decoder_embed_dim, **recipe.refiner})
        if refiner is None or refiner.config != config:
            refiner = Refiner(config)
        self.model = Restorer(autoencoder, refiner).to(self.device)
        self.model.refiner.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.banks = HoleBanks(recipe, 1, self.device, self.workers)
        criterion = RestorerCriterion(recipe.loss).to(self.device)
        if criterion.perceptual is not None:
            criterion.perceptual.shapes(min(recipe.validation_side, *recipe.sides_between(0)))
        self.adversary = build_adversary(recipe.adversarial, 3, self.device)
        self.smooth_fill = smooth_fill
        if recipe.compile:
            self._compile(criterion)
        return RestorerObjective(self.model, criterion)

    def _compile(self, criterion: RestorerCriterion) -> None:
        """Compile what is made of many small operations, once for each side that the run goes through."""
        self.smooth_fill = torch.compile(smooth_fill, dynamic=False)
        self.model.refiner.compile(dynamic=False)
        if criterion.perceptual is not None:
            criterion.perceptual.compile(dynamic=False)
        if self.adversary is not None:
            self.adversary.compile()

    def _started(self) -> tuple[MaskedAutoencoder, None]:
        """An autoencoder for the weights of the run's checkpoint; notes and source are those that it started with."""
        state = read_state(self.out / CHECKPOINT)
        asked, self.source = self.source, state.get("source", self.source)
        if self.source not in (asked, os.path.abspath(asked)):  # the second where its folder is gone
            self.ignored = asked
        self.notes = state.get("notes", {})
        model = self.out / "model"
        if (model / CONFIG_NAME).is_file():  # fitted anew since, maybe; and runs of before kept no others
            self.notes = read_notes(model)
        return MaskedAutoencoder(MAEConfig.from_dict(state["config"])).eval(), None  # as one that is read

    def _introduce(self) -> None:
        super()._introduce()
        if self.ignored:
            self.progress.line(f"the run goes on with what it started from, {self.source}: not with {self.ignored}")

    def _batch(self, part: slice) -> RestorerBatch:
        recipe, total, side = self.recipe, self.recipe.batch_size, self.recipe.side(self.samples)
        generator = self._generator()
        rng = np.random.default_rng((recipe.seed, self.step))  # one ratio for all: a batch has one shape
        ratios, odds = list(recipe.ratios), np.array(list(recipe.ratios.values()))
        ratio = ratios[int(rng.choice(len(ratios), p=odds / odds.sum()))]
        images = self.corpus.random_crops(total, part, side, recipe.crop_scale, generator, recipe.flip, recipe.native)
        photos = self.model.autoencoder.normalize(images.expand(-1, 3, -1, -1))
        holes, weights = self.banks.at(side, self.samples).holes_only(total, part, generator)
        seen_side = recipe.seen_side(side, ratio, self.model.autoencoder.config.patch_size)
        photos = photos.contiguous(memory_format=torch.channels_last)
        return RestorerBatch(photos, self.smooth_fill(photos, holes), holes, weights, seen_side)

    def _compare(self, batch: RestorerBatch, pasted: bool) -> tuple[Tensor, dict[str, Tensor], Composite | None]:
        loss, terms, shown = self.objective(*batch)
        return loss, terms, shown if pasted else None

    def _prepare_validation(self) -> bool:
        images = self.corpus.centre_crops(self.recipe.validation_images, self.recipe.validation_side)
        self.validation = RestorerValidation(images.expand(-1, 3, -1, -1)) if len(images) else None
        return self.validation is not None

    def _measure(self) -> tuple[dict[str, float], Image.Image]:
        assert self.validation is not None
        perceptual = self.accelerator.unwrap_model(self.objective).criterion.perceptual
        return (
            # Its forward as it is: where it was compiled, that was for the sides of training.
            self.validation.measure(self.average, None if perceptual is None else perceptual.forward),
            self.validation.picture(self.average),
        )

    def _save_model(self, training: dict[str, Any]) -> None:
        folder, before = self.out / "model", None
        if self.saved:
            with contextlib.suppress(ModelError):  # one that cannot be read is replaced
                self.notes = read_notes(folder)  # fit_blend.py may have fitted it since the last time
                before = read_refiner_notes(folder).get("samples")
        joint = any(p.requires_grad for p in self.model.autoencoder.parameters())
        if joint and "fill" in self.notes and before != training["samples"]:
            self.outdated = True
        save_networks(
            self.average.autoencoder,
            folder,
            refiner=self.average.refiner,
            fill=self.notes.get("fill"),
            training=self.notes.get("training"),
            refiner_training=training,
            dtype=torch.float16,
        )
        self.saved = True

    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        state = read_state(path)
        mine = {name: self._facts()[name] for name in ("config", "refiner")}
        differ = [name for name in mine if state.get(name) != mine[name]]
        if differ:
            raise RecipeError(f"{path}: was trained with another {', '.join(differ)} than the recipe's")
        return state

    def _facts(self) -> dict[str, Any]:
        return {
            "config": asdict(self.model.autoencoder.config),
            "refiner": self.model.refiner.config.to_dict(),
            "notes": self.notes,
            "source": self.source,
        }


def _place(init: str | Path | None) -> str:
    """What a run starts from, in words that say the same in another folder."""
    if init is None:
        return "the bundled model"
    return os.path.abspath(init) if os.path.exists(init) else str(init)
