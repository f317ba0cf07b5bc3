"""Compare what was downloaded with the checksums that the Hub states: its client compares sizes only."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from maerestore.hub.cache import kept_listing
from maerestore.hub.errors import ModelError


def verify_cached(path: Path, repository: str) -> None:
    """Delete a file of the Hub's cache that is not what the Hub holds.

    Args:
        path: CACHE/models--org--name/snapshots/COMMIT/FILE.
        repository: "org/name".

    Raises:
        ModelError: the file differs from its checksum.
    """
    expected = _expected_checksum(path)
    if expected is None or expected in _checksums(path, len(expected)):
        return
    blob = path.resolve()
    links = [path.parent / os.readlink(path)] if path.is_symlink() else []
    try:
        for damaged in (path, *links, blob):
            damaged.unlink(missing_ok=True)
    except OSError:
        raise ModelError(f"{blob}: damaged, its checksum is not the Hub's: delete it, then fetch it again") from None
    raise ModelError(
        f"{repository}: {path.name} is damaged, its checksum is not the Hub's; deleted from the cache: fetch it again"
    )


def _expected_checksum(path: Path) -> str | None:
    """The checksum that the Hub stated when the file was fetched; None where the client did not keep it."""
    if path.is_symlink():  # to blobs/CHECKSUM; only one step, as blobs themselves may be links to a shared store
        stated = Path(os.readlink(path)).name
    else:  # a file system without links: releases of the client from 2 on keep the listing of the commit
        try:
            entry = (kept_listing(path.parent) or {})[path.name]
            stated = str(entry.get("lfs_sha256") or entry["blob_id"])
        except (LookupError, TypeError, AttributeError):
            return None
    return stated if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stated) else None


def _checksums(path: Path, digits: int) -> Iterator[str]:
    """SHA-256 for 64 digits (large files); for 40 git's own of a blob, or the plain SHA-1 that some mirrors state."""
    heads = [b""] if digits == 64 else [b"blob %d\0" % path.stat().st_size, b""]
    for head in heads:
        digest = hashlib.sha256(head) if digits == 64 else hashlib.sha1(head, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        yield digest.hexdigest()
