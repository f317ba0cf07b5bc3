"""Read a model's configuration and weights, strictly, from any of the layouts that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from maerestore.hub.config import MODEL_TYPE, kind_of, locate, own_settings, read_json, read_preprocessor
from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME
from maerestore.hub.foreign import (
    check_keywords,
    complete_config,
    sizes_of,
    stated_by_meta,
    stated_by_timm,
    stated_by_transformers,
)
from maerestore.hub.layouts import Named, to_reference
from maerestore.hub.weights import checked, read_weights
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.config import LARGEST_GRID
from maerestore.model.positions import sincos_positions
from maerestore.threads import one_thread_if_forked

_TABLES = {"pos_embed": "embed_dim", "decoder_pos_embed": "decoder_embed_dim"}


def load_autoencoder(source: str | Path, *, need_decoder: bool = False, **settings: Any) -> MaskedAutoencoder:
    """Read a model strictly: no weight is missing or surplus, each has its shape and is finite.

    The layout is recognised by the names of the weights: this package's, Meta's, transformers' ViTMAE (old and current
    names), timm's; see `maerestore.hub.layouts`. Nothing in a file is ever executed. What the files do not say is
    known for the published models: heads for widths of 192, 384, 768, 1024 and 1280 (decoder: 512); whether targets
    were normalised by the names that Meta gave its files, raw otherwise; the statistics of ImageNet for RGB.

    Args:
        source: a folder (this package's, transformers' or timm's) or a single file of weights. A file that has one
            of the standard names is read together with the `config.json` beside it.
        need_decoder: refuse a model that holds an encoder only.
        **settings: any field of `MAEConfig`, for what the files do not say, or to overrule what their config says:
            `num_heads`, `decoder_num_heads`, `norm_pix_loss`, `mean`, `std`, `image_size`, ... Those that the shapes
            of the weights fix have to agree with them.

    Returns:
        the model in float32, in eval mode, on the CPU.

    Raises:
        ModelError: files that are missing or do not fit, settings that contradict them, or facts that nobody stated;
            one line.

    Example:
        >>> from maerestore.hub.fetch import resolve_model
        >>> load_autoencoder(resolve_model("features")).config.has_decoder
        False
        >>> model = load_autoencoder("mae_visualize_vit_base.pth", norm_pix_loss=False)     # doctest: +SKIP
    """
    one_thread_if_forked()  # a copy of the weights is a computation
    source = Path(source)
    check_keywords(settings)
    config_path, weights_path = locate(source)
    config = read_json(config_path) if config_path else {}
    kind = kind_of(config) if config_path else None
    if config_path and kind is None:
        raise ModelError(
            f'{config_path}: not a maerestore model (model_type "{MODEL_TYPE}"), nor one of transformers (model_type '
            '"vit_mae") or timm (architecture "vit_...")'
        )
    own = own_settings(config_path, config) if config_path and kind == "maerestore" else {}
    stored = read_weights(weights_path)
    try:
        named = to_reference(stored.weights)
        if kind and {"timm": "reference"}.get(kind, kind) != named.layout:
            raise ModelError(f"its weights have {named.layout} names, but {CONFIG_NAME} is one of {kind}")
        sizes = sizes_of(named.weights)
        if need_decoder and not sizes["decoder_depth"]:
            raise ModelError(
                "holds an encoder only, which gives features but cannot reconstruct; "
                "take the checkpoint with its decoder (Meta's *_full.pth or mae_visualize_*.pth)"
            )
        if kind == "transformers":
            known = {"mean", "std"} <= set(settings)
            processor = None if known else read_preprocessor(source.parent if source.is_file() else source)
            stated = stated_by_transformers(config, processor, encoder_only=not sizes["decoder_depth"])
        elif kind == "timm":
            stated = stated_by_timm(config)
        elif named.layout == "reference":
            stated = stated_by_meta(stored.training, weights_path.name)
        else:
            stated = own
        return _build(named, complete_config(sizes, stated, settings))
    except ModelError as err:
        raise ModelError(f"{weights_path}: {err}") from err


def _build(named: Named, config: MAEConfig) -> MaskedAutoencoder:
    """A model from weights that are checked one by one against what the config asks for."""
    if config.grid_size > LARGEST_GRID:
        raise ModelError(f"image_size {config.image_size} makes {config.grid_size} patches a side: too many")
    with torch.device("meta"):  # shapes without memory, and without drawing random numbers for the weights
        model = MaskedAutoencoder(config)
    expected = model.state_dict()
    given = named.weights
    surplus = sorted(named.spell(name) for name in set(given) - set(expected))
    missing = sorted(set(expected) - set(given) - set(_TABLES))  # tables without trained values follow from the config
    if surplus:
        head = any(part in surplus[0] for part in ("head.", "fc_norm.", "classifier."))
        hint = "; a classifier's head is no part of a masked autoencoder" if head else ""
        raise ModelError(f"{len(surplus)} surplus weight(s), the first is {surplus[0]}{hint}")
    if missing:
        raise ModelError(f"{len(missing)} missing weight(s), the first is {named.spell(missing[0])}")
    weights = {name: checked(named.spell(name), value, expected[name].shape) for name, value in given.items()}
    grid = (config.grid_size, config.grid_size)
    for name in set(_TABLES) & set(expected) - set(weights):
        weights[name] = sincos_positions(getattr(config, _TABLES[name]), grid, "cpu")
    model.load_state_dict(weights, assign=True)
    for name in ("mean", "std"):
        value = torch.tensor(getattr(config, name), dtype=torch.float32, device="cpu")  # whatever the defaults are
        model.register_buffer(name, value.view(1, -1, 1, 1), persistent=False)
    return model.eval()
