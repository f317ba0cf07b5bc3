"""Where a model's files lie in a folder, and what its `config.json` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maerestore.hub.errors import ModelError
from maerestore.hub.files import CONFIG_NAME, PREPROCESSOR_NAME, WEIGHTS_NAME, WEIGHTS_NAMES, weight_names
from maerestore.model import MAEConfig

if TYPE_CHECKING:
    from maerestore.inpaint.blend import BlendCurve

MODEL_TYPE = "maerestore"


class FillSettings(NamedTuple):
    """What the inpainting pipeline uses beside the networks, as they were fitted for a model.

    Attributes:
        curve: share of the autoencoder by distance, or None: not fitted.
        smooth: sigma of a low-pass over the autoencoder's fill, in its pixels.
        size: the side that windows are seen at, or None: the model's own.
    """

    curve: BlendCurve | None
    smooth: float
    size: int | None


def locate(source: Path) -> tuple[Path | None, Path]:
    """Where the config and the weights of a model are; of a training run's folder, those of its model.

    Args:
        source: a folder or a file, as for `maerestore.hub.load.load_autoencoder`.

    Returns:
        the config, None where there is none that says anything of the weights; and the weights. In a folder without
        weights both are paths where they should be.

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
        files = [source / n for n in weight_names([path.name for path in source.iterdir()])]
        if len(files) > 1:
            listed = ", ".join(path.name for path in files[:5]) + (", ..." if len(files) > 5 else "")
            raise ModelError(f"{source}: holds {len(files)} files of weights ({listed}): give the one that you want")
        if files:
            return (config if config.exists() and kind_of(read_json(config)) else None), files[0]
    return source / CONFIG_NAME, source / (present[0] if present else WEIGHTS_NAME)


def read_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a model of this package.

    Raises:
        ModelError: not there, no JSON object, or not a model of this package.
    """
    config = read_json(folder / CONFIG_NAME)
    if kind_of(config) != "maerestore":
        raise ModelError(f'{folder / CONFIG_NAME}: not a maerestore model (model_type should be "{MODEL_TYPE}")')
    return config


def read_notes(source: str | Path) -> dict[str, dict[str, Any]]:
    """What is kept with a model of this package beside its settings; nothing with those of other libraries.

    Args:
        source: a folder or a file, as for `maerestore.hub.load.load_autoencoder`.

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


def fill_settings(fill: dict[str, Any], patch_size: int, what: str) -> FillSettings:
    """The "fill" of the notes, checked.

    Raises:
        ModelError: settings that do not fit; it begins with `what`.
    """
    from maerestore.image import InputError
    from maerestore.inpaint.blend import BlendCurve
    from maerestore.inpaint.checks import check_fill

    try:
        curve = BlendCurve(**fill["curve"]) if "curve" in fill else None
        smooth = float(fill.get("smooth", 0.0))
        size = int(fill.get("size", 0)) or None
        check_fill(smooth, size, patch_size)
    except (TypeError, ValueError, OverflowError, InputError) as err:
        raise ModelError(f"{what} do not fit ({err})") from err
    return FillSettings(curve, smooth, size)


def read_config(source: str | Path) -> tuple[Path | None, dict[str, Any]]:
    """The path and content of the config of a model of this package; its content is empty for those of other libraries.

    Args:
        source: a folder or a file, as for `maerestore.hub.load.load_autoencoder`.

    Raises:
        ModelError: a config that cannot be read.
    """
    path, _ = locate(Path(source))
    config = read_json(path) if path else {}
    return path, config if kind_of(config) == "maerestore" else {}


def own_settings(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The settings in this package's config, checked.

    Args:
        path: of the config, for messages.
        config: its content.

    Raises:
        ModelError: settings that do not fit a `MAEConfig`, or a preprocessing that differs from them.
    """
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


def preprocessing(config: MAEConfig) -> dict[str, Any]:
    """How a photograph becomes the model's input, for readers that do not know this package.

    Returns:
        mean and std by channel, for pixels in [0, 1]; the side in pixels; the interpolation that resizes to it; and
        the factor that brings 8-bit pixels to [0, 1].
    """
    return {
        "mean": list(config.mean),
        "std": list(config.std),
        "size": config.image_size,
        "interpolation": "bicubic",
        "rescale": 1 / 255,
    }


def kind_of(config: dict[str, Any]) -> str | None:
    """Whose `config.json` it is: "maerestore", "transformers", "timm", or None."""
    model_type, architecture = config.get("model_type"), config.get("architecture")
    if model_type == MODEL_TYPE and "autoencoder" in config:
        return "maerestore"
    if model_type == "vit_mae":
        return "transformers"
    return "timm" if model_type is None and isinstance(architecture, str) and architecture.startswith("vit_") else None


def read_json(path: Path, expected: str = f"a model folder holds {CONFIG_NAME}") -> dict[str, Any]:
    """The content of a JSON file; empty where it is no object.

    Args:
        path: the file.
        expected: what to say besides where it cannot be read.

    Raises:
        ModelError: no such file, or none that can be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); {expected}") from err
    except (ValueError, RecursionError) as err:
        raise ModelError(f"{path}: not valid JSON ({str(err) or type(err).__name__})") from err
    return content if isinstance(content, dict) else {}


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """The content of transformers' `preprocessor_config.json`, where there is one.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / PREPROCESSOR_NAME
    return read_json(path) if path.exists() else None
