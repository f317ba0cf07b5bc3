"""What the Hub's client keeps in its cache beside the files: the list of a commit's files, and what branches are.

CACHE/models--org--name/snapshots/COMMIT/FILE      a link to the file's content
CACHE/models--org--name/trees/COMMIT.json          the list, kept by releases of the client from 2 on
CACHE/models--org--name/refs/BRANCH                the commit
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any


def kept_listing(snapshot: Path) -> dict[str, Any] | None:
    """What the Hub stated of each file of a commit, by its name, whether the file is in the cache or not.

    Args:
        snapshot: CACHE/models--org--name/snapshots/COMMIT; it need not be there.

    Returns:
        None for any other folder, and where the client did not keep the list.
    """
    if snapshot.parent.name != "snapshots":
        return None
    try:
        path = snapshot.parents[1] / "trees" / f"{snapshot.name}.json"
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return files if isinstance(files, dict) else None


def remember_revision(snapshot: Path, revision: str) -> None:
    """Keep which commit a branch or tag is, so that it is found offline. The client does so only if asked by that name.

    Args:
        snapshot: CACHE/models--org--name/snapshots/COMMIT.
        revision: branch or tag; of a commit nothing is kept.
    """
    if revision == snapshot.name or snapshot.parent.name != "snapshots":
        return
    path = snapshot.parents[1] / "refs" / revision
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with suppress(OSError):  # a cache that others look after: the files are there all the same
        if path.is_file() and path.read_text(encoding="utf-8") == snapshot.name:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(snapshot.name, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
