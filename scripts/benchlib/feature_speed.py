"""How fast features are made, beside timm's model of the same sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maerestore.features import FeatureExtractor, FeatureOptions
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.model import MAEConfig, MaskedAutoencoder

from .photos import BenchError

SIZES = {
    "features": {"image_size": 160, "patch_size": 16, "embed_dim": 320, "depth": 12, "num_heads": 5},
    "ViT-S/16": {"image_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
}


def timm_twin(config: MAEConfig) -> Any:
    """timm's vision transformer of a configuration, without a head.

    Raises:
        BenchError: timm is not installed.
    """
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError as err:
        raise BenchError("the comparison with timm needs it: pip install timm") from err
    return VisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.embed_dim, depth=config.depth,
        num_heads=config.num_heads, num_classes=0, global_pool="token",
    ).eval()  # fmt: skip


def contenders(config: MAEConfig, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Both libraries in both number formats, from the same bytes (N, 3, H, W) to (N, D)."""
    model, theirs = MaskedAutoencoder(config).eval(), timm_twin(config)
    rows = list(images)

    def timm(bf16: bool) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                tokens = theirs.forward_features(model.normalize(torch.stack(rows).float() / 255))
                return tokens[:, 1:].float().mean(1)

        return run

    def ours(precision: str) -> Callable[[], Tensor]:
        options = FeatureOptions(pooling="mean", precision=precision, normalize=False)
        extractor = FeatureExtractor(AutoencoderBackbone(model), options, device="cpu", batch_size=len(rows))
        return lambda: extractor.extract(rows)

    return {"timm fp32": timm(False), "maerestore fp32": ours("fp32"), "timm bf16": timm(True),
            "maerestore bf16": ours("bf16")}  # fmt: skip


def measure_speed(batch: int = 32, repeats: int = 5) -> list[dict[str, Any]]:
    """Images per second of each, the best of several rounds in which all take turns."""
    found = []
    for name, sizes in SIZES.items():
        config = MAEConfig(**{**sizes, "decoder_depth": 0})
        torch.manual_seed(0)
        images = torch.randint(0, 256, (batch, 3, config.image_size, config.image_size), dtype=torch.uint8)
        runs = contenders(config, images)
        seconds: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(1 + repeats):  # the first round warms up
            for label, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[label].append(time.perf_counter() - start)
        reference = min(seconds["timm fp32"][1:])
        found += [
            {"size": name, "method": label, "images_per_second": batch / min(spent[1:]),
             "times_timm": reference / min(spent[1:])}
            for label, spent in seconds.items()
        ]  # fmt: skip
    return found
