"""What a power cut may take: nothing that the name of the current generation stands for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from maerestore.features.index.store import Generations


def test_all_is_on_disk_before_it_counts_and_the_change_itself_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Generations(tmp_path / "index", {"index.json", "vectors.npy"})
    fsync, replace = os.fsync, os.replace
    events: list[Any] = []

    def note_sync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_replace(source: Any, target: Any) -> None:
        assert Path(target) == store.folder / "current"
        needed = [*store.folder.glob("0*/*"), *store.folder.glob("0*"), Path(source)]
        events.append({path.name: path.stat().st_ino for path in needed})
        replace(source, target)

    def write(folder: Path) -> None:
        for name in ("index.json", "vectors.npy"):
            (folder / name).write_text("new")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with store.writing():
        store.publish(write)
    [at] = [number for number, event in enumerate(events) if isinstance(event, dict)]
    assert set(events[at]) == {"index.json", "vectors.npy", "00000000", "current.part"}
    lost = {name for name, number in events[at].items() if number not in events[:at]}
    assert not lost
    assert store.folder.stat().st_ino in events[at + 1 :]
