"""An adversary for the reconstructions: the losses of a discriminator and of what it judges.

References: the R1 penalty, Mescheder et al. 2018 (https://arxiv.org/abs/1801.04406); labels that call only the hidden
parts fake: LaMa, Suvorov et al. 2022 (https://arxiv.org/abs/2109.07161).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model.means import weighted_mean
from maerestore.train.discriminator import AdversaryError, PatchDiscriminator
from maerestore.train.optim import load_optimizer

LOSSES = ("nonsaturating", "hinge")


def fake_labels(hidden: Tensor, size: tuple[int, int]) -> Tensor:
    """Which values of a discriminator's map stand for parts of the picture that hold hidden pixels.

    The picture is divided into as many cells as the map has values, as in LaMa. (What a value sees is larger: by that
    measure all of a small picture would be fake.)

    Args:
        hidden: (N, 1, H, W), 1 = predicted.
        size: (h, w) of the map.

    Returns:
        (N, 1, h, w), 1 = at least one hidden pixel in the cell.

    Example:
        >>> hidden = torch.zeros(1, 1, 4, 4)
        >>> hidden[0, 0, 0, 3] = 1
        >>> fake_labels(hidden, (2, 2)).tolist()
        [[[[0.0, 1.0], [0.0, 0.0]]]]
    """
    return (F.adaptive_max_pool2d(hidden.float(), size) > 0).float()


class Adversary:
    """A discriminator with its own optimiser, beside the trainer's.

    Both losses are means over images of per-image values. Where torch.distributed is set up, the discriminator's
    gradients are averaged over the processes; build it with the same seed in each. Verdicts follow autocast; the
    penalty on gradients, which is lost in bfloat16, is computed in float32.

    A step of the trainer: backward through `generator_terms`, step of the generator, then `discriminator_step`. (It
    changes the discriminator's weights in place, so it must come after that backward.)

    Args:
        discriminator: maps (N, C, H, W) in [0, 1] to (N, 1, h, w), positive = real; on its device, without batch norm.
        loss: "nonsaturating" (softplus) or "hinge".
        r1: weight of the squared norm of the gradient, at the real pictures, of the sum of the map; 0 leaves it out.
            LaMa's value is the default.
        r1_every: steps from one penalty to the next, which then counts so many times (lazy regularisation, Karras et
            al. 2020, https://arxiv.org/abs/1912.04958); it costs more than all the rest of a step.
        lr, betas, weight_decay: of AdamW; at least 0, betas in [0, 1).
        weight, feature_matching: of the two terms of `generator_terms` in what the trainer makes small; kept for it.
            The second needs a `PatchDiscriminator`; 0 leaves it out.
        start: sample of the run from which the trainer calls on the adversary; kept for it.

    Raises:
        AdversaryError: a setting that does not fit.

    Example:
        >>> adversary = Adversary(PatchDiscriminator(width=4, layers=1))
        >>> real, fake, hidden = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
        >>> sorted(adversary.discriminator_step(real, fake, hidden))
        ['fake', 'loss', 'r1', 'real']
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: str = "nonsaturating",
        r1: float = 0.001,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        weight_decay: float = 0.0,
        weight: float = 1.0,
        start: int = 0,
        feature_matching: float = 0.0,
        r1_every: int = 1,
    ) -> None:
        if loss not in LOSSES:
            raise AdversaryError(f"loss must be {' or '.join(LOSSES)}, got {loss!r}")
        for name, value in (
            ("r1", r1),
            ("lr", lr),
            ("weight_decay", weight_decay),
            ("weight", weight),
            ("start", start),
            ("feature_matching", feature_matching),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise AdversaryError(f"{name} must be a number of at least 0, got {value!r}")
        if isinstance(r1_every, bool) or not isinstance(r1_every, int) or r1_every < 1:
            raise AdversaryError(f"r1_every must be a whole number of at least 1, got {r1_every!r}")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules()):
            raise AdversaryError("a discriminator with batch norm would differ between processes: use group norm")
        self.discriminator, self.loss, self.r1, self.r1_every = discriminator, loss, r1, r1_every
        self._judge: Callable[[Tensor], Tensor] = discriminator
        self._judge_layers = discriminator.layers if isinstance(discriminator, PatchDiscriminator) else None
        self.steps = 0
        if feature_matching and not isinstance(discriminator, PatchDiscriminator):
            raise AdversaryError("feature_matching needs a PatchDiscriminator: other networks do not say their layers")
        self.start = start
        self.weights = {"adversarial": weight}
        if feature_matching:
            self.weights["feature_matching"] = feature_matching
        parameters = [p for p in discriminator.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    def generator_terms(self, real: Tensor, fake: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """What the generator makes small, before the weights in `weights`.

        Args:
            real: (N, C, H, W) in [0, 1], photos.
            fake: (N, C, H, W) in [0, 1], predictions pasted into them; gradients flow to them alone.
            hidden: (N, 1, H, W), 1 = predicted.

        Returns:
            float32 scalars. "adversarial": how badly the predictions pass for real, the mean over images of the mean
            over the cells labelled fake; an image without any counts 0. Where it has a weight, "feature_matching":
            the mean absolute difference of the discriminator's layers between fake and real (Wang et al. 2018,
            https://arxiv.org/abs/1711.11585), the mean over the layers.
        """
        # Frozen, and in eval mode so that spectral norms do not move: judging changes nothing.
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        training = self.discriminator.training
        self.discriminator.eval()
        try:
            _require_grad(trained, False)
            verdict, found = self._layers(fake.float())
            label = fake_labels(hidden, (verdict.shape[-2], verdict.shape[-1]))
            error = -verdict.float() if self.loss == "hinge" else F.softplus(-verdict.float())
            terms = {"adversarial": weighted_mean(error, label)}
            if "feature_matching" in self.weights:
                with torch.no_grad():
                    _, wanted = self._layers(real.float())
                terms["feature_matching"] = torch.stack(
                    [(a.float() - b.float()).abs().mean() for a, b in zip(found, wanted, strict=True)]
                ).mean()
            return terms
        finally:
            _require_grad(trained, True)
            self.discriminator.train(training)

    def _layers(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The verdict, and the outputs of the discriminator's activations where it is a `PatchDiscriminator`."""
        return (self._judge(pictures), []) if self._judge_layers is None else self._judge_layers(pictures)

    def compile(self) -> None:
        """Compile the discriminator's passes, but for that of the penalty, which is differentiated twice."""
        self._judge = torch.compile(self.discriminator.forward, dynamic=False)
        if self._judge_layers is not None:
            self._judge_layers = torch.compile(self._judge_layers, dynamic=False)

    def discriminator_loss(self, real: Tensor, fake: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """What `discriminator_step` makes small.

        Args:
            real: (N, C, H, W) in [0, 1], photos.
            fake: (N, C, H, W), predictions pasted into their photos; no gradient reaches them.
            hidden: (N, 1, H, W), 1 = predicted. Cells without hidden pixels count as real in `fake` too.

        Returns:
            float32 scalars: "real" and "fake", the losses on either, "r1", the penalty before weighting, in the steps
            that have one, and "loss", their weighted sum.
        """
        penalised = self.r1 > 0 and self.steps % self.r1_every == 0
        real, fake = real.detach().float(), fake.detach().float()
        with torch.enable_grad():
            real.requires_grad_(penalised)
            with _full_precision(real) if penalised else contextlib.nullcontext():
                on_real = (self.discriminator if penalised else self._judge)(real).float()
            on_fake = self._judge(fake).float()
            label = fake_labels(hidden, (on_fake.shape[-2], on_fake.shape[-1]))
            parts = {
                "real": self._error(on_real).mean(),
                "fake": (self._error(-on_fake) * label + self._error(on_fake) * (1 - label)).mean(),
            }
            parts["loss"] = parts["real"] + parts["fake"]
            if penalised:
                with _full_precision(real):
                    (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
                parts["r1"] = slope.square().sum((1, 2, 3)).mean()
                parts["loss"] = parts["loss"] + self.r1 * self.r1_every * parts["r1"]
        return parts

    def discriminator_step(
        self, real: Tensor, fake: Tensor, hidden: Tensor, share: float = 1.0, last: bool = True
    ) -> dict[str, Tensor]:
        """Train the discriminator on one batch, or on one of the parts that a batch is computed in.

        Args:
            real, fake, hidden: as for `discriminator_loss`.
            share: of the batch that this part is; gradients add up.
            last: whether it is the batch's last part, after which the weights move.

        Returns:
            as `discriminator_loss`, detached.
        """
        parts = self.discriminator_loss(real, fake, hidden)
        (share * parts["loss"]).backward()
        if last:
            _average_gradients(self.discriminator.parameters())
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.steps += 1
        return {name: value.detach() for name, value in parts.items()}

    def _error(self, verdict: Tensor) -> Tensor:
        """How far a verdict is from "real"."""
        return F.relu(1 - verdict) if self.loss == "hinge" else F.softplus(-verdict)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser: what a run needs to resume."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; lr, betas and weight_decay stay those of this one."""
        self.discriminator.load_state_dict(state["discriminator"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.steps = state.get("steps", 0)  # of before there were lazy penalties


def build_adversary(options: Mapping[str, Any], in_chans: int, device: torch.device) -> Adversary | None:
    """The adversary that a recipe asks for.

    Args:
        options: those of `PatchDiscriminator` (width, layers, norm) and of `Adversary` (weight, 0.1 here;
            feature_matching, start, loss, r1, r1_every, lr, betas, weight_decay) together; empty for none.
        in_chans: channels of the pictures.
        device: where it is trained.

    Raises:
        AdversaryError: an unknown option, or a value that does not fit.
    """
    if not options:
        return None
    options = {"weight": 0.1, **options}
    known = {"weight", "feature_matching", "start", "loss", "r1", "r1_every", "lr", "betas", "weight_decay"}
    surplus = sorted(set(map(str, options)) - known - {"width", "layers", "norm"})
    if surplus:
        raise AdversaryError(f"adversarial has no option {surplus[0]!r}")
    shape = {name: options[name] for name in ("width", "layers", "norm") if name in options}
    discriminator = PatchDiscriminator(in_chans, **shape).to(device).to(memory_format=torch.channels_last)
    return Adversary(discriminator, **{name: options[name] for name in known & set(options)})


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _require_grad(parameters: list[nn.Parameter], wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


def _average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
