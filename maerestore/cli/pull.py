"""Fetch a model or a classifier from the Hugging Face Hub, and check that it loads.

It goes to the cache that is shared with other tools (HF_HOME), from where every verb finds it by name, offline too.
HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are respected. The folder is printed.

    maerestore pull org/name                               the main branch
    maerestore pull org/name@v1.0 --to models/name         a branch, tag or commit; copied into a folder
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from maerestore.cli.values import folder_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("repository", metavar="REPO[@REV]", help="org/name, optionally with a branch, tag or commit")
    parser.add_argument("--to", type=folder_name, metavar="FOLDER", help="also copy the model's files to this folder")
    parser.add_argument("--cache-dir", type=Path, metavar="FOLDER", help="use this cache in place of the shared one")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over different files in --to")
    parser.add_argument("--quiet", action="store_true", help="print only the folder")
    parser.add_argument("--json", action="store_true", help="print what was fetched as JSON")


def run(args: argparse.Namespace) -> int:
    """Fetch, check, copy."""
    from maerestore.hub.fetch import fetch_repository, model_files, split_name
    from maerestore.hub.files import HEAD_NAME

    repository, revision = split_name(args.repository)
    folder = fetch_repository(repository, revision, cache_dir=args.cache_dir, newest=True)
    files = model_files(folder)
    sizes = {path.name: path.stat().st_size for path in files}
    facts, told = _classifier(folder) if HEAD_NAME in sizes else _model(folder)
    place = folder
    if args.to is not None:
        _copy(files, args.to, args.overwrite)
        place = args.to
    if args.json:
        about = {
            "repository": repository,
            "revision": revision or "main",
            "commit": folder.name,
            "folder": str(place),
            "files": sizes,
            "bytes": sum(sizes.values()),
        }
        print(json.dumps(about | facts))
        return 0
    print(place)
    if not args.quiet:
        megabytes = sum(sizes.values()) / 1e6
        name = f"{repository}@{revision or 'main'}"
        print(f"{name}: commit {folder.name}, {megabytes:.1f} MB, {told}", file=sys.stderr)
    return 0


def _model(folder: Path) -> tuple[dict[str, Any], str]:
    """Load the model: facts about it, as JSON and in words."""
    from maerestore.hub.refiner import load_networks

    model, refiner, _ = load_networks(folder)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    refined = sum(p.numel() for p in refiner.parameters()) if refiner is not None else 0
    what = "" if model.config.has_decoder else ", encoder only: gives features, cannot reconstruct"
    what += f", refiner of {refined / 1e6:.1f} M" if refined else ""
    facts = {"parameters": parameters, "decoder": model.config.has_decoder, "refiner_parameters": refined}
    return facts, f"{parameters / 1e6:.1f} M parameters{what}"


def _classifier(folder: Path) -> tuple[dict[str, Any], str]:
    """Load the classifier: facts about it, as JSON and in words."""
    from maerestore.features.classify.head import load_head

    config = load_head(folder).config
    facts = {"classifier": config.method, "classes": len(config.classes), "dim": config.dim}
    return facts, f"{config.method} classifier of {len(config.classes)} classes"


def _copy(files: list[Path], folder: Path, overwrite: bool) -> None:
    """Copy the files; each appears whole or not at all."""
    from maerestore.hub.errors import ModelError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if foreign := _foreign(folder, {path.name for path in files}):
            raise ModelError(
                f"{folder / foreign}: is of another model, and would be taken for a part of this one, or in its "
                "place: remove it, or give another folder"
            )
        for path in files:
            there = folder / path.name
            if there.exists() and not overwrite and not filecmp.cmp(path, there, shallow=False):
                raise ModelError(f"{there}: is there already and differs: pass --overwrite, or give another folder")
        for path in files:
            partial = folder / f".{path.name}.{os.getpid()}"
            try:
                shutil.copyfile(path, partial)
                partial.replace(folder / path.name)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as err:
        raise ModelError(f"{folder}: cannot be written ({err.strerror})") from err


def _foreign(folder: Path, new: set[str]) -> str | None:
    """A file of a folder that would be one of the model's files, or change which are, if the new ones lay beside it."""
    from maerestore.hub.files import BESIDE, CARD_NAME, CONFIG_NAME, weight_names

    parts = {*BESIDE} - {CARD_NAME}
    if CONFIG_NAME not in new and (folder / "model").is_dir():
        parts.add("checkpoint.pt")  # of a run, whose folder stands for the model in it
    for name in sorted({path.name for path in folder.iterdir()} - new):
        if name in parts or weight_names({*new, name}) != weight_names(new):
            return name
    return None
