"""`MAEAugment` for kornia: masked-reconstruction views of a batch, on its device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation.random_generator import RandomGeneratorBase
from torch import Tensor

from maerestore.augment.core import Draw, MaskedViews
from maerestore.augment.graphs import outside_graphs
from maerestore.augment.settings import ViewSettings, check_share
from maerestore.threads import one_thread_if_forked


class MAEAugment(IntensityAugmentationBase2D):
    """Hide part of each image of a batch and let a masked autoencoder rebuild it.

    Convention:
        Images are (B, C, H, W), (C, H, W) or (H, W) float in [0, 1]; integers raise `TypeError`, as kornia has it.
        Masks, boxes, keypoints and classes pass untouched. Everything random is in `_params`: "ratio" (B,), "noise"
        (B, L) and "seed" (B,), drawn from torch's global generator; `augment(x, params=augment._params)` makes the same
        views. Only rows that `p` selected are computed. The model computes where the images are, and is no part of
        `state_dict()`. Gradients reach an image through what is kept of it.

        A container may ask for the parameters of one shape and apply them to another: a second input of another size
        has, or what an augmentation before this one has made larger. The noise then comes from "seed".

    Args:
        mask_ratio, strategy, blend, model, size: as for `maerestore.augment.settings.ViewSettings`.
        precision: "auto", "fp32" or "bf16"; see `maerestore.augment.core.MaskedViews`.
        same_on_batch: hide all images of a batch alike.
        p: probability that an image is changed.
        keepdim: give back the number of dimensions that came in.

    Raises:
        MaerestoreError: an argument that does not fit, named.

    Reference: "Masked Autoencoders are Robust Data Augmentors", https://arxiv.org/abs/2206.04846.

    Example:
        >>> images = torch.rand(2, 3, 224, 224)
        >>> bool((MAEAugment(p=0.0)(images) == images).all())
        True
    """

    def __init__(
        self,
        mask_ratio: float | tuple[float, float] = (0.4, 0.75),
        strategy: str = "random",
        blend: float = 1.0,
        model: str = "augment",
        size: int | None = None,
        precision: str = "auto",
        same_on_batch: bool = False,
        p: float = 0.5,
        keepdim: bool = False,
    ) -> None:
        settings = ViewSettings(mask_ratio, strategy, blend, model, size)
        views = MaskedViews(settings, device=None, precision=precision)
        super().__init__(p=check_share("p", p), same_on_batch=same_on_batch, keepdim=keepdim)
        self._views = views
        self._param_generator = _DrawGenerator(views)

    @outside_graphs
    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Nothing where nothing will be changed, so that not even a model's config is read."""
        if self.p == 0 or self._views.settings.changes_nothing:
            return {}
        return dict(super().generate_parameters(batch_shape))

    @outside_graphs
    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """The views of the selected rows, the other rows as they are."""
        if "noise" not in params:
            return input
        one_thread_if_forked()  # here too: a replay draws nothing
        always = self.p == 1 and self.p_batch == 1  # then kornia does not ask "batch_prob" either
        chosen = np.atleast_1d((params["batch_prob"] > 0.5).cpu().numpy())
        rows = np.arange(len(input)) if always else np.flatnonzero(chosen)
        if not len(rows):
            return input
        draw = self._draw_of(params, (input.shape[-2], input.shape[-1]))
        if len(rows) == len(input):  # kornia 0.8 hands over the selected rows, and draws for no others
            return self._views.render(input, draw)
        ids = torch.from_numpy(rows).to(input.device)
        return input.index_copy(0, ids, self._views.render(input[ids], draw[rows]))

    def _draw_of(self, params: dict[str, Tensor], shape: tuple[int, int]) -> Draw:
        """The parameters as a draw for images of (H, W)."""
        draw = Draw(params["ratio"].cpu().numpy(), params["noise"].cpu().numpy())
        grid = self._views.grid(shape)
        if draw.noise.shape[1] == grid[0] * grid[1] or "seed" not in params:
            return draw
        # Drawn for another shape. Rows of one seed (frames, say) are hidden alike.
        seeds, rows = np.unique(params["seed"].cpu().numpy(), return_inverse=True)
        each = [self._views.draw(1, np.random.default_rng(int(seed)), shape).noise for seed in seeds]
        return Draw(draw.ratio, np.concatenate(each)[rows])


class _DrawGenerator(RandomGeneratorBase):
    """Draws "ratio" (B,), "noise" (B, L) and "seed" (B,), on the CPU whatever the device: masks are the same on all."""

    def __init__(self, views: MaskedViews) -> None:
        super().__init__()
        self._views = views

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._views.settings.to_dict().items())

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        pass  # no distribution of torch is used

    def forward(self, batch_shape: tuple[int, ...], same_on_batch: bool = False) -> dict[str, Tensor]:
        n = batch_shape[0]
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), device="cpu")))
        draw = self._views.draw(min(n, 1) if same_on_batch else n, rng, (batch_shape[-2], batch_shape[-1]))
        # Drawn last: what follows from a seed of torch's stays as it was.
        seeds = rng.integers(2**63 - 1, size=len(draw))
        ratio, noise, seed = (torch.from_numpy(values) for values in (draw.ratio, draw.noise, seeds))
        return {"ratio": ratio.expand(n).clone(), "noise": noise.expand(n, -1).clone(), "seed": seed.expand(n).clone()}
