"""Tables of features: images' names, features, labels and errors in one file, with what made the features.

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
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from maerestore.image.errors import InputError, quoted
from maerestore.image.output import atomic_file

__all__ = [
    "SUFFIXES",
    "FeatureTable",
    "companions",
    "is_folder",
    "is_table",
    "join_tables",
    "read_table",
    "suffix_of",
    "write_table",
]

SUFFIXES = (".parquet", ".npy", ".safetensors")
FACTS_NAME = "facts.json"
"""In a folder of tables: what they are made with."""

PLAN_NAME = "plan.json"
"""In a folder of tables: the names of those that the last finished run has left."""

_SHARDS = "shard-*.parquet"
_File = tuple[Path, Callable[[IO[bytes]], None]]  # where it goes, and what writes it
_GROUP = 1 << 26  # bytes of features in one row group of a Parquet file


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N images.

    Attributes:
        names: of the images, all different (`maerestore.features.items.Item.name`).
        features: (N, D) float32 (float16 while halves are stored); NaN in rows with an error.
        errors: why an image has no feature; None where it has one.
        labels: names of classes; None where none is known.
        facts: "model", "fingerprint", "options" and "dim" of the extractor, and whatever else JSON holds.
        sizes: (N,) int64, bytes of each image's file, -1 where it could not be read.
        mtimes: (N,) int64, when it was changed, in nanoseconds.

    Raises:
        ValueError: lengths that differ.

    Example:
        >>> table = FeatureTable(["a.jpg", "b.jpg"], np.float32([[0.6, 0.8], [np.nan, np.nan]]), [None, "damaged"],
        ...                      ["cat", None], {"fingerprint": "f" * 64}, np.int64([9, 5]), np.int64([1, 2]))
        >>> len(table), table.without_errors().names
        (2, ['a.jpg'])
    """

    names: list[str]
    features: np.ndarray
    errors: list[str | None]
    labels: list[str | None]
    facts: dict[str, Any]
    sizes: np.ndarray
    mtimes: np.ndarray

    def __post_init__(self) -> None:
        lengths = [
            len(value) for value in (self.names, self.features, self.errors, self.labels, self.sizes, self.mtimes)
        ]
        if len(set(lengths)) > 1 or self.features.ndim != 2:
            raise ValueError(f"columns of a table must have one length, got {lengths}, features {self.features.shape}")

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, rows: Sequence[int] | np.ndarray) -> FeatureTable:
        """Some of the rows, in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            names=[self.names[i] for i in at],
            features=self.features[at],
            errors=[self.errors[i] for i in at],
            labels=[self.labels[i] for i in at],
            sizes=self.sizes[at],
            mtimes=self.mtimes[at],
        )

    def not_seen(self, seen: set[str]) -> FeatureTable:
        """The rows whose names are not among `seen`, and of several with one name the first; adds them to `seen`."""
        fresh = [row for row, name in enumerate(self.names) if not (name in seen or seen.add(name))]  # type: ignore[func-returns-value]
        return self if len(fresh) == len(self) else self.rows(fresh)

    def without_errors(self) -> FeatureTable:
        """The rows that have a feature."""
        return self.rows([i for i, error in enumerate(self.errors) if error is None])

    def failures(self) -> list[tuple[str, str]]:
        """Name and reason of each image that has no feature."""
        return [(name, error) for name, error in zip(self.names, self.errors, strict=True) if error is not None]


def join_tables(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Rows of several tables, one after the other; the facts of the first.

    Raises:
        ValueError: no table, or widths that differ.
    """
    if not tables or len({table.features.shape[1] for table in tables}) > 1:
        raise ValueError(f"tables to join must have one width, got {[table.features.shape for table in tables]}")
    return FeatureTable(
        [name for table in tables for name in table.names],
        np.concatenate([table.features for table in tables]),
        [error for table in tables for error in table.errors],
        [label for table in tables for label in table.labels],
        tables[0].facts,
        np.concatenate([table.sizes for table in tables]),
        np.concatenate([table.mtimes for table in tables]),
    )


