"""Contrastive tuning beside reconstruction: two views of one photograph get features that find each other.

Beside that, or in its place, they may get those that a teacher has for them (`maerestore.train.teacher`).

In the style of MAE-CT (Lehner et al. 2023, https://arxiv.org/abs/2304.10520): short, from a pretrained autoencoder, at
first the head alone. Unlike there, the masked reconstruction goes on, as in CAN (Mishra et al. 2022,
https://arxiv.org/abs/2210.16870), so that the decoder keeps up with the encoder.
"""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.train.contrastive_settings import ContrastiveSettings
from maerestore.train.losses import Criterion
from maerestore.train.objective import Objective
from maerestore.train.teacher import disagreement

_FOLLOW = 0.02  # share of the newest vectors in the moving mean of the teacher's


def pooled(latent: Tensor, pooling: str) -> list[Tensor]:
    """Features of the encoder's output (N, 1 + K, D): one (N, D) float32 each of the class token, the mean, or both."""
    found = {"cls": latent[:, 0].float(), "mean": latent[:, 1:].float().mean(1)}
    return [found[name] for name in pooling.split("+")]


class Contrast(nn.Module):
    """Heads, queue and loss; trained beside the autoencoder and no part of the model that comes out.

    Args:
        settings: of the recipe.
        config: of the autoencoder.
        teacher_dim: length of the teacher's vectors, where there is one.

    Example:
        >>> contrast = Contrast(ContrastiveSettings(layers=0), MAEConfig(embed_dim=32, num_heads=2))
        >>> latent = torch.randn(4, 9, 32)
        >>> bool(contrast(torch.cat([latent, latent])) < contrast(torch.cat([latent, latent.flip(0)])))
        True
    """

    def __init__(self, settings: ContrastiveSettings, config: MAEConfig, teacher_dim: int = 0) -> None:
        super().__init__()
        self.settings = s = settings
        dim = s.dim if s.layers else config.embed_dim
        count = len(s.pooling.split("+"))

        def heads(outputs: int, layers: int) -> nn.ModuleList:
            return nn.ModuleList(perceptron(config.embed_dim, s.width, outputs, layers) for _ in range(count))

        if s.weight:
            self.heads = heads(dim, s.layers)
        if s.teacher is not None:
            self.teacher_heads = heads(teacher_dim, s.teacher.layers)
            self.register_buffer("centre", torch.zeros(teacher_dim))  # moving mean of the teacher's vectors
            self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        if s.weight and s.loss == "nnclr":
            self.predictors = nn.ModuleList(perceptron(dim, s.width, dim, 2) for _ in range(count))
            self.register_buffer("queue", F.normalize(torch.randn(count, s.queue, dim), dim=-1))
            self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, latent: Tensor, alone: bool = False) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            latent: (2 n, 1 + K, D), the encoder's output for n first views, then for n second ones.
            alone: compare the views of this process only. Otherwise those of all are compared with each other, so that
                several processes compute what one would.
        """
        losses, seen = [], []
        for i, features in enumerate(pooled(latent, self.settings.pooling)):
            z = self.heads[i](features)
            prediction = self.predictors[i](z) if self.settings.loss == "nnclr" else z
            with torch.autocast(latent.device.type, enabled=False):
                z, prediction = F.normalize(z.float(), dim=1), F.normalize(prediction.float(), dim=1)
                if self.settings.loss == "nnclr":
                    losses.append(self._neighbours(z.detach(), prediction, self.get_buffer("queue")[i], alone))
                    if self.training:  # not in a validation: one process makes it, and would wait for the others
                        seen.append(gathered(z.detach()[: len(z) // 2], alone))
                else:
                    losses.append(info_nce(z, self.settings.temperature, alone))
        if seen:
            self._enqueue(torch.stack(seen))
        return torch.stack(losses).mean()

    def teacher_loss(self, latent: Tensor, wanted: Tensor) -> Tensor:
        """How far the features are from the teacher's, a float32 scalar.

        What all of the teacher's vectors have in common, which is most of what a network that ends in ReLUs says, is
        taken away: the moving mean over what all processes saw, by parts where a batch is accumulated.

        Args:
            latent: (N, 1 + K, D), the encoder's output.
            wanted: (N, teacher_dim) float32, what the teacher made of the crops that these are views of.
        """
        centre = self.get_buffer("centre")
        if self.training:
            self._follow(centre, wanted)
        parts = zip(self.teacher_heads, pooled(latent, self.settings.pooling), strict=True)
        return torch.stack([disagreement(head(features), wanted - centre) for head, features in parts]).mean()

    @torch.no_grad()
    def _follow(self, centre: Tensor, wanted: Tensor) -> None:
        batches = self.get_buffer("batches").add_(1)
        centre.lerp_(gathered(wanted).mean(0), torch.clamp(1 / batches, min=_FOLLOW))

    def _neighbours(self, z: Tensor, prediction: Tensor, queue: Tensor, alone: bool) -> Tensor:
        nearest = queue[(z @ queue.T).argmax(1)]
        first, second = prediction.chunk(2)
        labels = own_rows(len(first), z.device, alone)
        loss = z.new_zeros(())
        for near, other in zip(nearest.chunk(2), (second, first), strict=True):
            loss = loss + F.cross_entropy(near @ gathered(other, alone).T / self.settings.temperature, labels) / 2
        return loss

    @torch.no_grad()
    def _enqueue(self, z: Tensor) -> None:
        """Replace the oldest of the queue by (heads, n, dim)."""
        queue, place = self.get_buffer("queue"), self.get_buffer("place")
        z = z[:, -queue.shape[1] :]
        rows = (place + torch.arange(z.shape[1], device=z.device)) % queue.shape[1]
        queue[:, rows] = z
        place.copy_((place + z.shape[1]) % queue.shape[1])


def perceptron(inputs: int, width: int, outputs: int, layers: int) -> nn.Module:
    """Linear layers with LayerNorm and GELU between; the identity for no layer.

    LayerNorm, as the statistics of a BatchNorm would depend on how a batch is split.
    """
    if layers == 0:
        return nn.Identity()
    sizes = [inputs, *[width] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for i in range(layers):
        parts.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i < layers - 1:
            parts += [nn.LayerNorm(sizes[i + 1]), nn.GELU()]
    return nn.Sequential(*parts)


def info_nce(z: Tensor, temperature: float, alone: bool = False) -> Tensor:
    """Cross entropy of finding the other view among all others: (2 n, dim) of length 1, first views, then second ones.

    Example:
        >>> z = torch.eye(3).repeat(2, 1)  # three photographs, views that agree
        >>> round(float(info_nce(z, 0.1)), 4)
        0.0002
    """
    first, second = z.chunk(2)
    n = len(first)
    everyone = torch.cat([gathered(first, alone), gathered(second, alone)])  # (2 N, dim) of all processes
    half = len(everyone) // 2
    own = own_rows(n, z.device, alone)
    logits = z @ everyone.T / temperature
    itself = torch.arange(len(everyone), device=z.device)[None] == torch.cat([own, own + half])[:, None]
    return F.cross_entropy(logits.masked_fill(itself, float("-inf")), torch.cat([own + half, own]))


def gathered(x: Tensor, alone: bool = False) -> Tensor:
    """Rows of all processes, with gradients back to each; of this one where it is `alone`."""
    if alone or not _several():
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def own_rows(n: int, device: torch.device, alone: bool = False) -> Tensor:
    """Where this process's n rows lie among those gathered."""
    return torch.arange(n, device=device) + (torch.distributed.get_rank() * n if _several() and not alone else 0)


