"""A folder of tables of features on any filesystem that pyarrow opens: claimed, looked through, and written to."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maerestore.features.failures import Failure
from maerestore.features.remote import RemotePath, filesystem, is_uri
from maerestore.features.table import FACTS_NAME, FeatureTable, write_table
from maerestore.image.errors import InputError, quoted, reason_of

__all__ = ["ShardFolder", "local_copy"]


class ShardFolder:
    """A folder of shards on any filesystem."""

    def __init__(self, out: str) -> None:
        self.name = out.rstrip("/")
        self.root = out if is_uri(out) else str(Path(out).absolute())
        self.system, self.path = filesystem(self.root)

    def claim(self, facts: dict[str, Any], overwrite: bool) -> None:
        """Make the folder, and note the facts; InputError where it holds others."""
        place = f"{self.path}/{FACTS_NAME}"
        try:
            self.system.create_dir(self.path, recursive=True)
            [note] = self.system.get_file_info([place])
            if note.is_file and not overwrite:
                with self.system.open_input_file(place) as file:
                    _check_alike(self.name, json.loads(file.read()), facts)
            if overwrite:
                for name in self.names():
                    self.system.delete_file(f"{self.path}/{name}")
            self.put(FACTS_NAME, json.dumps(facts, indent=1).encode())
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"output {quoted(self.name)} cannot be used ({reason_of(error)}).") from None

    def names(self) -> list[str]:
        """Of the tables that are there."""
        from pyarrow import fs

        try:
            listed = self.system.get_file_info(fs.FileSelector(self.path))
        except OSError as error:
            raise InputError(f"{quoted(self.name)} cannot be read ({reason_of(error)}).") from None
        return [i.base_name for i in listed if i.base_name.startswith("shard-") and i.base_name.endswith(".parquet")]

    def check(self, names: set[str]) -> dict[str, tuple[int, list[Failure]]]:
        """Of the tables that are there and whole: numbers of images, and those with errors."""
        chosen = [name for name in self.names() if name in names]
        with ThreadPoolExecutor(16) as pool:  # far stores take their time for each
            looked = zip(chosen, pool.map(self.look, chosen), strict=True)
            return {name: found for name, found in looked if found is not None}

    def look(self, name: str) -> tuple[int, list[Failure]] | None:
        """The number of images of a table, and those with errors; None where it is not there, or not whole."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            with self.system.open_input_file(f"{self.path}/{name}") as file, pq.ParquetFile(file) as table:
                valid = pc.is_valid(table.read(["error"]).column("error"))
                flawed = table.read(["path", "error"]).filter(valid) if pc.any(valid).as_py() else None
                images = table.metadata.num_rows
        except (OSError, ValueError):  # cut off: done again
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
        """Remove tables, and the facts with the last of them."""
        left = set(self.names())
        for name in left & names:
            self._delete(name)
        if left <= names:
            self._delete(FACTS_NAME)

    def remove_others(self, names: set[str]) -> int:
        """Remove tables of other names, and give the number of images in them."""
        gone = 0
        for name in set(self.names()) - names:
            gone += sum(number for number, _ in self.check({name}).values())
            self._delete(name)
        return gone

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


def _check_alike(name: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    if any(old.get(fact) != new.get(fact) for fact in ("fingerprint", "dtype")):
        raise InputError(
            f"{quoted(name)} holds features of other weights or options: choose another output, or add --overwrite to "
            "write new ones."
        )
