"""Fine-tuning of a whole encoder for classification, after the recipe of the MAE paper, for small sets.

He et al. 2022, https://arxiv.org/abs/2111.06377, appendix A.2: AdamW with layer-wise decay of the learning rate,
linear warm-up and a cosine, label smoothing, the mean of the patch tokens before the classifier. Views are random
resized crops and flips only; mixup and the like are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.errors import MaerestoreError
from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.classify.linear import LinearHead
from maerestore.features.options import FeatureOptions
from maerestore.features.pooling import pool
from maerestore.features.preprocess import in_unit_range
from maerestore.model import MaskedAutoencoder
from maerestore.train.crops import random_boxes
from maerestore.train.optim import layer_scale, set_lr

OPTIONS = FeatureOptions(pooling="mean", normalize=False)  # what the head sees of an image, later on too


@dataclass(frozen=True)
class FineTuneSettings:
    """How an encoder is tuned.

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: of the classifier and the last norm, for 256 images a step.
        layer_decay: the rate of each block is this times that of the next.
        weight_decay: on matrices and kernels.
        warmup: share of the run in which the rate rises.
        label_smoothing: share of the target spread over all classes.
        min_area: crops cover this share of the image at least.
        seed: of the order, the crops and the classifier's first weights.

    Raises:
        ValueError: a value that does not fit, named.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    min_area: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "lr": 0 < self.lr < math.inf,
            "layer_decay": 0 < self.layer_decay <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "min_area": 0 < self.min_area <= 1,
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise MaerestoreError(f"{wrong[0]} does not fit: {getattr(self, wrong[0])!r}")

    def rate(self, done: float) -> float:
        """The learning rate after a share of the run, for this batch size.

        Example:
            >>> settings = FineTuneSettings(lr=0.4, batch_size=64, warmup=0.5)
            >>> [round(settings.rate(done), 3) for done in (0.25, 0.5, 0.75)]
            [0.05, 0.1, 0.05]
        """
        full = self.lr * self.batch_size / 256
        if done < self.warmup:
            return full * done / self.warmup
        return full * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