def suffix_of(path: Path) -> str:
    """The format that a table's name asks for, one of `SUFFIXES`.

    Raises:
        InputError: another suffix, or pyarrow is missing for Parquet.

    Example:
        >>> suffix_of(Path("photos.NPY"))
        '.npy'
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{quoted(path)} is no name of a table of features: use {', '.join(SUFFIXES)}.")
    if suffix == ".parquet":
        _pyarrow()
    return suffix


def is_table(path: Path) -> bool:
    """Whether a source is a table of features, by its suffix, or a folder of such tables; else it is of images."""
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    return (path / FACTS_NAME).is_file() and any(path.glob(_SHARDS))


def is_folder(out: str | Path) -> bool:
    """Whether an output is to be a folder of tables: it ends with a slash.

    Example:
        >>> is_folder("features/"), is_folder("features.parquet"), is_folder("s3://bucket/features/")
        (True, False, True)
    """
    return str(out).endswith(("/", os.sep))


def companions(path: Path) -> list[Path]:
    """The files that a table consists of, in the order in which they are written and put into place."""
    return [path, path.with_name(path.name + ".json")] if path.suffix.lower() == ".npy" else [path]


def read_table(path: Path) -> FeatureTable:
    """Read a table that `write_table` wrote, or the tables of a folder as one; features as float32.

    Of a folder, the tables that the last finished run has left count; all, where none was finished yet. An image that
    is in two of them counts once, as the newer table has it.

    Raises:
        InputError: it is not there, was not written by this package, or is damaged.
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
    """The names in a file `PLAN_NAME`, sorted.

    Args:
        content: of the file.
        folder: that it is in, for the message.

    Raises:
        InputError: it is damaged.
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
    """As `read_table`, with features in the number format that they are stored in."""
    path = Path(path)
    suffix = suffix_of(path)
    if not path.is_file():
        raise InputError(f"{quoted(path)} {'is a folder' if path.is_dir() else 'does not exist'}: give a table.")
    try:
        return {".parquet": _read_parquet, ".npy": _read_npy, ".safetensors": _read_safetensors}[suffix](path)
    except InputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the three libraries have a dozen exceptions for files that are damaged
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{quoted(path)} is damaged, or no table of features ({reason}).") from None


def write_table(table: FeatureTable, path: Path, overwrite: bool = True, durable: bool = True) -> None:
    """Write a table, each file whole or not at all; the suffix of the path decides the format.

    Halves (float16 features) are stored as such. An array in .npy and its sidecar are replaced one after the other: a
    process that is killed between the two leaves a pair that `read_table` refuses.

    Args:
        table: of any length.
        path: ends in one of `SUFFIXES`.
        overwrite: replace a table that is there.
        durable: wait until the disk holds it, so that a power cut cannot undo it either.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    writers = {".parquet": _parquet_files, ".npy": _npy_files, ".safetensors": _safetensors_files}
    for target, write in writers[suffix_of(path)](table, path):
        with atomic_file(target, overwrite) as file:
            write(file)
            if durable:  # before the rename, or a power cut could leave the new name with no content
                file.flush()
                os.fsync(file.fileno())


def _crc(features: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(features).reshape(-1).view(np.uint8).data)


def _checked(table: FeatureTable, crc: int, path: Path) -> FeatureTable:
    if _crc(table.features) != crc:
        raise InputError(f"{quoted(path)} is damaged: its features are not those that were written.")
    return table


def _columns(table: FeatureTable) -> dict[str, Any]:
    """All but the features, as JSON holds it."""
    return {
        "names": table.names,
        "labels": table.labels,
        "errors": table.errors,
        "sizes": table.sizes.tolist(),
        "mtimes": table.mtimes.tolist(),
    }


def _table(features: np.ndarray, columns: dict[str, Any], facts: dict[str, Any]) -> FeatureTable:
    sizes, mtimes = (np.array(columns[name], dtype=np.int64) for name in ("sizes", "mtimes"))
    return FeatureTable(columns["names"], features, columns["errors"], columns["labels"], facts, sizes, mtimes)


def _npy_files(table: FeatureTable, path: Path) -> list[_File]:
    array, sidecar = companions(path)
    notes = {"facts": table.facts, "crc32": _crc(table.features), **_columns(table)}
    return [
        (array, lambda file: np.save(file, table.features, allow_pickle=False)),
        (sidecar, lambda file: _put(file, json.dumps(notes).encode())),
    ]


