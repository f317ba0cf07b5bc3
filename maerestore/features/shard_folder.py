"""A folder of tables of features on any filesystem that pyarrow opens."""

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
from maerestore.features.filesystems import RemotePath, filesystem, is_local, is_uri, public_name
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import FACTS_NAME, PLAN_NAME, planned_names, write_table
from maerestore.image.errors import InputError, quoted, reason_of

__all__ = ["ShardFolder", "local_copy"]

_OURS = re.compile(r"shard-[0-9a-f]{16}\.parquet")


class ShardFolder:
    """A folder of shards on any filesystem.

    Only tables of this package are ever removed, which are told by their names and by the metadata in them.

    Args:
        out: the path of a folder, or its URI.

    Attributes:
        root: the URI, or the absolute path with links resolved.
    """

    def __init__(self, out: str) -> None:
        self.name = public_name(out).rstrip("/")
        self.root = out if is_uri(out) else os.path.realpath(out)
        self.system, self.path = filesystem(self.root)
        self._facts: bytes | None = None  # as they stood there before

    def claim(self, facts: dict[str, Any], overwrite: bool) -> None:
        """Create the folder, and write the facts where there are none.

        Args:
            facts: how the features are made.
            overwrite: allow tables with other facts; `put_facts` is to be called once the work can start.

        Raises:
            InputError: the folder holds features with other facts, or files that this package did not write, or it
                cannot be written.
        """
        place = f"{self.path}/{FACTS_NAME}"
        try:
            self.system.create_dir(self.path, recursive=True)
            [note] = self.system.get_file_info([place])
            if note.is_file:
                with self.system.open_input_file(place) as file:
                    self._facts = file.read()
                _check_alike(self.name, json.loads(self._facts), facts, overwrite)
            else:
                self._check_free()
            if not (overwrite and note.is_file):
                self.put_facts(facts)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"output {quoted(self.name)} cannot be used ({reason_of(error)}).") from None

    def put_facts(self, facts: dict[str, Any]) -> None:
        """Write how the features are made; raise InputError where that fails."""
        self.put(FACTS_NAME, json.dumps(facts, indent=1).encode())

    def _check_free(self) -> None:
        """Raise InputError where there are files named like tables, although there are no facts."""
        strange = [name for name in self._listed() if name.startswith("shard-") and name.endswith(".parquet")]
        if strange:
            raise InputError(
                f"output {quoted(self.name)} holds {quoted(min(strange))}, but no {FACTS_NAME} that says how it was "
                "made: choose another output."
            )

    def names(self) -> list[str]:
        """The names of files that are named like tables of this package, the newest first."""
        found = [(-mtime, name) for name, mtime in self._listed().items() if _OURS.fullmatch(name)]
        return [name for _, name in sorted(found)]

    def _listed(self) -> dict[str, int]:
        """The names of everything in the folder, with modification times in nanoseconds."""
        from pyarrow import fs

        try:
            found = self.system.get_file_info(fs.FileSelector(self.path))
        except (OSError, ValueError) as error:
            raise InputError(f"{quoted(self.name)} cannot be read ({reason_of(error)}).") from None
        return {info.base_name: info.mtime_ns or 0 for info in found}

    def finished(self) -> list[str] | None:
        """The names of the tables of the last finished run; None where no run has finished yet."""
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
        """Write the plan, remove all other tables of this package, and return the number of images in those.

        Args:
            names: of the tables of the run that has finished.
        """
        self._plan(names)
        others = self.check(set(self.names()) - names)
        for name in others:
            self._delete(name)
        return sum(number for number, _ in others.values())

    def _plan(self, names: set[str]) -> None:
        self.put(PLAN_NAME, json.dumps({"shards": sorted(names)}, indent=0).encode())

    def check(self, names: set[str]) -> dict[str, tuple[int, list[Failure]]]:
        """Look into tables; those that are missing, damaged or not of this package are left out.

        Args:
            names: of the tables.

        Returns:
            for each name the number of images, and the failures among them.
        """
        chosen = [name for name in self.names() if name in names]
        with ThreadPoolExecutor(16) as pool:  # far stores take their time for each
            looked = zip(chosen, pool.map(self.look, chosen), strict=True)
            return {name: found for name, found in looked if found is not None}

    def look(self, name: str) -> tuple[int, list[Failure]] | None:
        """As `check` for one table; None where it is missing, damaged or not of this package."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            with self.system.open_input_file(f"{self.path}/{name}") as file, pq.ParquetFile(file) as table:
                if b"maerestore" not in (table.schema_arrow.metadata or {}):
                    return None
                valid = pc.is_valid(table.read(["error"]).column("error"))
                flawed = table.read(["path", "error"]).filter(valid) if pc.any(valid).as_py() else None
                images = table.metadata.num_rows
        except (OSError, ValueError, KeyError):  # damaged: it is computed again
            return None
        if flawed is None:
            return images, []
        return images, list(zip(*(flawed.column(c).to_pylist() for c in ("path", "error")), strict=True))

    def images(self, name: str) -> list[str]:
        """The names of the images in a table; none where it is missing or damaged."""
        import pyarrow.parquet as pq

        try:
            with self.system.open_input_file(f"{self.path}/{name}") as file, pq.ParquetFile(file) as table:
                return table.read(["path"]).column("path").to_pylist()
        except (OSError, ValueError, KeyError):
            return []

    def write(self, name: str, table: FeatureTable) -> None:
        """Write a table, completely or not at all."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            write_table(table, path, durable=False)
            self.put(name, path.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        """Write a file under another name, and rename it.

        Raises:
            InputError: it cannot be written.
        """
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
        """Remove tables; if none is left, also the facts and the plan. What is left keeps the facts from before."""
        there, planned = set(self.names()), self.finished()
        if there <= names:
            left = [FACTS_NAME] if planned is None else [PLAN_NAME, FACTS_NAME]
        else:
            left = []
            if self._facts is not None:
                self.put(FACTS_NAME, self._facts)
            if planned is not None:
                self._plan(set(planned) - names)
        for name in [*(there & names), *left]:
            self._delete(name)

    def _delete(self, name: str) -> None:
        """Remove a file; raise InputError where that fails."""
        try:
            self.system.delete_file(f"{self.path}/{name}")
        except OSError as error:
            raise InputError(f"{quoted(f'{self.name}/{name}')} cannot be removed ({reason_of(error)}).") from None


@contextmanager
def local_copy(path: RemotePath) -> Iterator[Path]:
    """A context manager that copies a file of any filesystem to this machine, and yields the path of the copy.

    A file that is on this machine is not copied.

    Raises:
        InputError: it cannot be read.
    """
    system, _ = filesystem(path.root)
    if is_local(system):
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
    """Raise InputError where facts were not written by this package, or are of other features (unless `overwrite`)."""
    if not isinstance(old, dict) or "fingerprint" not in old:
        raise InputError(f"{quoted(f'{name}/{FACTS_NAME}')} was not written by this package: choose another output.")
    if not overwrite and any(old.get(fact) != new.get(fact) for fact in ("fingerprint", "dtype")):
        raise InputError(
            f"{quoted(name)} holds features of other weights or options: choose another output, or add --overwrite (in "
            "Python: overwrite=True) to write new ones."
        )
