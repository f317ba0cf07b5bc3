"""Feature vectors of images, from one pretrained encoder. Nothing is masked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maerestore.device import pick_device
from maerestore.errors import MaerestoreError
from maerestore.features.backbone import AutoencoderBackbone, Backbone, timm_backbone
from maerestore.features.items import find_items, source_of
from maerestore.features.model_names import TIMM
from maerestore.features.options import FeatureOptions
from maerestore.features.pooling import pool
from maerestore.features.preprocess import as_tensor, grid_for, in_unit_range, to_grid
from maerestore.features.whiten import Whitening
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import FEATURES_NAME, resolve_model
from maerestore.hub.load import load_autoencoder
from maerestore.precision import autocast, uses_bf16
from maerestore.threads import one_thread_if_forked

# What more images need between two layers no longer stays in a CPU's cache: with 32 the default model is 3 % slower in
# float32 and 11 % in bfloat16.
_CPU_BATCH = 16
_DECODED, _DECODED_BYTES = 256, 1 << 28  # images that wait at once: a folder may hold more than memory does


class FeatureExtractor:
    """Computes feature vectors of images, for classification and search.

    Convention:
        Images may have any size and aspect ratio. Each is scaled to the area that the model was trained at (`size`),
        keeping its aspect ratio, and cropped to whole patches. An elongated image is at least one patch wide, so the
        ends of a very long one are cut off: with the bundled model, half of a 400:1 image is used, and less of longer
        ones. Nothing is masked and nothing is random: an image has the same feature alone, in any batch and in any
        order, to 1e-5 in fp32 and 2e-2 in bf16 (for features of length 1). Images are RGB, uint8 in [0, 255] or float
        in [0, 1]; the normalisation of the model is applied here.

    Args:
        backbone: the network, in eval mode.
        options: pooling, layers, scales, size, normalisation and precision; None for the defaults.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images of one shape that go through the network at once, at least 1; at most 16 are used on a CPU.
        whitening: fitted on features of an extractor with the same model and options. It is applied to the pooled
            feature, before that is scaled to length 1.
        name: of the model, stored in tables and indexes.

    Attributes:
        dim: D, the number of values of a feature.
        fingerprint: 64 hex digits, the SHA-256 of the weights and of every option that changes features (the precision
            is not one of them). Tables, classifiers and indexes store it, and refuse features of another one.

    Raises:
        MaerestoreError: batch_size below 1.
        ModelError: options that the model does not support, a whitening of another extractor, or an unknown device.

    Example:
        >>> import numpy as np
        >>> extractor = FeatureExtractor.from_pretrained(size=32)
        >>> gray, wide = np.zeros((40, 40), np.uint8), np.zeros((30, 90, 3), np.uint8)
        >>> extractor([gray, wide]).shape
        torch.Size([2, 320])
    """

    def __init__(
        self,
        backbone: Backbone,
        options: FeatureOptions | None = None,
        *,
        device: str = "auto",
        batch_size: int = 32,
        whitening: Whitening | None = None,
        name: str = "model",
    ) -> None:
        self.options = o = options or FeatureOptions()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise MaerestoreError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        depth = backbone.depth
        if wrong := [layer for layer in o.layers if not -depth <= layer < depth]:
            raise ModelError(f"layers must lie in {-depth} to {depth - 1} for this model, got {wrong[0]}")
        self.device = pick_device(device)
        self.bf16 = uses_bf16(o.precision, self.device)
        self.backbone, self.batch_size, self.whitening, self.name = backbone, batch_size, whitening, name
        backbone.network.requires_grad_(False).eval().to(self.device)
        self.size = o.size or backbone.image_size
        parts = len(o.layers) * len(o.scales) * (2 if o.pooling == "cls+mean" else 1)
        self.dim = parts * backbone.width
        self.fingerprint = self._fingerprint()
        if whitening is not None:
            if o.pooling == "patch":
                raise ModelError("a whitening is for one vector an image: choose another pooling than 'patch'")
            if len(whitening.mean) != self.dim or whitening.fingerprint != self.fingerprint:
                raise ModelError("the whitening was fitted on features of another model or with other options")
            self.dim = whitening.dim
            self.fingerprint = whitening.whitened_fingerprint()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        options: FeatureOptions | None = None,
        device: str = "auto",
        batch_size: int = 32,
        whitening: Whitening | str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **fields: Any,
    ) -> FeatureExtractor:
        """Load a model and make an extractor of it.

        Args:
            name_or_path: None or "features" for the bundled encoder, which was trained for features; "default" for the
                encoder of the inpainting model; a folder or file of weights (of this package, Meta, transformers or
                timm); "org/name[@revision]" on the Hub; or "timm:NAME", a vision transformer of timm.
            options: a `FeatureOptions`; None for the defaults.
            device, batch_size: as for the class.
            whitening: a `Whitening`, or the path of a file that `Whitening.save` wrote.
            revision, token, cache_dir, local_files_only: as for `huggingface_hub.snapshot_download`; names of timm
                have no revision.
            **fields: single options, such as `pooling="cls"`; they replace those of `options`.

        Raises:
            MaerestoreError: an unknown option, or a value that it cannot have.
            ModelError: no such model, or its files do not fit together; otherwise as for the class.

        Example:
            >>> extractor = FeatureExtractor.from_pretrained(pooling="cls+mean", layers=(-1, -3))
            >>> extractor.dim
            1280
        """
        if surplus := sorted(set(fields) - {field.name for field in dataclasses.fields(FeatureOptions)}):
            raise MaerestoreError(f"unknown feature option(s): {', '.join(surplus)}")
        options = dataclasses.replace(options or FeatureOptions(), **fields)
        name = FEATURES_NAME if name_or_path is None else str(name_or_path)
        if isinstance(whitening, (str, Path)):
            whitening = Whitening.load(whitening)
        backbone: Backbone
        if name.startswith(TIMM):
            if revision is not None:
                raise ModelError(f"{name}: a name of timm's has no revision {revision!r}: leave it out")
            backbone = timm_backbone(
                name.removeprefix(TIMM), token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
        else:
            source = resolve_model(
                name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
            backbone = AutoencoderBackbone(load_autoencoder(source))
        return cls(backbone, options, device=device, batch_size=batch_size, whitening=whitening, name=name)

    def __call__(self, images: Any) -> Any:
        """Compute the features of one image or of many.

        Args:
            images: an image, a sequence of images, or a batch (N, C, H, W) as a tensor. An image is a path, the bytes
                of an image file, a PIL image, an array (H, W) or (H, W, C) with C of 1, 3 or 4, or a tensor (C, H, W)
                with C of 1 or 3. Arrays and tensors are uint8, or float in [0, 1] (arrays with alpha: uint8 only). The
                path of a folder or a tar stands for all images in it, in the order of `find_items`.

        Returns:
            (N, D) float32 on the CPU, with N = 1 for a single image. With pooling "patch", a list of N tensors
            (h, w, D), one vector for each patch.

        Raises:
            InputError: a file that is not a readable image, or a folder or tar without images.
            MaerestoreError: an object that is not an image, or values out of range.
            ModelError: pooling "attention" with a model of timm.

        Example:
            >>> extractor = FeatureExtractor.from_pretrained(size=32)
            >>> extractor(torch.rand(2, 3, 40, 60)).shape
            torch.Size([2, 320])
        """
        one_thread_if_forked()
        found: list[Any] = []
        waiting: list[Tensor] = []
        size = 0
        for image in _unfolded(_as_list(images)):
            waiting.append(as_tensor(image, self.pixels_wanted))
            size += waiting[-1].nbytes
            if len(waiting) >= _DECODED or size > _DECODED_BYTES:
                found.append(self.extract(waiting))
                waiting, size = [], 0
        found.append(self.extract(waiting))
        if self.options.pooling == "patch":
            return [grid for grids in found for grid in grids]
        return torch.cat(found)

    @property
    def pixels_wanted(self) -> int:
        """The side in pixels of the largest scale: `at_least` of `maerestore.features.decode.load_image`."""
        return round(self.size * max(self.options.scales))

    def extract(self, images: Sequence[Tensor]) -> Any:
        """As a call, for images that are tensors already.

        Args:
            images: tensors (3, H, W), uint8 or float32 in [0, 1], of `maerestore.features.preprocess.as_tensor`.

        Returns:
            as a call.
        """
        one_thread_if_forked()
        grids = self.options.pooling == "patch"
        step = min(self.batch_size, _CPU_BATCH) if self.device.type == "cpu" else self.batch_size
        parts: list[list[Tensor]] = [[] for _ in images]
        for scale in self.options.scales:
            groups: dict[tuple[int, int], list[int]] = {}
            for number, image in enumerate(images):
                grid = grid_for(image.shape[1], image.shape[2], round(self.size * scale), self.backbone.patch_size)
                groups.setdefault(grid, []).append(number)
            for grid, numbers in groups.items():
                for start in range(0, len(numbers), step):
                    chosen = numbers[start : start + step]
                    features = self._forward([images[number] for number in chosen], grid)
                    for number, feature in zip(chosen, features, strict=True):
                        parts[number].append(feature)
        if grids:
            # A copy, where it is not scaled: tensors of inference mode cannot be trained on.
            return [self._length_one(part[0]) if self.options.normalize else part[0].clone() for part in parts]
        if not parts:
            return torch.zeros(0, self.dim)
        joined = torch.stack([torch.cat(part) for part in parts])
        if self.whitening is not None:
            joined = self.whitening(self._length_one(joined))
        return self._length_one(joined)

    @torch.inference_mode()
    def _forward(self, images: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Images of one grid -> their features at one scale, (N, D) or (N, h, w, D), on the CPU."""
        o, patch = self.options, self.backbone.patch_size
        cut = [to_grid(image, grid, patch) for image in images]
        if len({image.dtype for image in cut}) > 1:
            cut = [in_unit_range(image) for image in cut]
        batch = in_unit_range(torch.stack(cut).to(self.device))  # bytes travel to the device
        with autocast(self.device, self.bf16):
            tokens = self.backbone.tokens(self.backbone.normalize(batch), o.layers, o.pooling == "attention")
        if o.pooling == "patch":
            found = torch.cat([layer[:, 1:].float() for layer in tokens.layers], dim=-1).unflatten(1, grid)
        else:
            pooled = [pool(layer, o.pooling, tokens.attention) for layer in tokens.layers]
            found = torch.cat([self._length_one(part) for part in pooled], dim=1)
        return found.cpu()

    def _length_one(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.options.normalize else features

    def _fingerprint(self) -> str:
        options = {k: v for k, v in self.options.to_dict().items() if k != "precision"}
        options["size"] = self.size
        facts = json.dumps({"weights": self.backbone.fingerprint(), **options}, sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()


def _unfolded(images: Iterable[Any]) -> Iterator[Any]:
    """Yield each image; folders and tars are replaced by the images in them."""
    for image in images:
        if isinstance(image, (str, Path)) and (os.path.isdir(image) or Path(image).suffix.lower() == ".tar"):
            yield from (source_of(item) for item in find_items([image]))
        else:
            yield image


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, (str, Path, bytes, Image.Image)):
        return [images]
    if isinstance(images, (Tensor, np.ndarray)):
        if isinstance(images, Tensor) and images.ndim == 4:
            return list(images)
        return [images]
    if not isinstance(images, Iterable):
        raise MaerestoreError(f"images must be an image or a sequence of images, got {type(images).__name__}")
    return list(images)
