"""The model card of a classifier on the Hub."""

from __future__ import annotations

from typing import Any

from maerestore.features.classify.head_config import HeadConfig
from maerestore.wording import counted

_KINDS = {
    "knn": "a vote of the {k} nearest training images, by cosine similarity, at temperature {temperature}",
    "linear": "a linear layer, trained with SGD at the best of several learning rates, {lr}",
    "logistic": "logistic regression with an L2 penalty of inverse strength C = {C}",
    "finetune": "a linear layer on the mean of the patch tokens, tuned with the encoder, epoch {kept} of {epochs}",
}
_MOST_NAMES = 50


def classifier_card(config: HeadConfig, repo_id: str | None = None, license: str | None = None) -> str:
    """The README.md of a classifier: its classes, its features, its accuracy, and how to use it.

    Args:
        config: of the head.
        repo_id: "org/name" that the examples load.
        license: identifier of the Hub; left out if None.

    Returns:
        Markdown with YAML front matter.
    """
    from huggingface_hub import ModelCardData

    facts = ModelCardData(
        library_name="maerestore",
        license=license,
        pipeline_tag="image-classification",
        tags=["image-classification", "masked-autoencoder"],
    )
    name = repo_id or "path/to/this/folder"
    features = "the encoder in this repository" if config.model is None else f"the model `{config.model}` of maerestore"
    features += ", whitened" if config.whitened else ""
    about = (
        f"Tells {len(config.classes)} classes of images apart, by {counted(config.dim, 'feature')} of {features}: "
        f"{_KINDS[config.method].format_map(config.chosen)}."
    )
    use = (
        "```python\nfrom maerestore import Classifier\n\n"
        f'classifier = Classifier.from_pretrained("{name}")\n'
        'classifier.predict("photo.jpg")[0].label\n```\n\n'
        f"```bash\nmaerestore classify predict {name} photo.jpg\n```"
    )
    rows = {"training images": sum(config.counts), **config.training, "features": config.fingerprint[:16]}
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {name.rpartition('/')[2]}" if repo_id else "# A classifier",
        about,
        "## Accuracy",
        _accuracy(config.validation),
        "## Use",
        use,
        "## Training",
        _table(["", ""], [[key, _number(value)] for key, value in rows.items()]),
        "## Classes",
        _classes(config),
        "## Limits",
        "- Every image gets one of these classes, whatever it shows.\n"
        "- The probabilities are the head's own, and were not calibrated on further images.",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(found: dict[str, Any]) -> str:
    if not found:
        return "Not measured."
    tested = f"{found['images']:,} {'image that was' if found['images'] == 1 else 'images that were'}"
    share = f"{found['accuracy']:.1%} of {tested} not trained on"
    text = f"{share} ({found.get('interval', '95%')} interval {found['low']:.1%} to {found['high']:.1%})"
    return f"{text}; {found['note']}." if found.get("note") else f"{text}."


def _classes(config: HeadConfig) -> str:
    rows = [[name, f"{count:,}"] for name, count in zip(config.classes, config.counts, strict=True)]
    table = _table(["class", "training images"], rows[:_MOST_NAMES])
    return table if len(rows) <= _MOST_NAMES else f"{table}\n\nand {len(rows) - _MOST_NAMES:,} more: see config.json."


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
