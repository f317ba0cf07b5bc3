"""Fine-tuning of a whole encoder for classification on small sets, starting from a linear probe.

The start is that of LP-FT (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features",
https://arxiv.org/abs/2202.10054): the classifier was fitted to the features first, so that its errors, and not those of
random weights, move the encoder. The recipe is that of the MAE paper (He et al. 2022, https://arxiv.org/abs/2111.06377,
appendix A.2): AdamW with layer-wise decay of the learning rate, linear warm-up and a cosine, label smoothing, the mean
of the patch tokens before the classifier. Views are random resized crops and flips only; mixup and the like are left
out.
"""

from __future__ import annotations

import copy
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
from maerestore.features.classify.linear import LinearHead, Standardize
from maerestore.features.options import FeatureOptions
from maerestore.features.pooling import pool
from maerestore.features.preprocess import in_unit_range
from maerestore.hub.export import encoder_of as without_decoder
from maerestore.model import MaskedAutoencoder
from maerestore.precision import autocast
from maerestore.train.crops import random_boxes
from maerestore.train.optim import layer_scale, set_lr

OPTIONS = FeatureOptions(pooling="mean", normalize=False)  # what the head sees of an image, before, during and after

Score = Callable[[MaskedAutoencoder, LinearHead], tuple[float, ...]]


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of fine-tuning.

    Args:
        epochs: passes over the training images, at least 1.
        batch_size: images in a step, at least 1.
        lr: learning rate of the classifier and the last norm, for 256 images in a step, above 0.
        layer_decay: the rate of each block is this times that of the next, in (0, 1].
        weight_decay: on matrices and kernels, at least 0.
        warmup: share of the run in which the rate rises, in [0, 1).
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        min_area: least share of the image that a crop covers, in (0, 1].
        size: side in pixels at which images are seen, at least 1; None is the model's own.
        seed: of the order and the crops.

    Raises:
        MaerestoreError: a value outside its range; the message names it.

    Example:
        >>> FineTuneSettings(epochs=5, lr=3e-4).options.pooling
        'mean'
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    min_area: float = 0.3
    size: int | None = None
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
            "size": self.size is None or self.size >= 1,
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise MaerestoreError(f"{wrong[0]} does not fit: {getattr(self, wrong[0])!r}")

    @property
    def options(self) -> FeatureOptions:
        """Options of the features that the head classifies."""
        return replace(OPTIONS, size=self.size)

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


