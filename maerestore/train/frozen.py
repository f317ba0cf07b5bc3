"""Classification networks of torchvision, frozen: what they see in a picture teaches, or measures."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maerestore.hub.errors import ModelError
from maerestore.hub.weights import checked
from maerestore.image.errors import reason_of
from maerestore.model.config import IMAGENET_MEAN, IMAGENET_STD


class FrozenNetwork(nn.Module):
    """Features of a classification network, at the layers that are named.

    Frozen and always in eval mode; it normalises by the statistics of ImageNet itself. Under autocast it runs in the
    lower precision.

    Args:
        backbone: any classification network of `torchvision.models`, by name.
        layers: names of modules or graph nodes (`torchvision.models.feature_extraction.get_graph_node_names`).
        weights: a file of the network's state dict, `.safetensors` or `.pth` (only tensors are unpickled), which may
            leave out weights that the layers do not need; "torchvision" for torchvision's own, downloaded where they
            are not in its cache; or "random", a baseline that needs no file.
        hint: how a file is named, and how to do without; the end of the error where there are no weights.

    Raises:
        ModelError: an unknown backbone or layer, no weights named, or a file that does not fit.

    Example:
        >>> network = FrozenNetwork("squeezenet1_1", ["features.1", "features"], weights="random")
        >>> [tuple(y.shape) for y in network.features(torch.rand(2, 3, 64, 64))]
        [(2, 64, 31, 31), (2, 512, 3, 3)]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, layers: Sequence[str], weights: str | os.PathLike[str] | None = None, hint: str = ""
    ) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        if weights is None:
            raise ModelError(
                f"weights of the backbone {backbone!r} are missing: "
                f'name a .safetensors or .pth file, "torchvision" (downloads) or "random"{hint}'
            )
        network = _network(backbone, weights == "torchvision", hint)
        if isinstance(layers, str) or not layers or not all(isinstance(layer, str) for layer in layers):
            raise ModelError(f"layers must be a list of names, got {layers!r}")
        for module in network.modules():
            if isinstance(getattr(module, "inplace", None), bool):
                vars(module)["inplace"] = False  # or the next layer would overwrite the features taken before it
        try:
            extractor = create_feature_extractor(network, list(layers))
        except ValueError as err:
            reason = str(err).partition(" Hint:")[0].rstrip(".")
            raise ModelError(f"layers of {backbone} must name its modules or graph nodes ({reason})") from err
        if weights not in ("torchvision", "random"):
            _load(extractor, network, backbone, Path(weights))
        self.extractor, self.named = extractor.requires_grad_(False), f"{', '.join(layers)} of {backbone}"
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stays in eval mode: the statistics of batch norms must not move."""
        return super().train(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """One tensor a layer, of (N, C, H, W) in [0, 1], C 1 (repeated) or 3."""
        return list(self.extractor((pictures.expand(-1, 3, -1, -1) - self.mean) / self.std).values())

    @torch.no_grad()
    def shapes(self, side: int) -> list[tuple[int, ...]]:
        """Of the features of one square picture, a layer each.

        Raises:
            ModelError: the picture is too small for the network.
        """
        try:
            return [
                tuple(found.shape) for found in self.features(torch.zeros(1, 3, side, side, device=self.mean.device))
            ]
        except (AssertionError, AttributeError, RuntimeError) as err:  # whatever a network says of pictures too small
            raise ModelError(f"{self.named} cannot be had from pictures of {side} px ({reason_of(err)})") from err


def check_backbone(backbone: str) -> None:
    """Raise a `ModelError` where torchvision has no classification network of this name."""
    from torchvision import models

    names = models.list_models(module=models)
    if backbone not in names:
        near = difflib.get_close_matches(str(backbone), names, n=3) or ["vgg16", "resnet50", "squeezenet1_1"]
        raise ModelError(f"backbone {backbone!r} is no classification network of torchvision: did you mean {near}?")


def _network(backbone: str, pretrained: bool, hint: str) -> nn.Module:
    from torchvision import models

    check_backbone(backbone)
    if not pretrained:
        # A seed of its own: the same random network in every process and after a restart, and no number taken from
        # the caller's generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            options = {"init_weights": True} if backbone in ("googlenet", "inception_v3") else {}  # else they warn
            return models.get_model(backbone, weights=None, **options).eval()
    try:
        return models.get_model(backbone, weights="DEFAULT").eval()
    except (OSError, RuntimeError) as err:  # no network, or a download whose hash is wrong
        raise ModelError(f"torchvision's weights of {backbone} cannot be fetched ({err}): name a file{hint}") from err


def _load(extractor: nn.Module, network: nn.Module, backbone: str, path: Path) -> None:
    """Strictly: all that the extractor needs, and nothing that is not the network's."""
    stored = _read(path)
    expected, known = extractor.state_dict(), network.state_dict()
    # Counters of batch norms are not used in eval mode, and files from before torch 0.4.1 lack them.
    missing = sorted(k for k in set(expected) - set(stored) if not k.endswith("num_batches_tracked"))
    surplus = sorted(set(stored) - set(known))
    if surplus or missing:
        kind, names = ("surplus", surplus) if surplus else ("missing", missing)
        raise ModelError(f"{path}: not weights of {backbone}: {len(names)} {kind}, the first is {names[0]}")
    weights = {
        name: checked(f"{path}: {name}", stored[name], value.shape)
        for name, value in expected.items()
        if name in stored
    }
    extractor.load_state_dict(weights, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise ModelError(f"{path}: no such file of weights") from err
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as err:
        # torch's own message advises to unpickle the file without the check.
        raise ModelError(f"{path}: not a readable .safetensors file, nor a .pth file that holds tensors only") from err
    if not isinstance(stored, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in stored.items()):
        raise ModelError(f"{path}: not a state dict: tensors by name are wanted")
    return stored
