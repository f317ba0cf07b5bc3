"""What the autoencoder is trained to make small: a weighted sum of named terms.

    masked_mse   squared error over what was hidden (He et al. 2022), on raw or per-patch normalised pixels
    mse          squared error over all pixels; with masked_mse beside it: all pixels + lambda x the hidden ones
    bce          binary cross entropy over what was hidden, for pictures that are black or white (digits, drawings)
    perceptual   distance of features (`PerceptualLoss`) between the photo and the prediction pasted into it

Every term is a mean over images of per-image values, so that the loss does not depend on how a batch is split over
processes or accumulation steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maerestore.errors import MaerestoreError
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.means import weighted_mean
from maerestore.train.perceptual import IN_RECIPE, PerceptualLoss
from maerestore.train.values import RecipeError, number

OPTIONS: dict[str, tuple[str, ...]] = {
    "masked_mse": (),
    "mse": (),
    "bce": ("eps",),
    "perceptual": ("backbone", "layers", "weights"),
}
"""The terms, and the options that each takes beside `weight`."""


class LossError(MaerestoreError):
    """A loss term, weight or option that does not fit; the message names it with its value."""


@dataclass(frozen=True)
class Term:
    """One term of the loss: its weight, and the options it was given."""

    weight: float
    options: dict[str, Any] = field(default_factory=dict)


def parse_terms(terms: Mapping[str, Any] | None, known: Mapping[str, tuple[str, ...]] = OPTIONS) -> dict[str, Term]:
    """Check the terms of a recipe without building anything.

    Args:
        terms: name -> weight, or name -> mapping with `weight` (default 1) and options; None for masked_mse alone. A
            term set to None is left out, and so is a perceptual one of weight 0, which would need a network.
        known: the terms that there are, and the options of each.

    Raises:
        LossError: an unknown term or option, a weight that is no number of at least 0, or no positive weight.

    Example:
        >>> parse_terms({"mse": 1, "masked_mse": {"weight": 2.0}})["masked_mse"].weight
        2.0
    """
    if terms is None:
        return {"masked_mse": Term(1.0)}
    if not isinstance(terms, Mapping):
        raise LossError(f"losses must map names to weights, got {terms!r}")
    parsed = {}
    for name, value in terms.items():
        if name not in known:
            raise LossError(f"unknown loss {name!r}: choose from {', '.join(known)}")
        if value is None:
            continue
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = _number(f"weight of the loss {name}", options.pop("weight", 1.0))
        surplus = sorted(set(map(str, options)) - set(known[name]))
        if surplus:
            takes = ", ".join(("weight", *known[name]))
            raise LossError(f"the loss {name} has no option {surplus[0]!r}: it takes {takes}")
        if "eps" in options:
            options["eps"] = _number(f"eps of the loss {name}", options["eps"])
            if not 0 < options["eps"] < 0.5:
                raise LossError(f"eps of the loss {name} must lie in (0, 0.5), got {options['eps']}")
        if weight > 0 or name != "perceptual":
            parsed[name] = Term(weight, options)
    if not any(term.weight > 0 for term in parsed.values()):
        raise LossError(f"losses need a term of positive weight, got {dict(terms)!r}")
    return parsed


class Criterion(nn.Module):
    """The weighted sum of the terms.

    Args:
        terms: as for `parse_terms`. A term of weight 0, but a perceptual one, is measured, and not trained on.
        config: of the model that is trained; with `norm_pix_loss`, the squared errors are those of pixels normalised
            by their patch's statistics, and the other terms undo that with the statistics of the photo.

    Raises:
        LossError: terms that do not fit.
        ModelError: a perceptual backbone, layer or weights file that does not fit.

    Example:
        >>> config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
        ...                    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
        >>> model, images = MaskedAutoencoder(config), torch.rand(2, 3, 32, 32)
        >>> out = model(images)
        >>> total, parts = Criterion({"mse": 1.0, "masked_mse": 2.0}, config)(model, images, out.pred, out.mask)
        >>> sorted(parts), bool(total == parts["mse"] + 2 * parts["masked_mse"])
        (['masked_mse', 'mse'], True)
    """

    def __init__(self, terms: Mapping[str, Any] | None, config: MAEConfig) -> None:
        super().__init__()
        if not config.has_decoder:
            raise LossError("a model without a decoder cannot reconstruct, so it has no reconstruction loss")
        self.terms = parse_terms(terms)
        perceptual = self.terms.get("perceptual")
        self.perceptual = PerceptualLoss(**perceptual.options, hint=IN_RECIPE) if perceptual else None

    def forward(
        self, model: MaskedAutoencoder, images: Tensor, pred: Tensor, mask: Tensor, pixel_weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare a prediction with the images it was made from.

        Args:
            model: tells patch size and statistics; not run.
            images: (N, C, H, W), normalised.
            pred: (N, L, p*p*C) from the decoder.
            mask: (N, L), 1 = removed.
            pixel_weight: (N, 1, H, W), at least 0; says instead of `mask` where masked_mse and bce look, and how much
                each pixel counts.

        Returns:
            the weighted sum, a float32 scalar, and each term's value before weighting.
        """
        total, parts = images.new_zeros((), dtype=torch.float32), {}
        for name, term in self.terms.items():
            seen = pred if term.weight > 0 else pred.detach()  # measured, and nothing learnt from it
            value = self._value(name, model, images, seen, mask, pixel_weight)
            parts[name] = value.detach()
            if term.weight > 0:
                total = total + term.weight * value
        return total, parts

    def _value(
        self, name: str, model: MaskedAutoencoder, images: Tensor, pred: Tensor, mask: Tensor, weight: Tensor | None
    ) -> Tensor:
        if name == "masked_mse":
            return model.loss(images, pred, mask, weight)
        if name == "mse":
            return model.loss(images, pred, torch.ones_like(mask))
        if name == "bce":
            eps = self.terms[name].options.get("eps", 0.01)
            return binary_cross_entropy(model, images, pred, mask, weight, eps)
        assert self.perceptual is not None
        pasted = composite(model, images, pred, mask, weight)
        return self.perceptual(pasted.picture, pasted.photo).mean()