def finetune(
    model: MaskedAutoencoder,
    load: Callable[[int], np.ndarray],
    labels: Tensor,
    num_classes: int,
    settings: FineTuneSettings | None = None,
    device: torch.device | str = "cpu",
    at_once: int = 32,
    workers: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[MaskedAutoencoder, LinearHead, dict[str, Any]]:
    """Tune an encoder and a linear classifier on the mean of its patch tokens.

    Args:
        model: where to start; it is left as it is.
        load: image number -> (H, W, 3) uint8; called from threads.
        labels: (N,) int64, 0 to `num_classes` - 1.
        num_classes: C.
        settings: of the run.
        device: where it runs; with bfloat16 on CUDA.
        at_once: images that go through the network together; a step of more is summed up from several passes.
        workers: threads that read and cut images.
        progress: called with a stage, the images done, and the total.

    Returns:
        the encoder, without a decoder, in eval mode on the CPU, its weights rounded to float16 as they are saved; the
        head; and the settings with the mean loss of every epoch.

    Raises:
        MaerestoreError: the loss is no finite number any more.
        Whatever `load` raises.
    """
    settings = settings or FineTuneSettings()
    device = torch.device(device)
    encoder = encoder_of(model).to(device).train()
    generator = torch.Generator().manual_seed(settings.seed)
    head = nn.utils.skip_init(nn.Linear, model.config.embed_dim, num_classes)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    head = head.to(device)
    optimizer = _optimizer(encoder, head, settings)
    backbone = AutoencoderBackbone(encoder)
    total, done, losses = settings.epochs * len(labels), 0, []
    with ThreadPoolExecutor(max(1, workers)) as threads:
        for _ in range(settings.epochs):
            epoch_loss = 0.0
            for images, numbers in _batches(load, len(labels), model.config.image_size, settings, generator, threads):
                set_lr([optimizer], settings.rate((done + len(numbers) / 2) / total))
                optimizer.zero_grad()
                for part, of_part in zip(images.split(at_once), labels[numbers].split(at_once), strict=True):
                    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                        tokens = backbone.tokens(backbone.normalize(part.to(device)), OPTIONS.layers, False).layers[0]
                    logits = head(pool(tokens, OPTIONS.pooling))
                    loss = F.cross_entropy(
                        logits, of_part.to(device), label_smoothing=settings.label_smoothing, reduction="sum"
                    )
                    (loss / len(numbers)).backward()
                    epoch_loss += loss.item() / len(labels)
                optimizer.step()
                done += len(numbers)
                if progress is not None:
                    progress("fine-tuning", done, total)
            if not math.isfinite(epoch_loss):
                raise MaerestoreError("fine-tuning diverged: try a lower learning rate")
            losses.append(round(epoch_loss, 4))
    encoder = encoder.cpu().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:  # tables of positions are saved in full precision
                parameter.copy_(parameter.half())
    fitted = LinearHead(head.weight.detach().cpu().contiguous(), head.bias.detach().cpu())
    chosen = {name: value for name, value in asdict(settings).items() if name != "seed"}
    return encoder, fitted, chosen | {"losses": losses}


def encoder_of(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """A copy without the decoder."""
    encoder = MaskedAutoencoder(replace(model.config, decoder_depth=0))
    encoder.load_state_dict({name: model.state_dict()[name] for name in encoder.state_dict()})
    return encoder


def _optimizer(encoder: MaskedAutoencoder, head: nn.Linear, settings: FineTuneSettings) -> torch.optim.AdamW:
    """AdamW, with groups by rate and by whether weights decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    named = [
        (name, p, layer_scale(name, len(encoder.blocks), settings.layer_decay))
        for name, p in encoder.named_parameters()
    ]
    named += [(name, p, 1.0) for name, p in head.named_parameters()]
    for name, parameter, scale in named:
        unused = name.startswith("patch_embed.mask_proj")  # nothing is unknown in these images
        if parameter.requires_grad and not unused:
            decay = settings.weight_decay if parameter.ndim >= 2 and "token" not in name else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "lr": settings.lr * scale, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), params in groups.items()
        ],
        lr=settings.lr,
        betas=(0.9, 0.999),
    )


def _batches(
    load: Callable[[int], np.ndarray],
    count: int,
    side: int,
    settings: FineTuneSettings,
    generator: torch.Generator,
    threads: ThreadPoolExecutor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: images (n, 3, side, side) in [0, 1], and their numbers; the next batch is read ahead."""
    order = torch.randperm(count, generator=generator).split(settings.batch_size)
    draws = [torch.rand(5, len(numbers), generator=generator) for numbers in order]

    def start(at: int) -> list[Any]:
        pairs = zip(order[at].tolist(), draws[at].T, strict=True)
        return [threads.submit(_view, load, number, draw, side, settings.min_area) for number, draw in pairs]

    waiting = start(0)
    for at, numbers in enumerate(order):
        ready, waiting = waiting, start(at + 1) if at + 1 < len(order) else []
        yield torch.stack([future.result() for future in ready]), numbers


def _view(load: Callable[[int], np.ndarray], number: int, draw: Tensor, side: int, min_area: float) -> Tensor:
    """A random resized crop, mirrored or not: (3, side, side) float32 in [0, 1]."""
    image = torch.from_numpy(load(number)).permute(2, 0, 1)
    sizes = torch.tensor([[image.shape[1], image.shape[2], 0]])
    top, left, height, width = random_boxes(sizes, draw[:4, None], (min_area, 1.0))[0].tolist()
    rows, columns = max(1, round(height)), max(1, round(width))
    top, left = min(int(top), image.shape[1] - rows), min(int(left), image.shape[2] - columns)
    cut = image[None, :, top : top + rows, left : left + columns]
    view = in_unit_range(F.interpolate(cut, (side, side), mode="bicubic", antialias=True)[0])
    return view.flip(2) if draw[4] < 0.5 else view
