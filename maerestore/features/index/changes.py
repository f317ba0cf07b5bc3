"""The next generation of an index, made of the one that there is; all within the lock of a writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.index.snapshot import Snapshot, chunks_of, write_snapshot
from maerestore.features.index.store import Generations


def publish_change(store: Generations, old: Snapshot, dead: np.ndarray, more: Entries, vectors: np.ndarray) -> None:
    """Publish a generation with some rows dead and some more behind.

    Dead rows stay where they are until they are a fifth of all, and the faiss index grows; but the flat kind, one that
    becomes another, and IVF-PQ that has outgrown its clusters are made again of the rows that live.

    Args:
        store: of the index.
        old: what there is.
        dead: rows of `old`.
        more, vectors: entries, and (n, D) float16.

    Raises:
        InputError: the index cannot be written; it is as it was.
    """
    entries = old.entries.without(dead).and_then(more)
    living = int(entries.alive.sum())
    kind = kinds.choose_kind(living, old.facts["wanted"])
    crowded = len(entries) - living > kinds.DEAD_SHARE * len(entries)
    if crowded or kind == "flat" or kind != old.kind or kinds.outgrown(old.faiss, kind, living):
        _publish_again(store, old, entries, (old.vectors, vectors), old.facts["wanted"])
    else:
        index = old.faiss
        kinds.add(index, vectors)
        rows = chunks_of(old.vectors, vectors)
        store.publish(lambda folder: write_snapshot(folder, _made_of(old.facts), entries, rows, index))


def publish_again(store: Generations, old: Snapshot, wanted: str) -> None:
    """Publish a generation of the rows that live, with an index made again.

    Args:
        store, old: as for `publish_change`.
        wanted: one of `kinds.KINDS`, or "auto".

    Raises:
        InputError: the index cannot be written; it is as it was.
    """
    _publish_again(store, old, old.entries, (old.vectors,), wanted)


def _publish_again(
    store: Generations, old: Snapshot, entries: Entries, parts: tuple[np.ndarray, ...], wanted: str
) -> None:
    alive, living = entries.alive, entries.living()
    facts = {**_made_of(old.facts), "kind": kinds.choose_kind(len(living), wanted), "wanted": wanted}
    rows = chunks_of(*parts, alive=alive)
    store.publish(lambda folder: write_snapshot(folder, facts, living, rows))


def _made_of(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("model", "fingerprint", "options", "dim", "kind", "wanted")}
