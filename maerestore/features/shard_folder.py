"""A folder of tables of features on any filesystem that pyarrow opens: claimed, looked through, and written to."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maerestore.features.failures import Failure
from maerestore.features.filesystems import RemotePath, filesystem, is_uri
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import FACTS_NAME, PLAN_NAME, planned_names, write_table
from maerestore.image.errors import InputError, quoted, reason_of

__all__ = ["ShardFolder", "local_copy"]

_OURS = re.compile(r"shard-[0-9a-f]{16}\.parquet")


class ShardFolder:
    """A folder of shards on any filesystem.

    Files are removed only where they are tables of this package: by their names, and by what stands in them.

    Args:
        out: a folder or the URI of one.

    Attributes:
        root: the URI, or the path with links followed.
    """

    def __init__(self, out: str) -> None:
        self.name = out.rstrip("/")
        self.root = out if is_uri(out) else os.path.realpath(out)
        self.system, self.path = filesystem(self.root)

    def claim(self, facts: dict[str, Any], overwrite: bool) -> None:
        """Make the folder, and note the facts; InputError where it holds others, or what this package did not write."""
        place = f"{self.path}/{FACTS_NAME}"
        try:
            self.system.create_dir(self.path, recursive=True)
            [note] = self.system.get_file_info([place])
            if note.is_file:
                with self.system.open_input_file(place) as file:
                    _check_alike(self.name, json.loads(file.read()), facts, overwrite)
            else:
                self._check_free()
            if overwrite:
                if PLAN_NAME in self._listed():
                    self._delete(PLAN_NAME)
                for name in self.check(set(self.names())):
                    self._delete(name)
            self.put(FACTS_NAME, json.dumps(facts, indent=1).encode())
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"output {quoted(self.name)} cannot be used ({reason_of(error)}).") from None

    def _check_free(self) -> None:
        """InputError where there are tables, or what is named as they are, that no facts belong to."""
        strange = [name for name in self._listed() if name.startswith("shard-") and name.endswith(".parquet")]
        if strange:
            raise InputError(
                f"output {quoted(self.name)} holds {quoted(min(strange))}, but no {FACTS_NAME} that says how it was "
                "made: choose another output."
            )

    def names(self) -> list[str]:
        """Of files that are named as tables of this package, the newest first."""
        found = [(-mtime, name) for name, mtime in self._listed().items() if _OURS.fullmatch(name)]
        return [name for _, name in sorted(found)]

    def _listed(self) -> dict[str, int]:
        """The names of all that is there, and when it was changed, in nanoseconds."""
        from pyarrow import fs

        try:
            found = self.system.get_file_info(fs.FileSelector(self.path))
        except (OSError, ValueError) as error:
            raise InputError(f"{quoted(self.name)} cannot be read ({reason_of(error)}).") from None
        return {info.base_name: info.mtime_ns or 0 for info in found}

    def finished(self) -> list[str] | None:
        """The names of the tables that the last finished run has left; None where no run was finished yet."""
        place = f"{self.path}/{PLAN_NAME}"
        try:
            if not self.system.get_file_info([place])[0].is_file:
                return None
            with self.system.open_input_file(place) as file:
                content = file.read()
        except (OSError, ValueError) as error:
            raise InputError(f"{quoted(self.name)} cannot be read ({reason_of(error)}).") from None
        return planned_names(content, self.name)

    def finish(self, names: set[str]) -> int:
        """Let tables count, remove all others of this package, and give the number of images in those."""
        self._plan(names)
        others = self.check(set(self.names()) - names)
        for name in others:
            self._delete(name)
        return sum(number for number, _ in others.values())

    def _plan(self, names: set[str]) -> None:
        self.put(PLAN_NAME, json.dumps({"shards": sorted(names)}, indent=0).encode())

    def check(self, names: set[str]) -> dict[str, tuple[int, list[Failure]]]:
        """Of tables of this package that are there and whole: numbers of images, and those with errors."""
        chosen = [name for name in self.names() if name in names]
        with ThreadPoolExecutor(16) as pool:  # far stores take their time for each
            looked = zip(chosen, pool.map(self.look, chosen), strict=True)
            return {name: found for name, found in looked if found is not None}

    def look(self, name: str) -> tuple[int, list[Failure]] | None:
        """The number of images of a table, and those with errors; None where it is not there, not whole or not ours."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            with self.system.open_input_file(f"{self.path}/{name}") as file, pq.ParquetFile(file) as table:
                if b"maerestore" not in (table.schema_arrow.metadata or {}):
                    return None
                valid = pc.is_valid(table.read(["error"]).column("error"))
                flawed = table.read(["path", "error"]).filter(valid) if pc.any(valid).as_py() else None
                images = table.metadata.num_rows
        except (OSError, ValueError, KeyError):  # cut off: done again
            return None
        if flawed is None:
            return images, []
        return images, list(zip(*(flawed.column(c).to_pylist() for c in ("path", "error")), strict=True))

    def write(self, name: str, table: FeatureTable) -> None:
        """Write a table, whole or not at all."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            write_table(table, path, durable=False)
            self.put(name, path.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        """Write a file under another name, and rename it; InputError where that fails."""
        staged = f"{self.path}/.{name}.{secrets.token_hex(6)}.tmp"
        try:
            with self.system.open_output_stream(staged) as file:
                file.write(content)
            self.system.move(staged, f"{self.path}/{name}")
        except OSError as error:
            with suppress(OSError):
                self.system.delete_file(staged)
            raise InputError(f"output {quoted(self.name)} cannot be written ({reason_of(error)}).") from None

    def remove(self, names: set[str]) -> None:
        """Remove tables, and with the last of them what else this package has put there."""
        there, planned = set(self.names()), self.finished()
        if there <= names:
            left = [FACTS_NAME] if planned is None else [PLAN_NAME, FACTS_NAME]
        else:
            left = []
            if planned is not None:
                self._plan(set(planned) - names)
        for name in [*(there & names), *left]:
            self._delete(name)

    def _delete(self, name: str) -> None:
        """Remove a file; InputError where that fails."""
        try:
            self.system.delete_file(f"{self.path}/{name}")
        except OSError as error:
            raise InputError(f"{quoted(f'{self.name}/{name}')} cannot be removed ({reason_of(error)}).") from None


@contextmanager
def local_copy(path: RemotePath) -> Iterator[Path]:
    """A file of any filesystem as a file of this machine, for as long as the block lasts; copied in one stream.

    Raises:
        InputError: it cannot be read.
    """
    from pyarrow import fs

    system, _ = filesystem(path.root)
    if isinstance(system, fs.LocalFileSystem):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, Path(path.path).name)
        try:
            with system.open_input_stream(path.path) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
        except OSError as error:
            raise InputError(f"{quoted(path.path)} cannot be read ({reason_of(error)}).") from None
        yield copy


def _check_alike(name: str, old: Any, new: dict[str, Any], overwrite: bool) -> None:
    """InputError where facts are not of this package, or, unless all is written anew, of other features."""
    if not isinstance(old, dict) or "fingerprint" not in old:
        raise InputError(f"{quoted(f'{name}/{FACTS_NAME}')} is of something else: choose another output.")
    if not overwrite and any(old.get(fact) != new.get(fact) for fact in ("fingerprint", "dtype")):
        raise InputError(
            f"{quoted(name)} holds features of other weights or options: choose another output, or add --overwrite to "
            "write new ones."
        )
