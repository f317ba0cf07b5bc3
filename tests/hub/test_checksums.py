"""Files of the cache are held against the checksum that names them; and files that are made can be read by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from maerestore import ModelError
from maerestore.hub.checksums import verify_cached
from maerestore.hub.save import save_tensors

CONTENT = b"hello\n"
STATED = {
    "git's of a blob": "ce013625030ba8dba906f756967f9e9ca394464a",
    "plain SHA-1": "f572d396fae9206628714fb2ce00f72e94f2258f",
    "SHA-256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
}
"""What `git hash-object`, `sha1sum` and `sha256sum` say of the content."""


def cached(folder: Path, checksum: str, content: bytes) -> Path:
    """The file in a cache of the Hub's client."""
    repository = folder / "models--org--name"
    for name in ("blobs", "snapshots/commit"):
        (repository / name).mkdir(parents=True)
    (repository / "blobs" / checksum).write_bytes(content)
    path = repository / "snapshots/commit/config.json"
    path.symlink_to(f"../../blobs/{checksum}")
    return path


@pytest.mark.parametrize("kind", STATED)
def test_a_file_is_kept_if_any_of_the_checksums_in_use_is_its_name(kind: str, tmp_path: Path) -> None:
    path = cached(tmp_path, STATED[kind], CONTENT)
    verify_cached(path, "org/name")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", STATED)
def test_another_content_is_deleted(kind: str, tmp_path: Path) -> None:
    path = cached(tmp_path, STATED[kind], b"hallo\n")  # of the same length
    with pytest.raises(ModelError, match=r"org/name: config.json is damaged"):
        verify_cached(path, "org/name")
    assert not any(file.is_file() or file.is_symlink() for file in tmp_path.rglob("*"))


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_others_may_read_the_weights_that_are_saved(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(2)})
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
