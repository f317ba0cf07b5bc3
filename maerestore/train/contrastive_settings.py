"""The `contrastive` block of a pretraining recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from maerestore.train.values import block, check, read_numbers
from maerestore.train.views import ViewSettings

LOSSES = ("infonce", "nnclr")
POOLINGS = ("cls", "mean", "cls+mean")


@dataclass(frozen=True)
class TeacherSettings:
    """The `teacher` of a recipe's contrastive block: a frozen network whose features the encoder learns to have.

    Args:
        backbone, weights: of `maerestore.train.frozen.FrozenNetwork`.
        layer: whose output is copied: (N, C), or (N, C, H, W), of which the mean over the positions is taken;
            "features" of MobileNetV2, SqueezeNet, VGG, ..., "layer4" of a ResNet.
        weight: of the disagreement, beside the other losses; 0 for no teacher.
        side: of what the teacher sees, in pixels; the views are resized to it.
        layers: of the heads between the encoder's features and the teacher's, at least 1.

    Raises:
        RecipeError: a value of another type or out of range; the message names the setting.
    """

    backbone: str = "mobilenet_v2"
    weights: str | None = None
    layer: str = "features"
    weight: float = 1.0
    side: int = 224
    layers: int = 1

    def __post_init__(self) -> None:
        prefix = "contrastive.teacher."
        read_numbers(self, prefix)
        check(
            [
                (isinstance(self.backbone, str), f"backbone must be a name, got {self.backbone!r}"),
                (
                    self.weights is None or isinstance(self.weights, str),
                    f"weights must be a name, got {self.weights!r}",
                ),
                (isinstance(self.layer, str), f"layer must be a name, got {self.layer!r}"),
                (self.weight >= 0, f"weight must not be negative, got {self.weight}"),
                (self.side > 0, f"side must be positive, got {self.side}"),
                (self.layers > 0, f"layers must be positive, got {self.layers}"),
            ],
            prefix,
        )

    @classmethod
    def from_dict(cls, values: Any) -> TeacherSettings:
        """Read the `teacher` of a recipe's contrastive block.

        Raises:
            RecipeError: no mapping, an unknown key, or a value that does not fit.
        """
        return block(cls, "contrastive.teacher", values)


@dataclass(frozen=True)
class ContrastiveSettings:
    """The `contrastive` block of a recipe.

    Args:
        weight: of the contrastive loss, beside the reconstruction's; over 0, or 0 where there is a teacher.
        loss: "infonce": each view must find the other one of its photograph among all views of the batch (Chen et al.
            2020); "nnclr": it must find the other one's nearest neighbour in a queue (Dwibedi et al. 2021,
            https://arxiv.org/abs/2104.14548). The others are those of all processes; with `accumulate`, of one part
            of the batch, which has to hold at least 2 photographs.
        temperature: similarities are divided by it; over 0.
        pooling: what of the encoder's output the loss is put on: "cls", "mean" (of the patches), or "cls+mean": on
            each of the two, with a head of its own.
        layers: of the head, a perceptron; 0 puts the loss on the features themselves, without a head.
        width, dim: of its hidden layers (the teacher's heads have such, too) and its output.
        hide: share of the patches that each view leaves out, in [0, 1); 0 for a model whose hidden patches hold
            something.
        side: of the views in pixels, a multiple of the patch size; 0 takes that of the crops.
        reconstruct: one photograph in so many is reconstructed as well, as the contrastive loss wants large batches;
            divides the photographs of a process's part of the batch.
        head_samples: so long, the contrastive loss and the teacher train the heads only.
        queue: features that "nnclr" looks for neighbours in.
        views: how they are made.
        teacher: a network to learn from beside the other view; None, or a weight of 0, for none.

    Raises:
        RecipeError: a value of another type or out of range; the message names the setting.
    """

    weight: float = 1.0
    loss: str = "infonce"
    temperature: float = 0.2
    pooling: str = "cls"
    layers: int = 2
    width: int = 1024
    dim: int = 128
    hide: float = 0.5
    side: int = 0
    reconstruct: int = 1
    head_samples: int = 0
    queue: int = 8192
    views: ViewSettings = field(default_factory=ViewSettings)
    teacher: TeacherSettings | None = None

    def __post_init__(self) -> None:
        prefix = "contrastive."
        read_numbers(self, prefix)
        object.__setattr__(self, "views", ViewSettings.from_dict(self.views))
        if self.teacher is not None:
            teacher = TeacherSettings.from_dict(self.teacher)
            object.__setattr__(self, "teacher", teacher if teacher.weight > 0 else None)
        conditions = [
            (
                self.weight > 0 or (self.weight == 0 and self.teacher is not None),
                f"weight must be positive, {'or 0' if self.teacher else 'as there is no teacher'}, got {self.weight}",
            ),
            (self.loss in LOSSES, f"loss must be {' or '.join(LOSSES)}, got {self.loss!r}"),
            (self.temperature > 0, f"temperature must be positive, got {self.temperature}"),
            (self.pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}"),
            (self.layers >= 0, f"layers must not be negative, got {self.layers}"),
            (min(self.width, self.dim) > 0, "width and dim must be positive"),
            (0 <= self.hide < 1, f"hide must lie in [0, 1), got {self.hide}"),
            (self.side >= 0, f"side must not be negative, got {self.side}"),
            (self.reconstruct > 0, f"reconstruct must be positive, got {self.reconstruct}"),
            (self.head_samples >= 0, f"head_samples must not be negative, got {self.head_samples}"),
            (self.queue > 0, f"queue must be positive, got {self.queue}"),
        ]
        check(conditions, prefix)

    @classmethod
    def from_dict(cls, values: Any) -> ContrastiveSettings:
        """Read the block of a recipe.

        Raises:
            RecipeError: no mapping, an unknown key, or a value that does not fit.
        """
        return block(cls, "contrastive", values)
