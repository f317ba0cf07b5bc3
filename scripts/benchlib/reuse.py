"""Fills measured in an earlier run, taken over record by record instead of being made again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .photos import BenchError
from .report import Record

FORMAT = 2  # of the result file; 1 had neither texture nor crops
SAME = ("seed", "lpips", "crop", "resize", "opencv_radius")  # settings that have to be those of this run

Key = tuple[str, int, str, str]
"""Photo, size, family and method of a fill."""


def key_of(record: Record) -> Key:
    """What a fill is known by."""
    return record["photo"], record["size"], record["family"], record["method"]


def crops_path(path: Path) -> Path:
    """Where the embeddings of a result file's crops lie: beside it."""
    return path.with_suffix(".crops.npz")


@dataclass
class Earlier:
    """What earlier runs measured.

    Attributes:
        records: by photo, size, family and method.
        crops: embeddings of a fill's crops, (crops, features), by the same.
        roles: "peer", "deep" or "model" of each method, in the order of the files.
        files: the name of the file that each method came from.
        facts: what the files say of their models, by method.
        digests: SHA-256 of each photo.
    """

    records: dict[Key, Record] = field(default_factory=dict)
    crops: dict[Key, np.ndarray] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def methods(self, without: Iterable[str]) -> list[str]:
        """The methods in the files, but for those that this run measures itself."""
        left_out = set(without)
        return [method for method in self.roles if method not in left_out]

    def forget(self, methods: Iterable[str]) -> None:
        """Drop all that was measured of methods."""
        gone = set(methods)
        self.records = {key: value for key, value in self.records.items() if key[3] not in gone}
        self.crops = {key: value for key, value in self.crops.items() if key[3] not in gone}
        for method in gone:
            for table in (self.roles, self.files, self.facts):
                table.pop(method, None)


def read_earlier(paths: list[Path], settings: dict[str, Any]) -> Earlier:
    """Read result files of this script.

    Args:
        paths: the files of --json.
        settings: of this run, which theirs have to equal in `SAME`.

    Raises:
        BenchError: a file that cannot be read, other settings, or another photo of the same name.
    """
    found = Earlier()
    for path in paths:
        try:
            result = json.loads(path.read_text())
            if result["format"] != FORMAT:
                raise BenchError(f"--reuse {path} has format {result['format']}, this script writes {FORMAT}")
            theirs, values = result["settings"], result["values"]
            roles, facts = theirs["methods"], theirs["models"]
            digests = {photo["name"]: photo["sha256"] for photo in result["photos"]}
            records = {key_of(record): record for record in values}
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise BenchError(f"--reuse {path} cannot be read as a result of this script ({err!r})") from err
        for name in SAME:
            if theirs.get(name) != settings[name]:
                raise BenchError(f"--reuse {path} has {name} {theirs.get(name)!r}, this run {settings[name]!r}")
        _check_digests(path, found.digests, digests)
        found.digests.update(digests)
        found.records.update(records)
        for method in dict.fromkeys(key[3] for key in records):
            found.roles[method] = roles[method]
            found.files.setdefault(method, []).append(path.name)
            if method in facts:
                found.facts[method] = facts[method]
        if crops_path(path).is_file():
            try:
                with np.load(crops_path(path)) as stored:
                    found.crops.update({_key_from(name): stored[name] for name in stored.files})
            except (OSError, ValueError) as err:
                raise BenchError(f"{crops_path(path)} cannot be read ({err})") from err
    return found


def check_photos(earlier: Earlier, facts: list[dict[str, Any]]) -> None:
    """Refuse photos that are others than those of the same name in the earlier runs.

    Raises:
        BenchError: it names the photo.
    """
    _check_digests(None, earlier.digests, {photo["name"]: photo["sha256"] for photo in facts})


def write_crops(path: Path, crops: dict[Key, np.ndarray]) -> None:
    """Write embeddings for `read_earlier`, whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, **{json.dumps(key): values for key, values in crops.items()})  # type: ignore[arg-type]
    part.replace(path)


def _key_from(name: str) -> Key:
    photo, size, family, method = json.loads(name)
    return photo, size, family, method


def _check_digests(path: Path | None, known: dict[str, str], new: dict[str, str]) -> None:
    where = f"--reuse {path}" if path else "--reuse: the earlier run"
    for name, digest in new.items():
        if known.get(name, digest) != digest:
            raise BenchError(f"{where} has another photo {name}")
