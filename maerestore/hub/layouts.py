"""The layouts that masked autoencoders are stored in, recognised and converted by the names of their weights.

=============  ===========================================  ====================================================
layout         one of its names                             used by
=============  ===========================================  ====================================================
reference      `blocks.0.attn.qkv.weight`                   Meta's checkpoints; timm (encoder only)
maerestore     `autoencoder.blocks.0.attn.qkv.weight`       this package
transformers   `vit.encoder.layer.0.attention.attention.`   transformers' ViTMAEForPreTraining, without `vit.` its
               `query.weight`, or                           ViTMAEModel (encoder only); older and current names
               `vit.layers.0.attention.q_proj.weight`
=============  ===========================================  ====================================================

Inside the package weights have their reference names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from maerestore.hub.errors import ModelError

AUTOENCODER_PREFIX = "autoencoder."
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile

_WHOLE = {  # transformers' name, without `vit.`, to the reference's
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
_IN_BLOCK = {  # the same inside a block; the published names first, then those of current modules
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# `decoder_encoder.layer` is what transformers 5 writes for the decoder's blocks, `decoder_layers` what 4 wrote.
_ENCODER_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)")
_DECODER_BLOCK = re.compile(r"decoder\.(?:decoder_layers|decoder_encoder\.layer|layers)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Named:
    """Weights under their reference names.

    Attributes:
        layout: "reference", "maerestore" or "transformers".
        weights: by reference name; one that the layout does not know starts with "?".
        origin: the name in the file, for each weight.
    """

    layout: str
    weights: dict[str, Tensor]
    origin: dict[str, str]

    def spell(self, name: str) -> str:
        """How the file would name a weight, for messages."""
        return self.origin.get(name) or spell(self.layout, name)


def recognise(keys: Iterable[str]) -> str:
    """The layout that names belong to.

    Raises:
        ModelError: none that is known.

    Example:
        >>> recognise(["blocks.0.norm1.weight", "patch_embed.proj.weight"])
        'reference'
    """
    keys = list(keys)
    if any(key.startswith(AUTOENCODER_PREFIX) for key in keys):
        return "maerestore"
    if any(key.startswith(("vit.embeddings.", "embeddings.patch_embeddings.")) for key in keys):
        return "transformers"
    if any(key.startswith(("patch_embed.", "blocks.")) for key in keys):
        return "reference"
    first = f"the first is {min(keys)}" if keys else "there are none"
    raise ModelError(f"no masked autoencoder of Meta, transformers, timm or maerestore, by its weights ({first})")


def to_reference(stored: dict[str, Tensor]) -> Named:
    """Rename the weights of any layout to their reference names; separate q, k and v are joined.

    Raises:
        ModelError: an unknown layout, two names for one weight, or q, k and v that do not fit one another.
    """
    weights = _unwrap(stored)
    layout = recognise(weights)
    origin: dict[str, str] = {}
    for key in weights:
        name = _reference_name(layout, key)
        if name in origin:
            raise ModelError(f"holds {name} twice, as {origin[name]} and {key}")
        origin[name] = key
    named = {name: weights[key] for name, key in origin.items()}
    if layout == "transformers":
        _join_attention(named, origin)
    return Named(layout, named, origin)


def to_transformers(weights: dict[str, Tensor], vit: str = "vit.") -> dict[str, Tensor]:
    """The published transformers names for weights under reference names; q, k and v are split.

    Args:
        weights: of a model; each must have a name in that layout.
        vit: prefix of the encoder: "vit." in a `ViTMAEForPreTraining`, "" in a `ViTMAEModel`.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[_transformers_name(name.replace(".qkv.", f".{letter}."), vit)] = part
        else:
            renamed[_transformers_name(name, vit)] = value
    return renamed


def spell(layout: str, name: str) -> str:
    """How a layout names a weight; for q, k and v of transformers the first of them."""
    if layout == "transformers":
        return _transformers_name(name.replace(".attn.qkv.", ".attn.q."), "vit.")
    return AUTOENCODER_PREFIX + name if layout == "maerestore" else name


def _unwrap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers of torch put before every name."""
    while prefix := next((p for p in _WRAPPERS if weights and all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _reference_name(layout: str, key: str) -> str:
    """The reference name of a key; one that the layout does not know becomes what no weight is called."""
    unknown = f"?{key}"
    if layout == "maerestore":
        return key.removeprefix(AUTOENCODER_PREFIX) if key.startswith(AUTOENCODER_PREFIX) else unknown
    if layout == "reference":
        return key
    bare = key.removeprefix("vit.")
    for pattern, blocks in ((_ENCODER_BLOCK, "blocks"), (_DECODER_BLOCK, "decoder_blocks")):
        if match := pattern.fullmatch(bare):
            module, dot, kind = match[2].rpartition(".")
            inner = _IN_BLOCK.get(module)
            return f"{blocks}.{match[1]}.{inner}{dot}{kind}" if inner else unknown
    if bare in _WHOLE:
        return _WHOLE[bare]
    module, dot, kind = bare.rpartition(".")
    return _WHOLE[module] + dot + kind if module in _WHOLE else unknown


def _transformers_name(name: str, vit: str) -> str:
    if match := re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        inner = next((theirs for theirs, ours in _IN_BLOCK.items() if ours == match[3]), match[3])
        stack = "decoder.decoder_layers" if match[1] else f"{vit}encoder.layer"
        return f"{stack}.{match[2]}.{inner}.{match[4]}"
    for theirs, ours in _WHOLE.items():
        prefix = "" if theirs.startswith("decoder.") else vit
        if name == ours or (name.startswith(ours + ".") and name.removeprefix(ours) in (".weight", ".bias")):
            return prefix + theirs + name.removeprefix(ours)
    return name


def _join_attention(named: dict[str, Tensor], origin: dict[str, str]) -> None:
    """Replace `attn.q`, `attn.k`, `attn.v` by `attn.qkv`, in this order along the first axis."""
    for name in [name for name in named if name.rpartition(".")[0].endswith(".attn.q")]:
        keys = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if any(key not in named for key in keys):
            continue  # the lonely ones are reported as surplus, and qkv as missing
        parts = [named[key] for key in keys]
        for key, part in zip(keys, parts, strict=True):
            if part.shape != parts[0].shape or part.ndim == 0:
                raise ModelError(
                    f"{origin[key]} has shape {tuple(part.shape)}, {origin[keys[0]]} {tuple(parts[0].shape)}"
                )
        joined = name.replace(".attn.q.", ".attn.qkv.")
        named[joined] = torch.cat([part.float() for part in parts])
        origin[joined] = origin[keys[0]]
        for key in keys:
            del named[key], origin[key]