class Composite(NamedTuple):
    """A prediction pasted into its photo.

    Attributes:
        picture: (N, C, H, W) float32, hidden pixels predicted and others true; predictions may leave [0, 1].
        photo: (N, C, H, W) float32 in [0, 1].
        hidden: (N, 1, H, W), 1 = predicted.
    """

    picture: Tensor
    photo: Tensor
    hidden: Tensor


def composite(
    model: MaskedAutoencoder, images: Tensor, pred: Tensor, mask: Tensor, pixel_weight: Tensor | None = None
) -> Composite:
    """Paste a prediction into its photo; arguments as for `Criterion`.

    Hidden are the pixels of removed patches and, where `pixel_weight` is given, those of positive weight as well: a
    weighted rim is taken from the prediction too.
    """
    height, width = images.shape[2:]
    weighted = images.new_zeros(len(images), 1, height, width) if pixel_weight is None else pixel_weight > 0
    hidden = model.hidden_pixels(mask, weighted)
    photo = model.denormalize(images.float())
    predicted = model.denormalize(model.unpatchify(model.predicted_pixels(images, pred), (height, width)))
    return Composite(torch.where(hidden > 0, predicted, photo), photo, hidden)


def binary_cross_entropy(
    model: MaskedAutoencoder,
    images: Tensor,
    pred: Tensor,
    mask: Tensor,
    pixel_weight: Tensor | None = None,
    eps: float = 0.01,
) -> Tensor:
    """Cross entropy between predicted and true brightness, both read as probabilities of white.

    The prediction p, brought to [0, 1] as a picture is, *is* the probability: `reconstruct` needs no sigmoid and
    models trained with different losses stay exchangeable. (Were the prediction a logit, its slope would be bounded by
    1, but it would mean something else than in every published checkpoint.) With target t the loss is
    -t log p - (1 - t) log(1 - p), whose slope is (p - t) / (p (1 - p)). Outside [eps, 1 - eps] that slope has its
    denominator held, so the loss goes on as a parabola. It stays convex with its minimum at p = t; clamping p instead
    would leave pixels that are wrong by more than the range without any gradient.

    Args:
        model, images, pred, mask, pixel_weight: as for `Criterion`.
        eps: in (0, 0.5); the slope is at most about 1 / eps inside the range of pictures.

    Returns:
        float32 scalar: the mean over images of the (weighted) mean over hidden pixels; an image that hides nothing
        counts 0.
    """
    height, width = images.shape[2:]
    target = model.patchify(model.denormalize(images.float())).clamp(0, 1)
    picture = model.denormalize(model.unpatchify(model.predicted_pixels(images, pred), (height, width)))
    p = model.patchify(picture)  # (N, L, p*p*C)
    inside = p.clamp(eps, 1 - eps)
    error = -target * inside.log() - (1 - target) * (1 - inside).log()
    error = error + ((p - target) ** 2 - (inside - target) ** 2) / (2 * inside * (1 - inside)).detach()
    if pixel_weight is None:
        return weighted_mean(error.mean(-1), mask)
    return weighted_mean(error, model.patchify(pixel_weight.expand(-1, images.shape[1], -1, -1)))


def _number(name: str, value: Any) -> float:
    """A float of at least 0."""
    with contextlib.suppress(RecipeError):
        if (result := number(name, value)) >= 0:
            return result
    raise LossError(f"{name} must be a number of at least 0, got {value!r}")
