"""How a folder of shards is planned and claimed; what Ray does with it is in test_distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.image import InputError

pytest.importorskip("pyarrow")
from maerestore.features.remote import RemotePath
from maerestore.features.shards import extract_shards, local_copy, plan_shards, read_shards
from maerestore.features.table import FACTS_NAME, FeatureTable, write_table


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(f"photos/{name}.png")
    return tmp_path


def shard(path: Path) -> bytes:
    features, none = np.float32([[1, 0]]), [None]
    path.parent.mkdir(exist_ok=True)
    write_table(FeatureTable(["a.png"], features, none, none, {"dim": 2}, np.int64([1]), np.int64([1])), path)
    path.with_name(FACTS_NAME).write_text("{}")
    return path.read_bytes()


def test_features_inside_a_source_are_no_source_themselves(here: Path) -> None:
    shard(Path("photos/features/shard-0123456789abcdef.parquet"))
    assert len(plan_shards(["photos"])) == 2
    for folder in (here / "photos/features", (here / "photos/features").as_uri()):
        [found] = plan_shards(["photos"], without=str(folder))
        assert [file.name for file in found.files] == ["photos/a.png", "photos/b.png"]
    [found] = plan_shards(["photos"], without=str(here / "photos/feat"))[1:]
    assert len(found.files) == 2


def test_a_source_that_is_missing_costs_no_features(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_run import Fake

    monkeypatch.setattr("maerestore.cluster.check_ray", lambda: None)
    path = Path("out/shard-0123456789abcdef.parquet")
    content = shard(path)
    with pytest.raises(InputError, match="does not exist"):
        extract_shards(["photos", "nowhere"], Fake(), "out/", overwrite=True)
    assert path.read_bytes() == content


def test_a_full_disk_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_run import Fake

    monkeypatch.setattr("maerestore.cluster.check_ray", lambda: None)
    Path("out").mkdir()
    Path("out").joinpath(FACTS_NAME).mkdir()  # a file cannot take its place
    with pytest.raises(InputError, match="output 'out' cannot be") as caught:
        extract_shards(["photos"], Fake(), "out/")
    assert "\n" not in str(caught.value)


def test_what_is_gone_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    with pytest.raises(InputError, match="'nowhere' cannot be read"):
        list(read_shards("nowhere"))
    memory, _ = fs.FileSystem.from_uri("mock:///")
    monkeypatch.setattr("maerestore.features.shards.filesystem", lambda root: (memory, ""))
    with pytest.raises(InputError, match=r"'gone\.tar' cannot be read"), local_copy(RemotePath("mock:///", "gone.tar")):
        pass
