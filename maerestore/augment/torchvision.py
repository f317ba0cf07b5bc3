"""`MAEAugment` for torchvision's transforms v2: a masked-reconstruction view of the images and videos of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from maerestore.augment.core import MaskedViews
from maerestore.augment.graphs import outside_graphs
from maerestore.augment.settings import ViewSettings, check_share
from maerestore.errors import MaerestoreError
from maerestore.threads import one_thread_if_forked

PIL_MODES = {"L": 1, "RGB": 3, "LA": 1, "RGBA": 3}  # by mode, the channels that are colour


class MAEAugment(v2.Transform):
    """Hide part of an image and let a masked autoencoder rebuild it.

    Convention:
        Takes `tv_tensors.Image`, `tv_tensors.Video` and plain tensors, (..., C, H, W), uint8 or float in [0, 1], and
        PIL images (L, RGB, and with alpha, which stays). Types are kept, all else passes as the same object, and so
        does a plain tensor beside an image. The model computes where the image is. Random numbers come from torch's
        global generator.

        Every image of a batch, and every video, is chosen with probability `p` and gets a mask of its own; the frames
        of a video share theirs. Entries of a sample (stereo pairs, say) are hidden alike where their sizes agree, and
        no attention guides.

        It is a module without parameters: `state_dict()` is empty, and `.to()` moves nothing.

    Args:
        mask_ratio, strategy, blend, model, size: as for `maerestore.augment.settings.ViewSettings`.
        precision: "auto", "fp32" or "bf16"; see `maerestore.augment.core.MaskedViews`.
        p: probability that an image is changed.

    Raises:
        MaerestoreError: an argument that does not fit, named.

    Reference: "Masked Autoencoders are Robust Data Augmentors", https://arxiv.org/abs/2206.04846.

    Example:
        >>> image = tv_tensors.Image(torch.zeros(3, 224, 224, dtype=torch.uint8))
        >>> view, label = MAEAugment(p=0)(image, 7)
        >>> view is image
        True
    """

    # What is_pure_tensor of torchvision's private utilities says: a tensor that is no TVTensor.
    _transformed_types = (
        PIL.Image.Image,
        tv_tensors.Image,
        tv_tensors.Video,
        lambda entry: isinstance(entry, Tensor) and not isinstance(entry, tv_tensors.TVTensor),
    )

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
        super().__init__()
        settings = ViewSettings(mask_ratio, strategy, blend, model, size)
        self._views = MaskedViews(settings, device=None, precision=precision)
        # torchvision shows these.
        self.mask_ratio, self.strategy, self.blend = settings.ratio_range, settings.strategy, settings.blend
        self.model, self.size, self.precision, self.p = settings.model, settings.size, precision, check_share("p", p)

    @outside_graphs
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """All that is random: which rows are chosen, and a seed for their masks."""
        rows = max((_count(entry) for entry in flat_inputs), default=0)
        # On the CPU whatever torch's default device is.
        chosen = (torch.rand(rows, device="cpu") < self.p).numpy()
        return {"chosen": chosen, "seed": int(torch.randint(2**63 - 1, (), device="cpu"))}

    @outside_graphs
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The view of one entry of a sample."""
        chosen = params["chosen"][: _count(inpt)]
        if not chosen.any() or self._views.settings.changes_nothing:
            return inpt
        if isinstance(inpt, PIL.Image.Image):
            return self._of_pil(inpt, params)
        one_thread_if_forked()  # before the reshaping, which may copy
        images = inpt.as_subclass(Tensor)
        shape = _shape(images)
        clips = images.reshape(_count(inpt), -1, *images.shape[-3:])  # (rows, frames, C, H, W)
        frames = clips.shape[1]
        rows = np.flatnonzero(chosen)
        draw = self._views.draw(len(params["chosen"]), np.random.default_rng(params["seed"]), shape)
        draw = draw[np.repeat(rows, frames)]
        if len(rows) == len(clips):
            views = self._views.render(clips.flatten(0, 1), draw)
        else:
            ids = torch.from_numpy(rows).to(images.device)
            part = self._views.render(clips[ids].flatten(0, 1), draw)
            views = clips.index_copy(0, ids, part.unflatten(0, (-1, frames)))
        views = views.reshape(images.shape)
        return tv_tensors.wrap(views, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else views

    def _of_pil(self, image: PIL.Image.Image, params: dict[str, Any]) -> PIL.Image.Image:
        if image.mode not in PIL_MODES:
            raise MaerestoreError(f"image must be of mode {', '.join(PIL_MODES)}, got {image.mode}: convert it")
        pixels = functional.pil_to_tensor(image)
        colours = PIL_MODES[image.mode]
        view = self.transform(pixels[:colours], params)
        return functional.to_pil_image(torch.cat([view, pixels[colours:]]), mode=image.mode)


def _count(entry: Any) -> int:
    """Images, or videos, in an entry."""
    if isinstance(entry, PIL.Image.Image):
        return 1
    leading = entry.shape[: -4 if isinstance(entry, tv_tensors.Video) else -3]
    return int(np.prod(leading, dtype=np.int64))


def _shape(images: Tensor) -> tuple[int, int]:
    if images.ndim < 3 or 0 in images.shape[-3:]:
        raise MaerestoreError(f"images must be (..., C, H, W) with some pixels, got shape {tuple(images.shape)}")
    return images.shape[-2], images.shape[-1]
