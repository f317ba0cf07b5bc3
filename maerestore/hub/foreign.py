"""The settings of a checkpoint: sizes from its shapes, the rest from its config, the caller, or known models.

Facts come in three ranks. The shapes of the weights cannot be argued with. What a config states must agree with them.
A keyword of the caller may replace what is stated or supply what is not, but must agree with the shapes as well. What
is left is known for the published models, and asked for otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from maerestore.hub.errors import ModelError
from maerestore.model import MAEConfig
from maerestore.model.blocks import MASK_WEIGHT

ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # ViT-Ti, -S, -B, -L, -H by width
DECODER_HEADS = {512: 16}
_WIDEST = 1 << 20  # of a layer; a config that states more is damaged
_SETTINGS = tuple(field.name for field in fields(MAEConfig))


def sizes_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings that the shapes of a model's weights fix; each one only where its weight is there.

    Args:
        weights: under their reference names.

    Raises:
        ModelError: shapes that no masked autoencoder has.
    """
    projection = weights.get("patch_embed.proj.weight")
    if projection is None:
        raise ModelError("1 missing weight(s), the first is patch_embed.proj.weight")
    if projection.ndim != 4 or projection.shape[2] != projection.shape[3] or 0 in projection.shape:
        raise ModelError(f"the patch embedding has shape {tuple(projection.shape)}, expected (width, channels, p, p)")
    width, channels, patch, _ = projection.shape
    sizes: dict[str, Any] = {"patch_size": patch, "in_chans": channels, "embed_dim": width}
    sizes["depth"] = _blocks(weights, "blocks")
    sizes["mask_embed"] = MASK_WEIGHT in weights
    sizes["decoder_depth"] = _blocks(weights, "decoder_blocks")
    embed = weights.get("decoder_embed.weight")
    if embed is not None and embed.ndim == 2:
        sizes["decoder_embed_dim"] = embed.shape[0]
    hidden = weights.get("blocks.0.mlp.fc1.weight")
    if hidden is not None and hidden.ndim == 2:
        sizes["mlp_ratio"] = ratio(hidden.shape[0], width)
        decoder_hidden = weights.get("decoder_blocks.0.mlp.fc1.weight")
        if decoder_hidden is not None and decoder_hidden.ndim == 2 and "decoder_embed_dim" in sizes:
            narrow = sizes["decoder_embed_dim"]
            if int(narrow * sizes["mlp_ratio"]) != decoder_hidden.shape[0]:
                raise ModelError(
                    f"the MLP is {hidden.shape[0]} wide for {width} in the encoder and {decoder_hidden.shape[0]} for "
                    f"{narrow} in the decoder; both need the same ratio (mlp_ratio)"
                )
    for name in ("pos_embed", "decoder_pos_embed"):
        if name in weights and "image_size" not in sizes:
            sizes["image_size"] = _image_size(name, weights[name], patch)
    return sizes


