"""Fetch a model from the Hugging Face Hub, and check that it loads.

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("repository", metavar="REPO[@REV]", help="org/name, and a branch, tag or commit")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="copy the model's files there as well")
    parser.add_argument("--cache-dir", type=Path, metavar="FOLDER", help="instead of the shared cache")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over other files in --to")
    parser.add_argument("--quiet", action="store_true", help="print the folder only")
    parser.add_argument("--json", action="store_true", help="print what was fetched as JSON")


def run(args: argparse.Namespace) -> int:
    """Fetch, check, copy."""
    from maerestore.hub.client import quieten
    from maerestore.hub.fetch import fetch_repository, model_files, split_name

    repository, revision = split_name(args.repository)
    quieten(progress=not args.quiet and sys.stderr.isatty())
    folder = fetch_repository(repository, revision, cache_dir=args.cache_dir)
    from maerestore.hub.load import load_autoencoder
    from maerestore.hub.refiner import load_refiner

    model, refiner = load_autoencoder(folder), load_refiner(folder)
    files = model_files(folder)
    sizes = {path.name: path.stat().st_size for path in files}
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    refined = sum(p.numel() for p in refiner.parameters()) if refiner is not None else 0
    place = folder
    if args.to is not None:
        _copy(files, args.to, args.overwrite)
        place = args.to
    if args.json:
        facts = {
            "repository": repository,
            "revision": revision or "main",
            "commit": folder.name,
            "folder": str(place),
            "files": sizes,
            "bytes": sum(sizes.values()),
            "parameters": parameters,
            "decoder": model.config.has_decoder,
            "refiner_parameters": refined,
        }
        print(json.dumps(facts))
        return 0
    print(place)
    if not args.quiet:
        what = "" if model.config.has_decoder else ", encoder only: gives features, cannot reconstruct"
        what += f", refiner of {refined / 1e6:.1f} M" if refined else ""
        megabytes = sum(sizes.values()) / 1e6
        print(
            f"{repository}@{revision or 'main'}: commit {folder.name}, {megabytes:.1f} MB, "
            f"{parameters / 1e6:.1f} M parameters{what}",
            file=sys.stderr,
        )
    return 0


def _copy(files: list[Path], folder: Path, overwrite: bool) -> None:
    """Copy the files; each appears whole or not at all."""
    from maerestore.hub.errors import ModelError

    try:
        folder.mkdir(parents=True, exist_ok=True)
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
