"""The networks that compute features: masked autoencoders of this package, and vision transformers of timm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from maerestore.features.model_names import TIMM
from maerestore.hub.client import ask_hub, clean_token
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import split_name
from maerestore.model import MaskedAutoencoder

_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


class Tokens(NamedTuple):
    """The output of a backbone for a batch.

    Attributes:
        layers: for each requested layer, (N, 1 + L, D): the class token, then the patches in raster order.
        attention: (N, L), the attention of the class token to the patches in the last block; None if not requested.
    """

    layers: list[Tensor]
    attention: Tensor | None


class Backbone(Protocol):
    """The interface of a network for `FeatureExtractor`.

    Attributes:
        patch_size: side of a patch in pixels.
        image_size: side in pixels of the images it was trained with.
        width: D, the width of a token.
        depth: number of blocks.
        network: the module itself.
    """

    patch_size: int
    image_size: int
    width: int
    depth: int
    network: nn.Module

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images: (N, 3, H, W) float in [0, 1] -> the input of `tokens`."""
        ...

    def tokens(self, images: Tensor, layers: Sequence[int], attention: bool) -> Tokens:
        """Run the network on normalised images, with nothing hidden."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the features, 64 hex digits."""
        ...


class AutoencoderBackbone:
    """The encoder of a `MaskedAutoencoder`, whatever format its weights came in."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        self.network: nn.Module = model
        self.model = model
        c = model.config
        self.patch_size, self.image_size, self.width, self.depth = c.patch_size, c.image_size, c.embed_dim, c.depth

    def normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1] -> the model's normalisation; the mean of the channels for a gray model."""
        return self.model.normalize(images.mean(1, keepdim=True) if self.model.config.in_chans == 1 else images)

    def tokens(self, images: Tensor, layers: Sequence[int], attention: bool) -> Tokens:
        """Run the encoder on normalised images, with nothing hidden."""
        return Tokens(*self.model.hidden_states(images, layers, attention))

    def fingerprint(self) -> str:
        """SHA-256 of the weights and settings of the encoder; features do not depend on the decoder."""
        settings = {k: v for k, v in self.model.config.to_dict().items() if "decoder" not in k and k != "norm_pix_loss"}
        weights = {k: v for k, v in self.model.state_dict().items() if "decoder" not in k and k != "mask_token"}
        return digest(settings, weights)


class TimmBackbone:
    """A vision transformer of timm.

    Args:
        model: such as `timm.create_model(name, num_classes=0, dynamic_img_size=True)`.

    Raises:
        ModelError: it is not a vision transformer with a class token.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "forward_intermediates") or getattr(model, "cls_token", None) is None:
            raise ModelError(f"{type(model).__name__} of timm is no vision transformer with a class token")
        self.network: nn.Module = model
        self.model = model
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.image_size = int(model.patch_embed.img_size[0])
        self.width, self.depth = int(model.embed_dim), len(model.blocks)
        stated = getattr(model, "pretrained_cfg", None) or {}
        self.stated: dict[str, Any] = {name: list(stated.get(name, (0.5,) * 3)) for name in ("mean", "std")}

    def normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1] -> with the mean and deviation that timm states for the model."""
        mean, std = (torch.tensor(self.stated[k], device=images.device).view(1, 3, 1, 1) for k in ("mean", "std"))
        return (images - mean) / std

    def tokens(self, images: Tensor, layers: Sequence[int], attention: bool) -> Tokens:
        """Run the network on normalised images.

        Raises:
            ModelError: attention was requested, which the fused kernels of timm do not return.
        """
        if attention:
            raise ModelError(
                "pooling 'attention' needs a masked autoencoder: timm's models do not show their attention"
            )
        wanted = [layer % self.depth for layer in layers]
        taken = self.model.forward_intermediates(
            images, indices=sorted(set(wanted)), norm=True, stop_early=True, return_prefix_tokens=True,
            output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
        found = {
            layer: torch.cat([prefix[:, :1], patches], dim=1)
            for layer, (patches, prefix) in zip(sorted(set(wanted)), taken, strict=True)
        }
        return Tokens([found[layer] for layer in wanted], None)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and statistics."""
        return digest(self.stated, self.model.state_dict())


def timm_backbone(name: str, **hub: Any) -> TimmBackbone:
    """A pretrained vision transformer by timm's name.

    Args:
        name: such as "vit_base_patch16_224.mae", or "hf-hub:org/name".
        **hub: token, cache_dir, local_files_only, as for `huggingface_hub.snapshot_download`.

    Raises:
        ModelError: timm is missing, has no such model, or cannot download it.
    """
    try:
        import timm
    except ModuleNotFoundError as err:
        raise ModelError(f"{TIMM}{name} needs timm: pip install timm") from err
    try:
        source = _timm_source(name, hub)
        model = timm.create_model(**source, pretrained=True, num_classes=0, dynamic_img_size=True)
    except (
        Exception
    ) as err:  # an unknown name, an option that it lacks, no network: timm and the Hub say so in many ways
        raise ModelError(f"{TIMM}{name}: {str(err).splitlines()[0] if str(err) else type(err).__name__}") from err
    return TimmBackbone(model.eval())


def _timm_source(name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `timm.create_model` for weights that were fetched before.

    timm's own download would try each file six times where there is no network, half a minute long, and write a line
    about each try.
    """
    from timm.models import get_pretrained_cfg

    schema, colon, repository = name.partition(":")
    if colon and schema in ("hf-hub", "hf_hub"):
        return {"model_name": f"local-dir:{_fetched(repository, _TIMM_FILES, hub).parent}"}
    config = None if colon else get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return {"model_name": name}
    given = config.hf_hub_filename
    files = (str(Path(given).with_suffix(".safetensors")), given) if given else _TIMM_FILES
    # custom_load is of the format of Google's files, which those on the Hub do not have.
    overlay = {"file": str(_fetched(config.hf_hub_id, files, hub)), "custom_load": False}
    return {"model_name": name, "pretrained_cfg_overlay": overlay}


def _fetched(name: str, files: Sequence[str], hub: dict[str, Any]) -> Path:
    """The first of several files that a repository holds, in the cache."""
    from huggingface_hub import snapshot_download

    repository, revision = split_name(name)
    settings = {**hub, "token": clean_token(hub.get("token")), "revision": revision}
    for file in files:
        wanted = ["config.json", file]
        folder = Path(
            ask_hub(lambda wanted=wanted: snapshot_download(repository, allow_patterns=wanted, **settings), repository)  # type: ignore[misc]
        )
        if (folder / file).is_file():
            return folder / file
    raise ModelError(f"{repository}: holds no {' and no '.join(files)}")


def digest(settings: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """SHA-256 of settings and of weights as float32, whatever file and dtype they were stored in."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name].detach().float().cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)}\0".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()
