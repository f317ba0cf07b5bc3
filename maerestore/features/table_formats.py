"""The three formats of a table of features: Parquet, an array of NumPy with a sidecar, and safetensors.

Each holds a checksum of the features, so that a damaged file, or an array beside a foreign sidecar, is refused.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from maerestore.features.table import FeatureTable
from maerestore.image.errors import InputError, quoted

__all__ = ["READERS", "SUFFIXES", "WRITERS", "companions", "is_sidecar", "load_pyarrow"]

_File = tuple[Path, Callable[[IO[bytes]], None]]  # where it goes, and what writes it
_GROUP = 1 << 26  # bytes of features in one row group of a Parquet file


def load_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(
            "a table in Parquet needs pyarrow: pip install 'maerestore[features]', or use .npy or .safetensors."
        ) from None
    return pyarrow, pyarrow.parquet


def companions(path: Path) -> list[Path]:
    """The files that a table consists of, in the order in which they are written and put into place."""
    return [path, path.with_name(path.name + ".json")] if path.suffix.lower() == ".npy" else [path]


def is_sidecar(path: Path) -> bool:
    """Whether a file holds what this package writes beside an array."""
    try:
        notes = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(notes, dict) and {"facts", "crc32", "names"} <= set(notes)


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
    pa, pq = load_pyarrow()
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
    pa, pq = load_pyarrow()
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


READERS: dict[str, Callable[[Path], FeatureTable]] = {
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
}
"""By suffix: reads a table that the writer of this suffix wrote; may raise any error for a damaged one."""

WRITERS: dict[str, Callable[[FeatureTable, Path], list[_File]]] = {
    ".parquet": _parquet_files,
    ".npy": _npy_files,
    ".safetensors": _safetensors_files,
}
"""By suffix: the files of a table, as pairs of where each goes and what writes it into an opened file."""

SUFFIXES = tuple(WRITERS)
