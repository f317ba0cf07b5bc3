"""Tables of features: what is written is read, and damage is seen."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maerestore.features import table_formats as module
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_files import FACTS_NAME, SUFFIXES, is_table, read_stored, read_table, write_table
from maerestore.image import InputError

FACTS = {"model": "default", "fingerprint": "f" * 64, "options": {"pooling": "mean", "layers": [-1]}, "dim": 5}


def make_table(rows: int = 7, dim: int = 5, seed: int = 0) -> FeatureTable:
    """Rows 2 and 5 have errors."""
    features = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    errors = ["damaged, 'so' it \"says\"" if i in (2, 5) else None for i in range(rows)]
    features[[i for i, error in enumerate(errors) if error]] = np.nan
    return FeatureTable(
        [f"photos/{i} ä\N{SNOWMAN}.jpg" for i in range(rows)],
        features,
        errors,
        ["cat" if i % 2 else None for i in range(rows)],
        FACTS,
        np.arange(rows, dtype=np.int64) - 1,
        1_700_000_000_123_456_789 + np.arange(rows, dtype=np.int64),
    )


def assert_equal(one: FeatureTable, other: FeatureTable) -> None:
    assert (one.names, one.errors, one.labels, one.facts) == (other.names, other.errors, other.labels, other.facts)
    np.testing.assert_array_equal(one.features, other.features)
    for column in ("sizes", "mtimes"):
        assert getattr(one, column).dtype == np.int64
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, rows: int) -> None:
    table = make_table(rows)
    write_table(table, tmp_path / f"t{suffix}")
    found = read_table(tmp_path / f"t{suffix}")
    assert_equal(found, table)
    assert found.features.dtype == np.float32


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_halves_are_stored_as_halves_and_read_as_float32(tmp_path: Path, suffix: str) -> None:
    table = make_table()
    halves = replace(table, features=table.features.astype(np.float16))
    write_table(halves, tmp_path / f"t{suffix}")
    assert read_stored(tmp_path / f"t{suffix}").features.dtype == np.float16
    assert_equal(read_table(tmp_path / f"t{suffix}"), replace(halves, features=halves.features.astype(np.float32)))


def test_row_groups_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP", 3 * 5 * 4)
    write_table(make_table(100), tmp_path / "t.parquet")
    assert_equal(read_table(tmp_path / "t.parquet"), make_table(100))
    import pyarrow.parquet as pq

    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 34


def test_others_can_read_the_files(tmp_path: Path) -> None:
    import pandas as pd
    from safetensors.numpy import load_file

    table = make_table()
    for suffix in SUFFIXES:
        write_table(table, tmp_path / f"t{suffix}")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert list(frame.columns) == ["path", "label", "error", "size", "mtime_ns", "feature"]
    assert list(frame.path) == table.names
    assert [feature is None for feature in frame.feature] == [error is not None for error in table.errors]
    np.testing.assert_array_equal(frame.feature[0], table.features[0])
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), table.features)
    assert json.loads((tmp_path / "t.npy.json").read_text())["names"] == table.names
    np.testing.assert_array_equal(load_file(tmp_path / "t.safetensors")["features"], table.features)


def test_rows_without_errors() -> None:
    good = make_table().without_errors()
    assert len(good) == 5
    assert np.isfinite(good.features).all()
    assert good.errors == [None] * 5
    np.testing.assert_array_equal(good.sizes, [-1, 0, 2, 3, 5])


def test_tables_are_joined_in_order() -> None:
    table = make_table()
    assert_equal(join_tables([table.rows([0, 1, 2]), table.rows([3]), table.rows([4, 5, 6])]), table)
    with pytest.raises(ValueError, match="one width"):
        join_tables([make_table(dim=3), make_table(dim=4)])


def test_columns_must_have_one_length() -> None:
    with pytest.raises(ValueError, match="one length"):
        replace(make_table(), labels=["cat"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_damaged_feature_is_seen(tmp_path: Path, suffix: str) -> None:
    """A bit turned where the features lie, or the file cut anywhere: refused in one line."""
    path = tmp_path / f"t{suffix}"
    table = make_table(40, 16)
    write_table(table, path)
    whole = path.read_bytes()
    at = whole.index(table.features[20].tobytes())
    damaged = [whole[: at + k] + bytes([whole[at + k] ^ 4]) + whole[at + k + 1 :] for k in (0, 17, 63)]
    for content in [*damaged, whole[:-1], whole[: len(whole) // 2], whole[:9], b""]:
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_table(path)
        assert "\n" not in str(caught.value)


def test_an_array_and_a_foreign_sidecar_are_refused(tmp_path: Path) -> None:
    for name, seed in (("one.npy", 0), ("two.npy", 1)):
        write_table(make_table(seed=seed), tmp_path / name)
    os.replace(tmp_path / "two.npy", tmp_path / "one.npy")
    with pytest.raises(InputError, match="not those that were written"):
        read_table(tmp_path / "one.npy")
    (tmp_path / "one.npy.json").unlink()
    with pytest.raises(InputError, match="is missing"):
        read_table(tmp_path / "one.npy")


def test_other_files_are_refused(tmp_path: Path) -> None:
    import pandas as pd
    from safetensors.numpy import save_file

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    save_file({"weights": np.zeros(3)}, tmp_path / "t.safetensors")
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "t.npy.json").write_text("{}")
    for suffix in SUFFIXES:
        with pytest.raises(InputError, match=r"'.*t\..*'"):
            read_table(tmp_path / f"t{suffix}")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use \.parquet, \.npy, \.safetensors"):
        write_table(make_table(), tmp_path / "t.csv")
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "t.npy")
    with pytest.raises(InputError, match="cannot be written"):
        write_table(make_table(), tmp_path / "nowhere/t.npy")


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.safetensors"
    write_table(make_table(), path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_table(make_table(seed=1), path)
    assert_equal(read_table(path), make_table())
    assert [file.name for file in tmp_path.iterdir()] == ["t.safetensors"]


def test_parquet_without_pyarrow_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'maerestore\[features\]'"):
        write_table(make_table(), tmp_path / "t.parquet")
    write_table(make_table(), tmp_path / "t.npy")


def test_a_folder_of_tables_is_read_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / FACTS_NAME).write_text("{}")
    assert not is_table(folder)  # nothing in it yet
    tables = [make_table(seed=seed) for seed in range(2)]
    tables[1] = replace(tables[1], names=[f"more {name}" for name in tables[1].names])
    for number, table in enumerate(tables):
        write_table(table, folder / f"shard-{number}.parquet")
    assert is_table(folder)
    assert_equal(read_table(folder), join_tables(tables))
    write_table(replace(tables[0], facts={"fingerprint": "0" * 64}), folder / "shard-2.parquet")
    with pytest.raises(InputError, match="different models"):
        read_table(folder)


def test_a_folder_of_images_is_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "photos.npy"
    folder.mkdir()
    assert not is_table(folder)
    (folder / FACTS_NAME).write_text("{}")
    assert not is_table(folder)
    assert is_table(tmp_path / "none.NPY")