def _several() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class ContrastiveObjective(Objective):
    """Reconstruction of some pictures and the contrastive loss of views, in one pass.

    Args:
        model: what is trained.
        criterion: the reconstruction's losses.
        contrast: heads and loss.
    """

    def __init__(self, model: MaskedAutoencoder, criterion: Criterion, contrast: Contrast) -> None:
        super().__init__(model, criterion)
        self.contrast = contrast

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        mask: Tensor,
        num_visible: int,
        pixel_mask: Tensor | None,
        pixel_weight: Tensor | None,
        hidden_noise: Tensor | None,
        views: Tensor,
        view_noise: Tensor,
        head_only: bool,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """As `Objective`, with views beside the images.

        Args:
            views: (2 n, C, S, S), normalised; first views, then second ones.
            view_noise: (2 n, L), decides which patches of a view are left out.
            head_only: keep the gradients of these losses from the encoder.
            wanted: (2 n, teacher_dim), what the teacher made of the views' crops, where there is one.

        Returns:
            as `Objective`; the terms have "contrastive" as well, where it has a weight, and "teacher".
        """
        loss, terms, pred = super().forward(images, mask, num_visible, pixel_mask, pixel_weight, hidden_noise)
        settings = self.contrast.settings
        latent = self.model.encode(views, settings.hide, view_noise)[0]
        if head_only:
            latent = latent.detach()
        terms = dict(terms)
        if settings.weight:
            terms["contrastive"] = self.contrast(latent)
            loss = loss + settings.weight * terms["contrastive"]
        if wanted is not None and settings.teacher is not None:
            terms["teacher"] = self.contrast.teacher_loss(latent, wanted)
            loss = loss + settings.teacher.weight * terms["teacher"]
        return loss, terms, pred


class ViewRetrieval:
    """How well views of photographs kept aside find each other.

    Args:
        views: (2, n, C, S, S) in [0, 1].
        wanted: (2 n, teacher_dim), what the teacher made of their crops, where there is one.
        batch_size: views at a time.
    """

    def __init__(self, views: Tensor, wanted: Tensor | None = None, batch_size: int = 32) -> None:
        self.views, self.wanted, self.batch_size = views, wanted, batch_size

    @torch.inference_mode()
    def measure(self, model: MaskedAutoencoder, contrast: Contrast) -> dict[str, float]:
        """Of a model, with nothing hidden.

        Returns:
            "contrastive" and "teacher", the losses; and for the class token and the mean of the patches, the share of
            first views whose nearest second view (cosine) is that of the same photograph.
        """
        training = contrast.training
        model.eval(), contrast.eval()
        flat = self.views.flatten(0, 1)
        latent = torch.cat([model.encode(model.normalize(part))[0] for part in flat.split(self.batch_size)])
        own = torch.arange(self.views.shape[1], device=latent.device)
        figures = {}
        for name, features in zip(("cls", "mean"), pooled(latent, "cls+mean"), strict=True):
            first, second = F.normalize(features, dim=1).chunk(2)
            figures[f"retrieval_{name}"] = float(((first @ second.T).argmax(1) == own).float().mean())
        if contrast.settings.weight:
            figures["contrastive"] = float(contrast(latent, alone=True))
        if self.wanted is not None:
            figures["teacher"] = float(contrast.teacher_loss(latent, self.wanted))
        model.train(), contrast.train(training)
        return figures