def stated_by_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, encoder_only: bool = False
) -> dict[str, Any]:
    """The settings in transformers' `config.json` and, where there is one, `preprocessor_config.json`.

    Args:
        config: of a model of type `vit_mae`.
        processor: None where there is none.
        encoder_only: whether the weights are. Such a config states sizes of a decoder nevertheless: they are left out,
            unless the config says that the model is one for pretraining.

    Raises:
        ModelError: a network that differs from the reference's.
    """
    for name, expected in (("hidden_act", "gelu"), ("qkv_bias", True)):
        if config.get(name, expected) != expected:
            raise ModelError(f"{name} is {config[name]!r}: only models with {expected!r} can be loaded")
    stated = {
        ours: config[theirs]
        for ours, theirs in (
            ("in_chans", "num_channels"),
            ("embed_dim", "hidden_size"),
            ("depth", "num_hidden_layers"),
            ("num_heads", "num_attention_heads"),
            ("decoder_embed_dim", "decoder_hidden_size"),
            ("decoder_depth", "decoder_num_hidden_layers"),
            ("decoder_num_heads", "decoder_num_attention_heads"),
        )
        if theirs in config
    }
    for name in ("image_size", "patch_size"):
        if name in config:
            stated[name] = _one_side(name, config[name])
    for name, default in (("norm_pix_loss", False), ("layer_norm_eps", 1e-12)):  # the library's defaults
        stated[name] = config.get(name, default)
    for wide, narrow in (("intermediate_size", "hidden_size"), ("decoder_intermediate_size", "decoder_hidden_size")):
        for name in (wide, narrow):
            if type(config.get(name)) is int and config[name] > _WIDEST:
                raise ModelError(f"{name} is {_shown(config[name])}: at most {_WIDEST} can be loaded")
        if all(type(config.get(key)) is int and config[key] > 0 for key in (wide, narrow)):
            stated["mlp_ratio" if wide == "intermediate_size" else "decoder mlp_ratio"] = ratio(
                config[wide], config[narrow]
            )
    if processor is not None:
        stated |= _statistics(processor, config.get("num_channels", 3))
    architectures = config.get("architectures")
    for_pretraining = isinstance(architectures, list) and "ViTMAEForPreTraining" in architectures
    if encoder_only and not for_pretraining:
        return {name: value for name, value in stated.items() if not name.startswith("decoder")}
    return stated


def stated_by_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the `config.json` of a model that timm put on the Hub."""
    tag = config.get("pretrained_cfg")
    data = tag if isinstance(tag, Mapping) else config  # at the top in old files
    stated = {name: data[name] for name in ("mean", "std") if name in data}
    if "num_features" in config:
        stated["embed_dim"] = config["num_features"]
    arguments = config.get("model_args")
    if isinstance(arguments, Mapping):
        known = ("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio")
        stated |= {name: arguments[name] for name in known if name in arguments}
    return stated


def stated_by_meta(training: Mapping[str, Any], file_name: str) -> dict[str, Any]:
    """Whether the targets were normalised: by the training arguments in the file, else by its published name.

    Args:
        training: the `args` of the checkpoint; empty where it has none.
        file_name: its name; `mae_visualize_*` predicts raw pixels, `mae_pretrain_*_full*` normalised ones.
    """
    if isinstance(training.get("norm_pix_loss"), bool):
        return {"norm_pix_loss": training["norm_pix_loss"]}
    if file_name.startswith("mae_visualize"):
        return {"norm_pix_loss": False}
    if re.match(r"mae_pretrain_.*_full", file_name):
        return {"norm_pix_loss": True}
    return {}


def check_keywords(given: Mapping[str, Any]) -> None:
    """Refuse a keyword that is no setting of a model.

    Raises:
        ModelError: naming it.
    """
    for name in given:
        if name not in _SETTINGS:
            raise ModelError(f"unknown setting {name!r}: choose from {', '.join(_SETTINGS)}")


def complete_config(
    sizes: Mapping[str, Any], stated: Mapping[str, Any], given: Mapping[str, Any], config_name: str = "config.json"
) -> MAEConfig:
    """Combine the settings of a model; see the module's docstring for which counts.

    Args:
        sizes: from `sizes_of`.
        stated: from a config.
        given: keywords of the caller.
        config_name: what messages call the source of `stated`.

    Raises:
        ModelError: facts that contradict each other, or one that nobody stated.
    """
    check_keywords(given)
    encoder_only = sizes["decoder_depth"] == 0
    if encoder_only and (lost := [name for name in given if name.startswith("decoder_") and given[name] != 0]):
        raise ModelError(f"{lost[0]}={given[lost[0]]!r} does not fit: the file holds an encoder only")
    for name, value in stated.items():
        _agree(name, value, sizes, f"{config_name} states {name.split()[-1]} {_shown(value)}")
    for name, value in given.items():
        _agree(name, value, sizes, f"{name}={_shown(value)} does not fit")
    values = {name: value for name, value in {**sizes, **stated, **given}.items() if name in _SETTINGS}
    if "image_size" not in values:
        raise ModelError("holds no position table, so its image size is not known: give image_size=...")
    _supply_heads(values)
    if values["in_chans"] != 3 and not {"mean", "std"} <= set(values):
        raise ModelError("does not say what its gray images are normalised with: give mean=(...,) and std=(...,)")
    for name in ("mean", "std"):
        if isinstance(values.get(name), (int, float)):
            values[name] = (values[name],) * values["in_chans"]
    try:
        return MAEConfig.from_dict(values)
    except (ValueError, TypeError, OverflowError) as err:
        raise ModelError(str(err)) from err


def ratio(hidden: int, width: int) -> float:
    """The smallest float that gives an MLP of `hidden` when a width is multiplied by it and rounded down.

    Example:
        >>> ratio(3072, 768), int(ratio(100, 48) * 48)
        (4.0, 100)
    """
    value = hidden / width
    return value if int(width * value) == hidden else math.nextafter(value, math.inf)


def _agree(name: str, value: Any, sizes: Mapping[str, Any], claim: str) -> None:
    if name == "decoder mlp_ratio":
        name = "mlp_ratio"
    if name not in sizes or value == sizes[name]:
        return
    if name == "mlp_ratio" and isinstance(value, (int, float)) and 0 < value <= _WIDEST:
        width = sizes["embed_dim"]
        if int(width * value) == int(width * sizes[name]):
            return
    hint = "; other sizes need no setting, the model stretches its position table" if name == "image_size" else ""
    raise ModelError(f"{claim}, but the weights are of {name} {sizes[name]!r}{hint}")


def _shown(value: Any) -> str:
    """A value of a config for messages; a damaged one may be very long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _supply_heads(values: dict[str, Any]) -> None:
    for name, width, known in (
        ("num_heads", "embed_dim", ENCODER_HEADS),
        ("decoder_num_heads", "decoder_embed_dim", DECODER_HEADS),
    ):
        if name in values or width not in values:
            continue
        if values[width] not in known:
            raise ModelError(
                f"does not say how many attention heads a width of {values[width]} has: give {name}=..., "
                f"or make a model folder with `maerestore export --{name.replace('_', '-')} N`"
            )
        values[name] = known[values[width]]


