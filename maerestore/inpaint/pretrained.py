"""Where an inpainter comes from and goes to, as methods of it: networks together with the settings of its fills.

Thin: the work is done by `maerestore.hub`, imported when it is needed, so that the pipeline knows no files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from maerestore.precision import uses_bf16

if TYPE_CHECKING:
    from maerestore.inpaint.pipeline import Inpainter


class Pretrained:
    """Loading, saving and sharing, for `Inpainter`."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        revision: str | None = None,
        **hub: Any,
    ) -> Inpainter:
        """Load a model, its refiner where it has one, and the settings fitted for them.

        A model of another library (see `maerestore.hub.load.load_autoencoder`) has no such settings: it is joined by a
        plain ramp, at its own image size.

        Args:
            name: None or "default" for the bundled model, a folder, a file of weights (`.pth`, `.safetensors`, ...), or
                "org/name[@revision]" on the Hugging Face Hub.
            device: "auto" (CUDA, then MPS, then CPU), or any device of torch: "cpu", "cuda:1", ...
            precision: "fp32", "bf16", or "auto": bfloat16 on CPUs that have it.
            revision: of the Hub repository, when not in the name.
            **hub: passed to `huggingface_hub` (token, cache_dir, local_files_only).

        Raises:
            maerestore.ModelError: no such model, files that do not fit, a model without a decoder, or a device that
                this machine lacks.
            maerestore.MaerestoreError: a precision that there is not.
        """
        from maerestore.device import pick_device
        from maerestore.hub.fetch import resolve_model
        from maerestore.hub.refiner import load_networks

        place = pick_device(device)
        uses_bf16(precision, place)  # refused before a model is fetched, and not as if its files were at fault
        source = resolve_model(name, revision=revision, **hub)
        networks = load_networks(source, need_decoder=True)
        return cast("type[Inpainter]", cls)(networks.autoencoder, *networks.fill, place, precision, networks.refiner)

    def save_pretrained(self, folder: str | os.PathLike[str], **notes: Any) -> None:
        """Write the autoencoder, the refiner and the settings of the fills: `from_pretrained` then fills alike.

        Args:
            folder: made if it is not there.
            **notes: facts about the training (`training`, `refiner_training`), and the `dtype` of the weights in the
                files; the default is that of the networks' weights.

        Raises:
            maerestore.ModelError: weights that are not finite in `dtype`, settings of fills that could not be loaded
                again, or a folder that cannot be written.
        """
        from maerestore.hub.refiner import save_networks

        inpainter = cast("Inpainter", self)
        save_networks(inpainter.model, Path(folder), refiner=inpainter.refiner, fill=_fill_settings(inpainter), **notes)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Send what `save_pretrained` writes to the Hugging Face Hub, with a model card.

        Args:
            repo_id: "org/name".
            **settings: passed to `maerestore.hub.push.push_model` (private, create_pr, revision, token, training, ...).

        Returns:
            the address of the commit or pull request.

        Raises:
            maerestore.ModelError: as for `save_pretrained`, no permission, or a Hub that fails.
        """
        from maerestore.hub.push import push_model

        inpainter = cast("Inpainter", self)
        return push_model(
            inpainter.model, repo_id, refiner=inpainter.refiner, fill=_fill_settings(inpainter), **settings
        )


def _fill_settings(inpainter: Inpainter) -> dict[str, Any]:
    """The settings of the fills as they stand in a config, checked."""
    from maerestore.hub.config import fill_settings

    fill = {"curve": inpainter.curve.to_dict(), "smooth": float(inpainter.smooth), "size": int(inpainter.size)}
    fill_settings(fill, inpainter.model.config.patch_size, "the fill settings")
    return fill
