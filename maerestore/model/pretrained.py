"""Where a model's weights come from and go to, as methods of the model.

Thin: the work is done by `maerestore.hub`, imported when it is needed, so that the networks know no files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from maerestore.model.autoencoder import MaskedAutoencoder


class Pretrained:
    """Loading, saving and sharing, for `MaskedAutoencoder`."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> MaskedAutoencoder:
        """Load a model of this package, Meta, transformers (ViTMAE) or timm; in float32, in eval mode, on the CPU.

        Args:
            name_or_path: None or "default" for the bundled model, a folder, a file of weights (`.pth`,
                `.safetensors`, ...), or "org/name[@revision]" on the Hugging Face Hub.
            revision: of the Hub repository, when not in the name.
            token, cache_dir, local_files_only: as for `huggingface_hub`.
            **settings: fields of `MAEConfig` that the files do not say, or say wrongly: `num_heads`,
                `decoder_num_heads`, `norm_pix_loss`, `mean`, `std`, ...; see `maerestore.hub.load.load_autoencoder`.

        Raises:
            maerestore.ModelError: no such model, or files that do not fit.

        Example:
            >>> model = MaskedAutoencoder.from_pretrained("mae_pretrain_vit_base_full.pth")     # doctest: +SKIP
            >>> model.config.norm_pix_loss                                                      # doctest: +SKIP
            True
        """
        from maerestore.hub.fetch import resolve_model
        from maerestore.hub.load import load_autoencoder

        source = resolve_model(
            name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return load_autoencoder(source, **settings)

    def save_pretrained(self, folder: str | Path, **notes: Any) -> None:
        """Write `config.json` and `model.safetensors`, in the data type of the model's weights.

        Args:
            folder: made if it is not there.
            **notes: passed to `maerestore.hub.save.save_autoencoder` (training, fill, dtype).

        Raises:
            maerestore.ModelError: weights that are not finite, or a folder that cannot be written.
        """
        from maerestore.hub.save import save_autoencoder

        model = cast("MaskedAutoencoder", self)
        save_autoencoder(model, Path(folder), **{"dtype": model.cls_token.dtype, **notes})

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Send the model to the Hugging Face Hub, with a model card.

        Args:
            repo_id: "org/name".
            **settings: passed to `maerestore.hub.push.push_model` (private, create_pr, revision, token, ...).

        Returns:
            the address of the commit or pull request.

        Raises:
            maerestore.ModelError: no permission, or a Hub that fails.
        """
        from maerestore.hub.push import push_model

        return push_model(cast("MaskedAutoencoder", self), repo_id, **settings)
