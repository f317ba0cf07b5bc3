"""How a folder of shards is planned and claimed; what Ray does with it is in test_distributed."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.image import InputError

pytest.importorskip("pyarrow")
from maerestore.features.remote import RemotePath
from maerestore.features.shard_folder import local_copy
from maerestore.features.shards import extract_shards, plan_shards, read_shards
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


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors that work in this process, one after the other."""

    def run_actors(ray, actor, arguments, tasks, share):  # type: ignore[no-untyped-def]
        made = actor(**arguments)
        yield from map(made, tasks)

    monkeypatch.setattr("maerestore.cluster.check_ray", lambda: None)
    monkeypatch.setattr("maerestore.cluster.ray_cluster", lambda address: nullcontext())
    monkeypatch.setattr("maerestore.cluster.nodes_of", lambda ray: None)
    monkeypatch.setattr("maerestore.cluster.share_of", lambda *more: SimpleNamespace(threads=1))
    monkeypatch.setattr("maerestore.cluster.run_actors", run_actors)


def test_where_no_image_can_be_read_no_table_is_written(no_ray: None) -> None:
    from .test_run import Fake

    Path("bad").mkdir()
    for name in "ab":
        Path(f"bad/{name}.png").write_bytes(b"no image")
    told: list[str] = []
    more: dict[str, Any] = {"loose": 1, "some": True, "failed": lambda name, reason: told.append(name)}
    with pytest.raises(InputError, match=r"^none of 2 images could be read, the first is bad/a\.png: "):
        extract_shards(["bad"], Fake(), "out/", **more)
    assert (list(Path("out").iterdir()), told) == ([], [])
    report = extract_shards(["bad/a.png", "photos"], Fake(), "out/", **more)
    assert (report.images, len(report.errors), told) == (3, 1, ["bad/a.png"])
    before = sorted(path.name for path in Path("out").iterdir())
    with pytest.raises(InputError, match="'out/' is not written"):
        extract_shards(["bad/b.png"], Fake(), "out/", **more)
    assert sorted(path.name for path in Path("out").iterdir()) == before


@pytest.mark.parametrize("gone", ["a", "ab"])
def test_done_again_while_less_can_be_read_features_stay(gone: str, no_ray: None) -> None:
    from .test_run import Fake

    Path("photos/c.png").write_bytes(b"no image")
    first = extract_shards(["photos"], Fake(), "out/")
    [table] = read_shards("out")
    for name in gone:  # out of reach for a while: of the same size and time
        path = Path(f"photos/{name}.png")
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=times)
    told: list[str] = []
    more: dict[str, Any] = {"failed": lambda name, reason: told.append(name)}
    again = extract_shards(["photos"], Fake(), "out/", retry=True, some=True, **more)
    assert (again.images, again.computed, again.kept, again.errors) == (3, 0, 3, first.errors)
    assert told == [f"photos/{name}.png" for name in (*gone, "c")]
    [kept] = read_shards("out")
    np.testing.assert_array_equal(kept.features, table.features)
    assert kept.errors == table.errors


def test_a_table_that_cannot_be_removed_gets_one_line(no_ray: None) -> None:
    from .test_run import Fake

    Path("out/shard-0123456789abcdef.parquet").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^'out/shard-0123456789abcdef\.parquet' cannot be removed"):
        extract_shards(["photos"], Fake(), "out/")


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
    monkeypatch.setattr("maerestore.features.shard_folder.filesystem", lambda root: (memory, ""))
    with pytest.raises(InputError, match=r"'gone\.tar' cannot be read"), local_copy(RemotePath("mock:///", "gone.tar")):
        pass
