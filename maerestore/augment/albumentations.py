"""`MAEAugment` for albumentations 2.0: a masked-reconstruction view of the image targets."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
import torch
from albumentations.core.transforms_interface import BaseTransformInitSchema
from torch.utils.data import get_worker_info

from maerestore.augment.core import MaskedViews
from maerestore.augment.settings import ViewSettings

_ranks: Counter[tuple[int, int]] = Counter()  # how many transforms without a seed drew, by the worker's seed and salt


class MAEAugment(A.ImageOnlyTransform):
    """Hide part of an image and let a masked autoencoder rebuild it.

    Convention:
        Images are (H, W) or (H, W, C) uint8, or float32 in [0, 1]. Masks, boxes, keypoints and labels pass untouched.
        All images of a sample (`images`, additional targets, slices of a volume) are hidden alike; where attention
        guides, those of one target are. Random numbers come from the transform's own generators, a single one in
        `params`: `ReplayCompose` replays it. It serialises with the name of its model, never the weights; import this
        module before `A.from_dict`.

        albumentations 2.0 gives every worker of a DataLoader the same generators. Here they are made anew in each
        worker, from its seed (another for each worker and epoch) and that of the pipeline: results follow from
        `torch.manual_seed`, or the DataLoader's generator, together with the `seed` of `Compose`. A seed that is set
        in a worker, for each sample say, holds there as it is.

    Args:
        mask_ratio, strategy, blend, model, size: as for `maerestore.augment.settings.ViewSettings`.
        precision: "auto", "fp32" or "bf16"; see `maerestore.augment.core.MaskedViews`.
        p: probability that a sample is changed.

    Targets:
        image, images, volume, volumes

    Image types:
        uint8, float32

    Raises:
        MaerestoreError: an argument that does not fit, named.

    Reference: "Masked Autoencoders are Robust Data Augmentors", https://arxiv.org/abs/2206.04846.

    Example:
        >>> transform = A.Compose([MAEAugment(mask_ratio=(0.4, 0.75), p=0.5)], seed=1)
        >>> view = transform(image=np.zeros((224, 224, 3), np.uint8))["image"]          # doctest: +SKIP
    """

    class InitSchema(BaseTransformInitSchema):
        """The arguments there are; `ViewSettings` checks them, and says what is wrong in one line."""

        mask_ratio: Any
        strategy: Any
        blend: Any
        model: Any
        size: Any
        precision: Any

    def __init__(
        self,
        mask_ratio: float | tuple[float, float] = (0.4, 0.75),
        strategy: str = "random",
        blend: float = 1.0,
        model: str = "augment",
        size: int | None = None,
        precision: str = "auto",
        p: float = 0.5,
    ) -> None:
        settings = ViewSettings(mask_ratio, strategy, blend, model, size)
        self._views = MaskedViews(settings, precision=precision)
        # Serialisation reads these.
        self.mask_ratio, self.strategy, self.blend = settings.ratio_range, settings.strategy, settings.blend
        self.model, self.size, self.precision = settings.model, settings.size, precision
        self._seeded_in: int | None = None
        super().__init__(p=p)  # seeds, for which the settings have to be there

    def set_random_seed(self, seed: int | None) -> None:
        """Seed the generators.

        `Compose` gives the same seed to each of its transforms; the settings go into it, so that two of different
        settings draw apart. Two of the same settings draw alike.

        Set in a worker, the seed gives what it gives anywhere. Workers go on to generators of their own from one that
        was set before they started, and from None.
        """
        super().set_random_seed(seed)
        self._seeded_in = None
        if seed is not None:
            self._seed_with([seed])
            self._keep_in_worker()

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Take generators as they are, in a worker too."""
        super().set_random_state(random_generator, py_random)
        self._keep_in_worker()

    def should_apply(self, force_apply: bool = False) -> bool:
        """The first draw of a call."""
        info = get_worker_info()
        if info is not None and info.seed != self._seeded_in:
            # In two ranges of numbers, lest a pipeline with a seed draws as one without.
            self._seed_with(
                [info.seed, 0, self._rank_in(info.seed)] if self.seed is None else [info.seed, 1, self.seed]
            )
            self._seeded_in = info.seed
        return bool(super().should_apply(force_apply=force_apply))

    def get_params(self) -> dict[str, Any]:
        """One number, that the masks of all targets come from, whatever their sizes."""
        return {"view_seed": int(self.random_generator.integers(2**63 - 1))}

    def apply(self, img: np.ndarray, view_seed: int = 0, **params: Any) -> np.ndarray:
        """The view of one image."""
        return self.apply_to_images(img[None], view_seed)[0]

    def apply_to_images(
        self, images: np.ndarray | Sequence[np.ndarray], view_seed: int = 0, **params: Any
    ) -> np.ndarray:
        """Views of (N, H, W[, C]) in one batch, all with the same mask."""
        stack = np.ascontiguousarray(images)
        batch = stack[..., None] if stack.ndim == 3 else stack
        batch = batch if batch.flags.writeable else batch.copy()  # torch warns of what it cannot write to
        tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
        draw = self._views.draw(1, np.random.default_rng(view_seed), (tensor.shape[2], tensor.shape[3]))
        views = self._views.render(tensor, draw).permute(0, 2, 3, 1).numpy()
        return np.require(views.reshape(stack.shape), requirements=["C"])

    def apply_to_volume(self, volume: np.ndarray, view_seed: int = 0, **params: Any) -> np.ndarray:
        """The view of (D, H, W[, C]): its slices are a batch."""
        return self.apply_to_images(volume, view_seed)

    def apply_to_volumes(self, volumes: np.ndarray, view_seed: int = 0, **params: Any) -> np.ndarray:
        """Views of (N, D, H, W[, C]): all slices are one batch."""
        stack = np.ascontiguousarray(volumes)
        slices = self.apply_to_images(stack.reshape(-1, *stack.shape[2:]), view_seed)
        return slices.reshape(stack.shape)

    def _keep_in_worker(self) -> None:
        """The generators that there are now stay, if this is a worker."""
        info = get_worker_info()
        self._seeded_in = None if info is None else info.seed

    def _rank_in(self, worker_seed: int) -> int:
        """How many of the same settings drew before it in this worker: the views of a pair are not to be one view."""
        _ranks[worker_seed, self._salt] += 1
        return _ranks[worker_seed, self._salt]

    @property
    def _salt(self) -> int:
        return zlib.crc32(repr((self._views.settings, self.precision)).encode())

    def _seed_with(self, numbers: list[int]) -> None:
        sequence = np.random.SeedSequence([self._salt, *numbers])
        self.random_generator = np.random.default_rng(sequence)
        self.py_random = random.Random(int(sequence.generate_state(1, np.uint64)[0]))