class Network(nn.Module):
    """Images to logits: the encoder, the mean of its patch tokens, the classifier.

    The classifier works on standardised features, whose statistics are those that the probe was fitted with and stay as
    they are: all its weights are of one order then, which the optimiser's steps are too. `head` folds them in.

    Args:
        encoder: to tune.
        probe: the head on plain features to start from.
        scales: of the features that the probe was fitted to.
        bf16: whether the encoder computes in bfloat16.
    """

    def __init__(self, encoder: MaskedAutoencoder, probe: LinearHead, scales: Standardize, bf16: bool = False) -> None:
        super().__init__()
        self.encoder, self.bf16 = encoder, bf16
        device = encoder.pos_embed.device
        self.scales = Standardize(scales.mean.to(device), scales.scale.to(device))
        unfolded = scales.unfold(probe)
        self.classifier = nn.utils.skip_init(nn.Linear, probe.weight.shape[1], probe.weight.shape[0], device=device)
        with torch.no_grad():
            self.classifier.weight.copy_(unfolded.weight)
            self.classifier.bias.copy_(unfolded.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1] -> (N, C)."""
        backbone = AutoencoderBackbone(self.encoder)
        with autocast(images.device, self.bf16):
            tokens = backbone.tokens(backbone.normalize(images), OPTIONS.layers, False).layers[0]
        logits: Tensor = self.classifier(self.scales(pool(tokens, OPTIONS.pooling)))
        return logits

    def head(self) -> LinearHead:
        """The classifier on plain features, on the CPU."""
        scales = Standardize(self.scales.mean.cpu(), self.scales.scale.cpu())
        return scales.fold(self.classifier.weight.detach().cpu(), self.classifier.bias.detach().cpu())


def finetune(
    model: MaskedAutoencoder,
    load: Callable[[int], np.ndarray],
    labels: Tensor,
    probe: LinearHead,
    scales: Standardize,
    settings: FineTuneSettings | None = None,
    score: Score | None = None,
    device: torch.device | str = "cpu",
    at_once: int = 32,
    workers: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[MaskedAutoencoder, LinearHead, dict[str, Any]]:
    """Tune an encoder together with a linear classifier on the mean of its patch tokens.

    Args:
        model: where to start; it is left as it is.
        load: image number -> (H, W, 3) uint8; called from threads.
        labels: (N,) int64, classes of the probe.
        probe: the classifier to start from, fitted to the features that `encoder_of(model)` gives with
            `settings.options`.
        scales: statistics of those features.
        settings: of the run.
        score: what an encoder and a head are worth, the greater the better; asked for the start and after every epoch,
            with weights as they are saved. The best is kept, the first of equals; None keeps the last.
        device: where it runs; with bfloat16 on CUDA.
        at_once: images that go through the network together; a step of more is summed up from several passes.
        workers: threads that read and cut images.
        progress: called with a stage, the images done, and the total.

    Returns:
        the encoder, without a decoder, in eval mode on the CPU, its weights rounded to float16 as they are saved; the
        head; and the settings, with every epoch's mean loss and the number of the one that is kept, 0 for the start.

    Raises:
        MaerestoreError: the loss is no finite number any more.
        Whatever `load` or `score` raises.
    """
    settings = settings or FineTuneSettings()
    device = torch.device(device)
    start = encoder_of(model).to(device)
    network = Network(copy.deepcopy(start), probe, scales, bf16=device.type == "cuda").train()
    optimizer = _optimizer(network, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    patch = model.config.patch_size
    side = max(1, round((settings.size or model.config.image_size) / patch)) * patch
    total, done, losses = settings.epochs * len(labels), 0, []
    kept, best = (0, start, probe), score(start, probe) if score is not None else None
    with ThreadPoolExecutor(max(1, workers)) as threads:
        for epoch in range(1, settings.epochs + 1):
            epoch_loss = 0.0
            for images, numbers in _batches(load, len(labels), side, settings, generator, threads):
                set_lr([optimizer], settings.rate((done + len(numbers) / 2) / total))
                optimizer.zero_grad()
                for part, of_part in zip(images.split(at_once), labels[numbers].split(at_once), strict=True):
                    loss = F.cross_entropy(
                        network(part.to(device)),
                        of_part.to(device),
                        label_smoothing=settings.label_smoothing,
                        reduction="sum",
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
            tuned = rounded(copy.deepcopy(network.encoder)), network.head()
            found = score(*tuned) if score is not None else None
            if found is None or best is None or found > best:
                kept, best = (epoch, *tuned), found
    number, encoder, head = kept
    chosen = {name: value for name, value in asdict(settings).items() if name != "seed"}
    return encoder.cpu().eval(), head, chosen | {"losses": losses, "kept": number}


def encoder_of(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """A copy without the decoder, its weights rounded to float16."""
    return rounded(without_decoder(model))


def rounded(encoder: MaskedAutoencoder) -> MaskedAutoencoder:
    """Round the weights in place to float16, the precision that they are saved in."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:  # tables of positions are saved in full precision
                parameter.copy_(parameter.half())
    return encoder


def _optimizer(network: Network, settings: FineTuneSettings) -> torch.optim.AdamW:
    """AdamW, with groups by rate and by whether weights decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth, below = len(network.encoder.blocks), settings.layer_decay
    named = [(name, p, layer_scale(name, depth, below)) for name, p in network.encoder.named_parameters()]
    named += [(name, p, 1.0) for name, p in network.classifier.named_parameters()]
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
