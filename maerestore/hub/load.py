"""Read a model's configuration and weights, strictly, from any of the layouts that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, HEAD_NAME, PREPROCESSOR_NAME, REFINER_NAME, WEIGHTS_NAME, WHITENING_NAME
from maerestore.hub.foreign import (
    check_keywords,
    complete_config,
    sizes_of,
    stated_by_meta,
    stated_by_timm,
    stated_by_transformers,
)
from maerestore.hub.layouts import Named, to_reference
from maerestore.hub.save import MODEL_TYPE, preprocessing
from maerestore.hub.weights import checked, read_weights
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.positions import sincos_positions
from maerestore.threads import one_thread_if_forked

WEIGHTS_NAMES = (WEIGHTS_NAME, WEIGHTS_NAME + ".index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_NO_AUTOENCODER = (REFINER_NAME, HEAD_NAME, WHITENING_NAME)
_TABLES = {"pos_embed": "embed_dim", "decoder_pos_embed": "decoder_embed_dim"}
_LARGEST_GRID = 1024  # patches along a side; a position table made for more comes from a damaged config


def read_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a model of this package.

    Raises:
        ModelError: not there, no JSON object, or not a model of this package.
    """
    config = _read_json(folder / CONFIG_NAME)
    if _kind(config) != "maerestore":
        raise ModelError(f'{folder / CONFIG_NAME}: not a maerestore model (model_type should be "{MODEL_TYPE}")')
    return config


def read_notes(source: str | Path) -> dict[str, dict[str, Any]]:
    """What is kept with a model of this package beside its settings; nothing with those of other libraries.

    Args:
        source: a folder or a file, as for `load_autoencoder`.

    Returns:
        of "fill" (settings of the inpainting pipeline) and "training" (facts about it), those that there are.

    Raises:
        ModelError: a config that cannot be read, or notes that are no mapping.
    """
    config_path, config = read_config(source)
    notes = {name: config[name] for name in ("fill", "training") if config.get(name)}
    for name, value in notes.items():
        if not isinstance(value, dict):
            raise ModelError(f"{config_path}: {name} must be a mapping")
    return notes


def read_config(source: str | Path) -> tuple[Path | None, dict[str, Any]]:
    """The path and content of the config of a model of this package; its content is empty for those of other libraries.

    Args:
        source: a folder or a file, as for `load_autoencoder`.

    Raises:
        ModelError: a config that cannot be read.
    """
    path, _ = locate(Path(source))
    config = _read_json(path) if path else {}
    return path, config if _kind(config) == "maerestore" else {}


