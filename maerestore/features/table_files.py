"""Files of features, and folders of them: what is a table, and how it is read and written.

    features.parquet        one row an image: path, label, error, size, mtime_ns, feature (null where an error is)
    features.npy            the features as an array; the rest beside it in features.npy.json
    features.safetensors    the features as a tensor; names, labels and errors as JSON in another
    features/               many tables in Parquet (shard-*.parquet), which maerestore.features.shards writes, and in
                            plan.json the names of those that count

Each holds a checksum of the features, so that a damaged file, or an array beside a foreign sidecar, is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from maerestore.features.filesystems import is_uri
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_formats import READERS, SUFFIXES, WRITERS, companions, is_sidecar, load_pyarrow
from maerestore.image.errors import InputError, quoted
from maerestore.image.output import atomic_file

__all__ = [
    "FACTS_NAME",
    "PLAN_NAME",
    "SUFFIXES",
    "companions",
    "is_folder",
    "is_sidecar",
    "is_table",
    "planned_names",
    "read_stored",
    "read_table",
    "suffix_of",
    "write_table",
]

FACTS_NAME = "facts.json"
"""In a folder of tables: what they are made with."""

PLAN_NAME = "plan.json"
"""In a folder of tables: the names of those that the last finished run has left."""

_SHARDS = "shard-*.parquet"


def suffix_of(path: Path) -> str:
    """The suffix of a table in small letters, which decides its format.

    Raises:
        InputError: it is none of `SUFFIXES`, or it is .parquet and pyarrow is missing.

    Example:
        >>> suffix_of(Path("photos.NPY"))
        '.npy'
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{quoted(path)} is no name of a table of features: use {', '.join(SUFFIXES)}.")
    if suffix == ".parquet":
        load_pyarrow()
    return suffix


def is_table(path: Path) -> bool:
    """Whether a source is a table of features (by its suffix), or a folder of such tables; otherwise it has images."""
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    return (path / FACTS_NAME).is_file() and any(path.glob(_SHARDS))


def is_folder(out: str | Path) -> bool:
    """Whether an output names a folder of tables, which ends with a slash.

    Example:
        >>> is_folder("features/"), is_folder("features.parquet"), is_folder("s3://bucket/features/")
        (True, False, True)
    """
    path = urlsplit(str(out)).path if is_uri(out) else str(out)  # options may follow: s3://bucket/out/?region=x
    return path.endswith(("/", os.sep))


def read_table(path: Path) -> FeatureTable:
    """Read a table that `write_table` wrote, or a folder of tables as one.

    In a folder, only the tables listed in plan.json are read, which the last finished run wrote; without plan.json, all
    tables are. Of an image that is in several tables, the row of the newest table is kept.

    Args:
        path: of a file that ends in one of `SUFFIXES`, or of a folder.

    Returns:
        the table, with features as float32.

    Raises:
        InputError: there is no such table, it was not written by this package, it is damaged, or pyarrow is missing.

    Example:
        >>> import tempfile
        >>> table = FeatureTable(["a.jpg"], np.float32([[0.6, 0.8]]), [None], ["cat"], {}, np.int64([9]), np.int64([1]))
        >>> path = Path(tempfile.mkdtemp(), "features.npy")
        >>> write_table(table, path)
        >>> read_table(path).features
        array([[0.6, 0.8]], dtype=float32)
    """
    path = Path(path)
    if path.is_dir() and is_table(path):
        return _joined_shards(path)
    table = read_stored(path)
    return replace(table, features=table.features.astype(np.float32, copy=False))


def _joined_shards(folder: Path) -> FeatureTable:
    plan = folder / PLAN_NAME
    if plan.is_file():
        paths = [folder / name for name in planned_names(plan.read_bytes(), str(folder))]
    else:
        paths = sorted(folder.glob(_SHARDS))
    tables = [read_table(path) for path in paths]
    if len({str(table.facts.get("fingerprint")) for table in tables}) > 1:
        raise InputError(f"{quoted(folder)} holds features of different models or options: give tables of one.")
    times = [path.stat().st_mtime_ns for path in paths]
    seen: set[str] = set()
    for i in sorted(range(len(tables)), key=lambda i: -times[i]):
        tables[i] = tables[i].not_seen(seen)
    return join_tables(tables)


def planned_names(content: bytes, folder: str) -> list[str]:
    """The names that a file `PLAN_NAME` lists, sorted.

    Args:
        content: of the file.
        folder: which the file is in, for error messages.

    Raises:
        InputError: the file is damaged.
    """
    try:
        names = json.loads(content)["shards"]
        good = isinstance(names, list) and all(isinstance(name, str) and "/" not in name for name in names)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise InputError(f"{PLAN_NAME} in {quoted(folder)} is damaged: run 'maerestore features' again.")
    return sorted(names)


def read_stored(path: Path) -> FeatureTable:
    """As `read_table` for a file, with features in the dtype that they are stored in: float32 or float16."""
    path = Path(path)
    suffix = suffix_of(path)
    if not path.is_file():
        raise InputError(f"{quoted(path)} {'is a folder' if path.is_dir() else 'does not exist'}: give a table.")
    try:
        return READERS[suffix](path)
    except InputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the three libraries have a dozen exceptions for files that are damaged
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{quoted(path)} is damaged, or no table of features ({reason}).") from None


def write_table(table: FeatureTable, path: Path, overwrite: bool = True, durable: bool = True) -> None:
    """Write a table; the suffix of the path decides the format.

    Each file is written completely or not at all. A .npy file and its .npy.json are replaced one after the other: a
    process that is killed between the two leaves a pair that `read_table` refuses.

    Args:
        table: of any length; its features are stored in their dtype, float32 or float16.
        path: ends in one of `SUFFIXES`.
        overwrite: allow replacing an existing file.
        durable: flush the file to the disk before it gets its name, so that it also survives a power failure.

    Raises:
        InputError: another suffix, the file exists and `overwrite` is not set, it cannot be written, or pyarrow is
            missing.

    Example:
        >>> import tempfile
        >>> table = FeatureTable(["a.jpg"], np.float32([[0.6, 0.8]]), [None], ["cat"], {}, np.int64([9]), np.int64([1]))
        >>> path = Path(tempfile.mkdtemp(), "features.safetensors")
        >>> write_table(table, path)
        >>> path.exists()
        True
    """
    path = Path(path)
    for target, write in WRITERS[suffix_of(path)](table, path):
        with atomic_file(target, overwrite) as file:
            write(file)
            if durable:  # before the rename, or a power cut could leave the new name with no content
                file.flush()
                os.fsync(file.fileno())
