"""Write the model card of a repository on the Hub."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from maerestore.hub.files import PICTURE_SUFFIXES
from maerestore.model import MAEConfig, MaskedAutoencoder
from maerestore.model.refiner import Refiner, RefinerConfig

_PICTURES = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\b[^>]*?\bsrc=["']([^"']+)""", re.IGNORECASE)

PAPER = "https://arxiv.org/abs/2111.06377"


def model_card(
    config: MAEConfig,
    training: dict[str, Any] | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    refiner: RefinerConfig | None = None,
    refiner_training: dict[str, Any] | None = None,
) -> str:
    """The README.md of a model: what it is, how its input is prepared, how it is used, how it was trained.

    States what follows from the configuration and what `training` holds, and nothing else; data, licences and figures
    are for the author to add.

    Args:
        config: of the model.
        training: facts about the training, as `config.json` keeps them.
        repo_id: "org/name" that the examples load.
        license: identifier of the Hub (apache-2.0, cc-by-4.0, other, ...); left out if None.
        refiner: of the refiner beside the model, where there is one.
        refiner_training: facts about its training, as `config.json` keeps them.

    Returns:
        Markdown with YAML front matter.

    Example:
        >>> print(model_card(MAEConfig(), repo_id="org/name").splitlines()[1])
        library_name: maerestore
    """
    from huggingface_hub import ModelCardData

    reconstructs = config.has_decoder
    facts = ModelCardData(
        library_name="maerestore",
        license=license,
        pipeline_tag="image-to-image" if reconstructs else "image-feature-extraction",
        tags=["masked-autoencoder", *(["inpainting", "image-restoration"] if reconstructs else ["vision"])],
    )
    name = repo_id or "path/to/this/folder"
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {name.rpartition('/')[2]}" if repo_id else "# A masked autoencoder",
        _about(config),
        "## Sizes",
        _table(_sizes(config)),
        "## Input",
        _input(config),
        "## Use",
        _use(config, name),
        "## Training",
        _facts(training),
        *([] if refiner is None else ["## Refiner", _refiner(refiner), _facts(refiner_training)]),
        "## Limits",
        _limits(config, refiner is not None),
    ]
    return "\n\n".join(parts) + "\n"


def pictures_of(card: Path) -> list[str]:
    """The pictures that a card shows, those inside its folder (links resolved) and not hidden.

    Args:
        card: the README.md.

    Returns:
        their names from the card's folder, sorted.
    """
    folder, inside = card.parent, card.parent.resolve()
    text = card.read_text(encoding="utf-8", errors="replace")

    def is_shown(name: str) -> bool:
        if ":" in name or name.startswith("/") or PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
            return False
        try:
            path = (folder / name).resolve()
            if not path.is_file() or not path.is_relative_to(inside):
                return False
        except (OSError, RuntimeError, ValueError):  # too long a name, links in a circle, a character that none has
            return False
        return not any(step.startswith(".") for step in (*PurePosixPath(name).parts, *path.relative_to(inside).parts))

    # "./a.png" is "a.png": a commit may name a file once.
    linked = {PurePosixPath(name).as_posix() for found in _PICTURES.findall(text) for name in found if name}
    return sorted(name for name in linked if is_shown(name))


def _about(config: MAEConfig) -> str:
    with torch.device("meta"):  # shapes only
        parameters = sum(p.numel() for p in MaskedAutoencoder(config).parameters() if p.requires_grad)
    kind = "encoder and decoder" if config.has_decoder else "encoder only"
    text = f"A masked autoencoder ([He et al. 2022]({PAPER})), {kind}, {parameters / 1e6:.1f} M parameters."
    if config.mask_embed:
        text += " Patches of which some pixels are unknown are embedded together with their pixel mask."
    return text


def _sizes(config: MAEConfig) -> dict[str, Any]:
    sizes = {
        "encoder": f"width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads",
        "patch": f"{config.patch_size} px",
        "position table": f"{config.image_size} x {config.image_size} px, interpolated for other sizes",
    }
    if config.has_decoder:
        d, n, heads = config.decoder_embed_dim, config.decoder_depth, config.decoder_num_heads
        sizes["decoder"] = f"width {d}, {n} blocks, {heads} heads"
        sizes["predicts"] = (
            "pixels normalised by mean and variance of their patch" if config.norm_pix_loss else "pixels"
        )
    return sizes


def _input(config: MAEConfig) -> str:
    def listed(values: tuple[float, ...]) -> str:
        return ", ".join(f"{v:g}" for v in values)

    kind = "Gray images" if config.in_chans == 1 else "RGB images"
    return (
        f"{kind} in [0, 1], less the mean ({listed(config.mean)}), divided by the standard deviation "
        f"({listed(config.std)}). Height and width are multiples of {config.patch_size}."
    )


def _use(config: MAEConfig, name: str) -> str:
    if not config.has_decoder:
        return (
            "```python\nfrom maerestore import MaskedAutoencoder\n\n"
            f'mae = MaskedAutoencoder.from_pretrained("{name}")\n'
            "latent = mae.encode(mae.normalize(images))[0]  # (N, 1 + patches, width), class token first\n```"
        )
    return (
        "```python\nfrom maerestore import Inpainter\n\n"
        f'inpainter = Inpainter.from_pretrained("{name}")\n'
        "filled = inpainter.inpaint(image, mask)\n```\n\n"
        f"```bash\nmaerestore inpaint photo.jpg mask.png --model {name}\n```"
    )


def _refiner(config: RefinerConfig) -> str:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Refiner(config).parameters())
    copies = " and copies features along the decoder's attention" if config.attention_copy else ""
    return (
        f"`refiner.safetensors` holds a refiner of {parameters / 1e6:.1f} M parameters, a convolutional network that "
        f"makes the autoencoder's fill sharp. It takes tokens of block {config.feature_layer} of the decoder{copies}. "
        f"Widths {', '.join(map(str, config.widths))}; dilations {', '.join(map(str, config.dilations))}. Its training:"
    )


def _limits(config: MAEConfig, refined: bool = False) -> str:
    if not config.has_decoder:
        return "- Holds no decoder: it gives features, and cannot reconstruct or fill holes."
    limits = [
        "- What stands in a filled hole is made up: no way to find out what a picture showed.",
        "- Where it was trained with a mean squared error, fills are blurred: the mean of all likely pictures"
        + ("; the refiner draws one of them, with texture that is made up." if refined else "."),
    ]
    if config.norm_pix_loss:
        limits.append(
            "- Predicts normalised pixels: brightness and contrast of a hidden patch have to be guessed from outside."
        )
    return "\n".join(limits)


def _facts(facts: dict[str, Any] | None) -> str:
    return _table(_flat(facts)) if facts else "Not stated."


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _table(rows: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        return " ".join(str(value).split()).replace("|", "\\|")

    return "\n".join(["| | |", "|---|---|", *(f"| {cell(key)} | {cell(value)} |" for key, value in rows.items())])
