"""`maerestore classify fit --seed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maerestore.cli.main import main
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import write_table


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder: train.parquet and held.parquet, features of two classes that overlap."""
    from maerestore.features.options import FeatureOptions

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maerestore.features.classify.linear.FEWEST_STEPS", 50)
    facts = {"model": "default", "fingerprint": "f" * 64, "options": FeatureOptions().to_dict(), "dim": 8}
    for name, count in (("train", 40), ("held", 20)):
        rng = np.random.default_rng(count)
        labels = [("cat", "dog")[i % 2] for i in range(count)]
        features = (rng.normal(0, 1, (count, 8)) + [[i % 2] for i in range(count)]).astype(np.float32)
        stamp, none = np.ones(count, np.int64), [None] * count
        names = [f"{name}/{i}.png" for i in range(count)]
        write_table(FeatureTable(names, features, none, labels, facts, stamp, stamp), Path(f"{name}.parquet"))


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "linear", "--val", "held.parquet"),  # the seed is of the weights and of the order alone
        ("--method", "knn", "--k", "3"),  # and here of what is kept aside
    ],
)
def test_two_seeds_differ_and_each_repeats_itself(options: tuple[str, ...], tables: None) -> None:
    made: list[Any] = []
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert main(["classify", "fit", "train.parquet", "-o", out, "--seed", str(seed), "--quiet", *options]) == 0
        made.append(Path(out, "head.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]
