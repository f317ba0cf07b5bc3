"""Send a folder of a model or a classifier to a repository on the Hugging Face Hub, in one commit.

The model is loaded first: a broken one is not sent. Configuration, weights (the refiner's too, where the configuration
tells of one), README.md and the pictures in it go; a model card is written where README.md is missing. The token is
that of `hf auth login` or HF_TOKEN. The address of the commit, or of the pull request, is printed.

    maerestore push runs/small/model org/name --private
    maerestore push runs/small/model org/name --create-pr --message "Trained for longer"
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, help="folder with config.json and model.safetensors, or head.safetensors")
    parser.add_argument("repository", metavar="REPO", help="org/name; created if needed")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing main")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to; created if needed")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    parser.add_argument("--license", metavar="ID", help="licence named in a newly written card, such as apache-2.0")
    parser.add_argument("--quiet", action="store_true", help="print only the address")


def run(args: argparse.Namespace) -> int:
    """Check, send."""
    from maerestore.hub.push import push_folder

    address = push_folder(
        args.folder,
        args.repository,
        private=args.private,
        create_pr=args.create_pr,
        revision=args.revision,
        commit_message=args.message,
        license=args.license,
    )
    print(address)
    return 0