def load_autoencoder(source: str | Path, *, need_decoder: bool = False, **settings: Any) -> MaskedAutoencoder:
    """Read a model strictly: every weight there, none too many, each of its shape and finite.

    The layout is told from the names of the weights: this package's, Meta's, transformers' ViTMAE (older and current
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
        ModelError: files that do not fit, said in one line.

    Example:
        >>> model = load_autoencoder("mae_visualize_vit_base.pth", norm_pix_loss=False)     # doctest: +SKIP
    """
    one_thread_if_forked()  # a copy of the weights is a computation
    source = Path(source)
    check_keywords(settings)
    config_path, weights_path = locate(source)
    config = _read_json(config_path) if config_path else {}
    kind = _kind(config) if config_path else None
    if config_path and kind is None:
        raise ModelError(
            f'{config_path}: not a maerestore model (model_type "{MODEL_TYPE}"), nor one of transformers (model_type '
            '"vit_mae") or timm (architecture "vit_...")'
        )
    own = _own_settings(config_path, config) if config_path and kind == "maerestore" else {}
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
            processor = None if known else _read_optional(source.parent if source.is_file() else source)
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


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Turn the name of a device into one that is there.

    Args:
        name: "auto" (CUDA, then MPS, then CPU), or any device of torch: "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ModelError: an unknown name, or a device that this machine lacks.

    Example:
        >>> pick_device("cpu"), pick_device(torch.device("cpu", 0))
        (device(type='cpu'), device(type='cpu'))
    """
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind in there if there[kind]))
    try:
        device = torch.device(name if isinstance(name, torch.device) else str(name))
    except RuntimeError as err:
        raise ModelError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:0, mps or another of torch") from err
    count = _devices(device.type)
    if (device.index or 0) >= count:
        others = f": there are {count} of them" if device.index and count > 1 else ""
        raise ModelError(f"device {device} is not available here{others}: use auto or cpu")
    return torch.device("cpu") if device.type == "cpu" else device  # tensors know no cpu:0


def _devices(kind: str) -> int:
    """How many devices of a kind this machine has."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind in ("cpu", "mps"):
        return int(kind == "cpu" or torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # torch.xpu and the like; "meta", which holds no numbers, has none
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        return 0
    return int(module.device_count())


def _build(named: Named, config: MAEConfig) -> MaskedAutoencoder:
    """A model from weights that are checked one by one against what the config asks for."""
    if config.grid_size > _LARGEST_GRID:
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


def locate(source: Path) -> tuple[Path | None, Path]:
    """The config, where there is one, and the weights of a folder or file; of a run folder, those of its model.

    Args:
        source: as for `load_autoencoder`. Whether the files are there is not looked at.

    Raises:
        ModelError: a folder with several files of weights, none of which has a standard name.
    """
    run = source.parent if source.name == "checkpoint.pt" else source
    if not (source / CONFIG_NAME).exists() and (run / "checkpoint.pt").is_file() and (run / "model").is_dir():
        source = run / "model"  # the checkpoint itself is for resuming: the averaged weights are the model
    if source.is_file():
        config = source.with_name(CONFIG_NAME)
        return (config if source.name in WEIGHTS_NAMES and config.is_file() else None), source
    present = [name for name in WEIGHTS_NAMES if (source / name).exists()]
    # A repository may hold just a checkpoint; a file of a standard name, though, wants the config that goes with it.
    if source.is_dir() and not present:
        config = source / CONFIG_NAME
        kinds = (".pth", ".safetensors") if config.exists() else (".pth", ".pt", ".safetensors", ".bin")
        files = [p for p in sorted(source.iterdir()) if p.suffix in kinds and p.name not in _NO_AUTOENCODER]
        if len(files) > 1:
            listed = ", ".join(path.name for path in files[:5]) + (", ..." if len(files) > 5 else "")
            raise ModelError(f"{source}: holds {len(files)} files of weights ({listed}): give the one that you want")
        if files:
            return (config if config.exists() and _kind(_read_json(config)) else None), files[0]
    return source / CONFIG_NAME, source / (present[0] if present else WEIGHTS_NAME)


def _kind(config: dict[str, Any]) -> str | None:
    """Whose `config.json` it is: "maerestore", "transformers", "timm", or None."""
    model_type, architecture = config.get("model_type"), config.get("architecture")
    if model_type == MODEL_TYPE and "autoencoder" in config:
        return "maerestore"
    if model_type == "vit_mae":
        return "transformers"
    return "timm" if model_type is None and isinstance(architecture, str) and architecture.startswith("vit_") else None


def _own_settings(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The settings in this package's config, checked."""
    settings = config["autoencoder"]
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: autoencoder must be a mapping")
    try:
        checked = MAEConfig.from_dict(settings)
    except (ValueError, OverflowError) as err:  # may show a name of the file, with line breaks in it
        raise ModelError(f"{path}: {' '.join(str(err).split())}") from err
    stated = config.get("preprocessing")
    if stated is not None:
        expected = preprocessing(checked)
        if not isinstance(stated, dict) or set(stated) - set(expected):
            raise ModelError(f"{path}: preprocessing must be a mapping of {', '.join(expected)}")
        if wrong := [name for name in stated if stated[name] != expected[name]]:
            raise ModelError(
                f"{path}: preprocessing states {wrong[0]} {stated[wrong[0]]!r}, autoencoder {expected[wrong[0]]!r}"
            )
    return checked.to_dict()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); a model folder holds {CONFIG_NAME}") from err
    except (ValueError, RecursionError) as err:
        raise ModelError(f"{path}: not valid JSON ({str(err) or type(err).__name__})") from err
    return content if isinstance(content, dict) else {}


def _read_optional(folder: Path) -> dict[str, Any] | None:
    path = folder / PREPROCESSOR_NAME
    return _read_json(path) if path.exists() else None
