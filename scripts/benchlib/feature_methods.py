"""What turns pictures into features: our models, random twins, hand-made descriptors, third-party networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maerestore.features import FeatureExtractor
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.preprocess import to_grid
from maerestore.model import MaskedAutoencoder

from .metrics import load_nets

Features = Callable[[Sequence[Tensor]], Tensor]
"""Pictures (3, H, W) uint8 of any size -> (N, D) float32."""

BATCH = 64


POOLINGS = ("cls", "mean", "cls+mean")


def model_features(name: str, precision: str) -> FeatureExtractor:
    """One of our models, or any that `FeatureExtractor` takes: class token and mean, side by side."""
    return FeatureExtractor.from_pretrained(name, pooling="cls+mean", precision=precision, batch_size=BATCH)


def part(features: Tensor, pooling: str) -> Tensor:
    """What an extractor with another pooling gives, from what one with "cls+mean" gave.

    Example:
        >>> part(torch.tensor([[0.6, 0.0, 0.0, 0.8]]), "mean").tolist()
        [[0.0, 1.0]]
    """
    cls, mean = features.chunk(2, dim=1)
    return features if pooling == "cls+mean" else F.normalize(cls if pooling == "cls" else mean, dim=1)


def random_twin(extractor: FeatureExtractor) -> FeatureExtractor:
    """The same network with the weights that training starts from."""
    assert isinstance(extractor.backbone, AutoencoderBackbone)
    torch.manual_seed(0)
    model = MaskedAutoencoder(extractor.backbone.model.config).eval()
    return FeatureExtractor(AutoencoderBackbone(model), extractor.options, batch_size=BATCH)


def colour_histogram(images: Sequence[Tensor], bins: int = 8) -> Tensor:
    """A joint histogram of hue, saturation and value, 8 bins each, its square root: 512 numbers."""
    import cv2

    rows = []
    for image in images:
        hsv = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2HSV)
        counts = cv2.calcHist([hsv], [0, 1, 2], None, [bins] * 3, [0, 180, 0, 256, 0, 256])
        rows.append(np.sqrt(counts.ravel() / counts.sum()))
    return torch.from_numpy(np.stack(rows)).float()


def hog(images: Sequence[Tensor], side: int = 128) -> Tensor:
    """Histograms of oriented gradients of the centre square at 128 px: cells of 16 px, blocks of 2 x 2, 9 angles."""
    from skimage.feature import hog as descriptor

    rows = [
        descriptor(_square(image, side).numpy().mean(0), 9, (16, 16), (2, 2), feature_vector=True) for image in images
    ]
    return torch.from_numpy(np.stack(rows)).float()


def third_party(folder: Path) -> dict[str, Features]:
    """The networks of `nets.py`, trained on ImageNet with its labels: each one's last feature map, averaged."""
    mobile, resnet, squeeze = load_nets(
        folder, lambda nets: (nets.MobileNetV2(), nets.ResNet50V2Stages(), nets.lpips_squeeze())
    )

    def squeezed(x: Tensor) -> Tensor:
        return squeeze.net(squeeze.scaling_layer(2 * x - 1))[-1].mean((2, 3))

    return {
        "MobileNetV2 (labels)": _network(mobile),
        "ResNet-50 v2, stage 3 (labels)": _network(lambda x: resnet(x)[-1].mean((2, 3))),
        "SqueezeNet 1.1 (labels)": _network(squeezed),
    }


def _network(forward: Callable[[Tensor], Any], side: int = 224) -> Features:
    @torch.inference_mode()
    def run(images: Sequence[Tensor]) -> Tensor:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = torch.stack([_square(image, side) for image in images[start : start + BATCH]]).float() / 255
            parts.append(forward(batch))
        return F.normalize(torch.cat(parts), dim=1)

    return run


def _square(image: Tensor, side: int) -> Tensor:
    """The centre square at a side."""
    return to_grid(image, (1, 1), side)