def _blocks(weights: Mapping[str, Tensor], stack: str) -> int:
    """How many blocks have weights; counted, so that a huge number in a name costs nothing."""
    pattern = re.compile(rf"{stack}\.(\d+)\.")
    return len({match[1] for name in weights if (match := pattern.match(name))})


def _image_size(name: str, table: Tensor, patch: int) -> int:
    side = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] > 1 else 0
    if side == 0 or side * side != table.shape[1] - 1:
        raise ModelError(f"{name} has shape {tuple(table.shape)}, expected (1, 1 + a square of patches, width)")
    return side * patch


def _one_side(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        if value[0] != value[1]:
            raise ModelError(f"{name} is {list(value)}: only squares can be loaded")
        return value[0]
    return value


def _statistics(processor: Mapping[str, Any], channels: Any) -> dict[str, Any]:
    """Mean and std of a preprocessor's config, for images in [0, 1]."""
    factor = processor.get("rescale_factor", 1 / 255)
    if not (processor.get("do_rescale", True) and isinstance(factor, (int, float)) and abs(factor * 255 - 1) <= 1e-4):
        raise ModelError(
            "the preprocessor does not scale pixels by 1/255: give mean=... and std=... for images in [0, 1]"
        )
    if not processor.get("do_normalize", True):
        if channels not in (1, 3):
            raise ModelError(f"num_channels must be 1 or 3, got {_shown(channels)}")
        return {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    return {ours: processor[key] for ours, key in (("mean", "image_mean"), ("std", "image_std")) if key in processor}
