"""Publishing a new generation of an index, made from the current one. The caller holds the write lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from maerestore.features.index import kinds
from maerestore.features.index.entries import Entries
from maerestore.features.index.snapshot import STATED, Snapshot, chunks_of, write_snapshot
from maerestore.features.index.store import Generations


def publish_change(store: Generations, old: Snapshot, dead: np.ndarray, more: Entries, vectors: np.ndarray) -> None:
    """Publish a generation without some rows, and with new ones.

    Removed rows are only marked, and new rows are appended to the faiss index. It is rebuilt from the rows that are
    alive when more than a fifth are marked, when its kind is flat or changes, and when an IVF-PQ index has too few
    clusters.

    Args:
        store: of the index.
        old: the current generation.
        dead: the rows of `old` to remove.
        more, vectors: n new entries, and their vectors (n, D) float16.

    Raises:
        InputError: the index cannot be written; it stays as it was.
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
    """Publish a generation of the rows that are alive, with a faiss index built anew.

    Args:
        store, old: as for `publish_change`.
        wanted: one of `kinds.KINDS`, or "auto".

    Raises:
        InputError: the index cannot be written; it stays as it was.
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
    return {name: facts[name] for name in STATED}