def _read_npy(path: Path) -> FeatureTable:
    array, sidecar = companions(path)
    if not sidecar.is_file():
        raise InputError(f"{quoted(sidecar)} is missing, which says what the rows of {quoted(path)} are.")
    notes = json.loads(sidecar.read_bytes())
    features = np.load(array, allow_pickle=False)
    if len(features) != len(notes["names"]):
        raise InputError(f"{quoted(sidecar)} belongs to another array than {quoted(path)}.")
    return _checked(_table(features, notes, notes["facts"]), notes["crc32"], path)


def _safetensors_files(table: FeatureTable, path: Path) -> list[_File]:
    from safetensors.numpy import save

    # The header, where strings would go, may not pass 100 MB: a tensor of JSON may.
    columns = np.frombuffer(json.dumps(_columns(table)).encode(), np.uint8)
    tensors = {"features": np.ascontiguousarray(table.features), "columns": columns}
    notes = {"kind": "features", "facts": json.dumps(table.facts), "crc32": str(_crc(table.features))}
    content = save(tensors, notes)
    return [(path, lambda file: _put(file, content))]


def _read_safetensors(path: Path) -> FeatureTable:
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as file:
        notes = file.metadata() or {}
        if notes.get("kind") != "features":
            raise InputError(f"{quoted(path)} holds no table of features, but something else.")
        features, columns = file.get_tensor("features"), file.get_tensor("columns")
    table = _table(features, json.loads(columns.tobytes()), json.loads(notes["facts"]))
    return _checked(table, int(notes["crc32"]), path)


def _parquet_files(table: FeatureTable, path: Path) -> list[_File]:
    pa, pq = _pyarrow()
    dim = table.features.shape[1]
    number = pa.float16() if table.features.dtype == np.float16 else pa.float32()
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("error", pa.string()),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("feature", pa.list_(number, dim)),
        ],
        metadata={"maerestore": json.dumps(table.facts)},
    )
    rows = max(1, _GROUP // max(1, dim * table.features.dtype.itemsize))

    def write(file: IO[bytes]) -> None:
        with pq.ParquetWriter(
            file,
            schema,
            compression={"path": "zstd", "label": "zstd", "error": "zstd"},  # features do not become smaller
            use_dictionary=["label", "error"],
            write_statistics=["path", "label"],
            write_page_checksum=True,
        ) as writer:
            for start in range(0, max(1, len(table)), rows):
                part = slice(start, start + rows)
                features = np.ascontiguousarray(table.features[part])
                flaws = np.array([error is not None for error in table.errors[part]], dtype=bool)
                column = pa.FixedSizeListArray.from_arrays(
                    pa.array(features.reshape(-1), number), dim, mask=pa.array(flaws)
                )
                columns = [
                    pa.array(table.names[part], pa.string()),
                    pa.array(table.labels[part], pa.string()),
                    pa.array(table.errors[part], pa.string()),
                    pa.array(table.sizes[part], pa.int64()),
                    pa.array(table.mtimes[part], pa.int64()),
                    column,
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=rows)

    return [(path, write)]


def _read_parquet(path: Path) -> FeatureTable:
    pa, pq = _pyarrow()
    # Opened here: pyarrow takes no paths that are no UTF-8.
    with path.open("rb") as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        notes = (file.schema_arrow.metadata or {}).get(b"maerestore")
        if notes is None:
            raise InputError(f"{quoted(path)} is a Parquet file, but not one that 'maerestore features' wrote.")
        kind = file.schema_arrow.field("feature").type
        number = np.float16 if kind.value_type == pa.float16() else np.float32
        features = np.full((file.metadata.num_rows, kind.list_size), np.nan, number)
        columns: dict[str, list[Any]] = {name: [] for name in ("path", "label", "error", "size", "mtime_ns")}
        at = 0
        for batch in file.iter_batches():
            for name, values in columns.items():
                values += batch.column(name).to_pylist()
            column = batch.column("feature")
            good = at + np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            # flatten() leaves null rows out
            features[good] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(good), kind.list_size)
            at += len(batch)
    renamed = {"path": "names", "label": "labels", "error": "errors", "size": "sizes", "mtime_ns": "mtimes"}
    return _table(features, {renamed[name]: values for name, values in columns.items()}, json.loads(notes))


def _put(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(
            "a table in Parquet needs pyarrow: pip install 'maerestore[features]', or use .npy or .safetensors."
        ) from None
    return pyarrow, pyarrow.parquet
