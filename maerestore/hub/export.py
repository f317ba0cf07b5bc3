"""Write a model in the layouts of other libraries, or without its decoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, PREPROCESSOR_NAME, WEIGHTS_NAME
from maerestore.hub.layouts import to_transformers
from maerestore.hub.save import in_dtype, write_files
from maerestore.model import MaskedAutoencoder
from maerestore.model.blocks import MASK_WEIGHT


def encoder_of(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """The same encoder without a decoder: all that features need; a copy, on the same device, of the same data type.

    Example:
        >>> from maerestore.model import MAEConfig
        >>> model = MaskedAutoencoder(MAEConfig(32, 8, 3, 32, 1, 2, 16, 1, 2))
        >>> encoder_of(model).config.has_decoder
        False
    """
    with torch.device("meta"):  # shapes alone: no weights are drawn from the program's generator
        encoder = MaskedAutoencoder(dataclasses.replace(model.config, decoder_depth=0))
    kept = encoder.state_dict().keys()
    weights = {name: value.clone() for name, value in model.state_dict().items() if name in kept}
    encoder.load_state_dict(weights, assign=True)
    for name in ("mean", "std"):
        encoder.register_buffer(name, getattr(model, name).clone(), persistent=False)
    return encoder.train(model.training)


def export_transformers(
    model: MaskedAutoencoder, folder: Path, *, dtype: torch.dtype = torch.float32, drop_mask_embed: bool = False
) -> None:
    """Write a model that `transformers.ViTMAEForPreTraining.from_pretrained(folder)` gives the same numbers with.

    An encoder without a decoder becomes a `ViTMAEModel`. The weights have their published names, which all releases
    of transformers read. Its processor resizes to the model's image size, bicubic.

    Args:
        model: what to write.
        folder: made if it is not there.
        dtype: of the weights in the file.
        drop_mask_embed: leave out the weights that tell the model which pixels of a partly known patch are known: the
            layout has no place for them. Features, and reconstructions with whole patches hidden, do not change.

    Raises:
        ModelError: a model that does not drop hidden patches; mask weights that are not zero, without
            `drop_mask_embed`; or a folder that cannot be written.

    Example:
        >>> export_transformers(mae, Path("vit-mae"), drop_mask_embed=True)                 # doctest: +SKIP
        >>> transformers.ViTMAEForPreTraining.from_pretrained("vit-mae")                    # doctest: +SKIP
    """
    if model.config.hidden != "drop":
        hidden = model.config.hidden
        raise ModelError(f"the model was trained with {hidden} in its hidden patches; transformers drops them")
    state = model.state_dict()
    mask_weight = state.pop(MASK_WEIGHT, None)
    if mask_weight is not None and bool(mask_weight.any()) and not drop_mask_embed:
        raise ModelError(
            "the model has weights for free-form pixel masks (mask_embed), which transformers has no place for: "
            "leave them out with drop_mask_embed=True (--drop-mask-embed)"
        )
    decoder = model.config.has_decoder
    weights = to_transformers(in_dtype(state, dtype), vit="vit." if decoder else "")
    write_files(
        folder,
        {WEIGHTS_NAME: {name: value.contiguous() for name, value in weights.items()}},
        {PREPROCESSOR_NAME: _processor(model), CONFIG_NAME: _config(model, dtype)},
    )


def _config(model: MaskedAutoencoder, dtype: torch.dtype) -> dict[str, Any]:
    c = model.config
    return {
        "architectures": ["ViTMAEForPreTraining" if c.has_decoder else "ViTMAEModel"],
        "model_type": "vit_mae",
        "image_size": c.image_size,
        "patch_size": c.patch_size,
        "num_channels": c.in_chans,
        "hidden_size": c.embed_dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "intermediate_size": int(c.embed_dim * c.mlp_ratio),
        "decoder_hidden_size": c.decoder_embed_dim,
        "decoder_num_hidden_layers": c.decoder_depth,
        "decoder_num_attention_heads": c.decoder_num_heads,
        "decoder_intermediate_size": int(c.decoder_embed_dim * c.mlp_ratio),
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": c.layer_norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "mask_ratio": 0.75,
        "norm_pix_loss": c.norm_pix_loss,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _processor(model: MaskedAutoencoder) -> dict[str, Any]:
    c = model.config
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": c.image_size, "width": c.image_size},
        "resample": 3,  # bicubic, as PIL counts them
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(c.mean),
        "image_std": list(c.std),
    }
