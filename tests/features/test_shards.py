"""How a folder of shards is planned and claimed; what Ray does with it is in test_distributed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.errors import MaerestoreError
from maerestore.image import InputError

pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from maerestore.features.filesystems import RemotePath
from maerestore.features.shard_folder import ShardFolder, local_copy
from maerestore.features.shards import extract_shards, plan_shards, read_shards
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import FACTS_NAME, is_folder, read_table, write_table


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(f"photos/{name}.png")
    return tmp_path


def shard(path: Path, *names: str, value: float = 1) -> bytes:
    names = names or ("a.png",)
    features, none, numbers = np.float32([[value, 0]] * len(names)), [None] * len(names), np.ones(len(names), np.int64)
    path.parent.mkdir(exist_ok=True)
    write_table(FeatureTable([*names], features, none, none, {"dim": 2}, numbers, numbers), path)
    path.with_name(FACTS_NAME).write_text(json.dumps({"fingerprint": "f" * 64, "dtype": "float32"}))
    return path.read_bytes()


def test_features_inside_a_source_are_no_source_themselves(here: Path) -> None:
    shard(Path("photos/features/shard-0123456789abcdef.parquet"))
    assert len(plan_shards(["photos"])) == 2
    for folder in (here / "photos/features", (here / "photos/features").as_uri()):
        [found] = plan_shards(["photos"], without=str(folder))
        assert [file.name for file in found.files] == ["photos/a.png", "photos/b.png"]
    [found] = plan_shards(["photos"], without=str(here / "photos/feat"))[1:]
    assert len(found.files) == 2
    Path("linked").symlink_to("photos")
    Path("elsewhere").symlink_to("photos/features")
    for source in ("linked", "photos/../photos", here / "linked"):
        for folder in (here / "photos/features", here / "linked/features", here / "elsewhere"):
            [found] = plan_shards([source], without=ShardFolder(f"{folder}/").root)
            assert len(found.files) == 2


def test_an_output_that_is_the_source_is_told(here: Path) -> None:
    with pytest.raises(InputError, match=r"^all images of the sources lie in the output itself: choose another"):
        plan_shards(["photos"], without=str(here / "photos"))


def test_of_sources_that_overlap_the_first_gives_the_label() -> None:
    Path("photos/cats").mkdir()
    Path("photos/a.png").rename("photos/cats/a.png")
    [found] = plan_shards(["photos", "photos/cats", "photos/cats/a.png"])
    assert [(file.name, file.label) for file in found.files] == [("photos/b.png", None), ("photos/cats/a.png", "cats")]


def test_a_uri_of_an_output_has_options_and_a_password_that_is_told_nowhere() -> None:
    assert is_folder("s3://key:secret@bucket/out/?region=x")
    assert not is_folder("s3://bucket/t.parquet?endpoint_override=http://localhost/")
    folder = ShardFolder("mock://key:secret@host/out/?x=y")
    assert (folder.name, folder.path) == ("mock://host/out", "out")


def test_what_others_have_named_so_is_left_alone(no_ray: None) -> None:
    from .test_run import Fake

    Path("out").mkdir()
    foreign = {"shard-00000.parquet": pa.table({"x": [1]}), "shard-0123456789abcdef.parquet": pa.table({"path": ["a"]})}
    for name, table in foreign.items():
        pq.write_table(table, f"out/{name}")
    Path("out/shard-00000000000000ff.parquet").write_bytes(b"no table")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"'out' holds 'shard-00000\.parquet', but no facts\.json") as caught:
            extract_shards(["photos"], Fake(), "out/", overwrite=overwrite)
        assert "\n" not in str(caught.value)
    Path("out/facts.json").write_text('["of another program"]')
    with pytest.raises(InputError, match=r"'out/facts\.json' was not written by this package"):
        extract_shards(["photos"], Fake(), "out/", overwrite=True)
    shard(Path("out/shard-00000000000000aa.parquet"))  # ours, and the facts with it
    for overwrite in (False, True):
        extract_shards(["photos"], Fake(), "out/", overwrite=overwrite)
        assert {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name in before} == before
        assert not Path("out/shard-00000000000000aa.parquet").exists()
        [table] = read_shards("out")
        assert table.names == ["photos/a.png", "photos/b.png"] == read_table(Path("out")).names


def test_a_killed_run_leaves_each_image_once(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_run import Fake

    def names() -> list[str]:
        found = [name for table in read_shards("out") for name in table.names]
        assert sorted(read_table(Path("out")).names) == sorted(found)
        return sorted(found)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    extract_shards(["photos"], Fake(), "out/", loose=2)
    Path("photos/0.png").write_bytes(Path("photos/a.png").read_bytes())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            extract_shards(["photos"], Fake(), "out/", loose=2, progress=stop)
        assert names() == ["photos/a.png", "photos/b.png"]  # as the run before has left it
    extract_shards(["photos"], Fake(), "out/", loose=2)
    assert names() == ["photos/0.png", "photos/a.png", "photos/b.png"]
    assert len(list(Path("out").glob("*.parquet"))) == 2
    Path("out/plan.json").write_text("[]")
    for read in (read_table, lambda path: list(read_shards(path))):
        with pytest.raises(InputError, match=r"plan\.json in '?out'? is damaged"):
            read(Path("out"))


def test_where_no_run_was_finished_the_newer_table_counts() -> None:
    for number, (images, value) in enumerate({"ab": 1, "bc": 2}.items()):
        path = Path(f"out/shard-{1 - number:016x}.parquet")
        shard(path, *images, value=value)
        os.utime(path, ns=(number, number))
    for tables in ([read_table(Path("out"))], list(read_shards("out"))):
        rows = [(name, row[0]) for table in tables for name, row in zip(table.names, table.features, strict=True)]
        assert sorted(rows) == [("a", 1), ("b", 2), ("c", 2)]


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
        extract_shards(["bad/b.png"], Fake(), "out/", overwrite=True, **more)
    assert sorted(path.name for path in Path("out").iterdir()) == before


def test_a_run_that_would_leave_no_row_is_refused(no_ray: None) -> None:
    from .test_items import make_tar, png
    from .test_run import Fake

    def names() -> list[str]:
        return sorted(name for table in read_shards("out") for name in table.names)

    make_tar(Path("one.tar"), [("a.png", png())])
    for source in ("photos/a.png", "one.tar"):
        extract_shards([source], Fake(), "out/", overwrite=True)
        before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
        with pytest.raises(
            InputError, match=rf"^'out' holds features of other images \('{source}.*, name their source"
        ):
            extract_shards(["photos/b.png"], Fake(), "out/")
        assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    os.utime("one.tar", (1, 1))  # changed, but the same image
    assert extract_shards(["one.tar"], Fake(), "out/").dropped == 1
    assert extract_shards(["photos/b.png"], Fake(), "out/", overwrite=True).dropped == 0
    assert names() == ["photos/b.png"]
    pq.write_table(pa.table({"path": ["photos/a.png"]}), "list.parquet")  # whose names are not known beforehand
    extract_shards(["list.parquet"], Fake(), "out/")
    assert names() == ["photos/a.png"]


def test_what_overwriting_does_not_reach_stays(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_run import Fake

    other = Fake(fingerprint="e" * 64)

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path("out").iterdir()}

    extract_shards(["photos"], Fake(), "out/")
    before = contents()
    Path("bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="'out/' is not written"):
        extract_shards(["bad.png"], other, "out/", overwrite=True, some=True)
    assert contents() == before
    with monkeypatch.context() as patch:

        def unreachable(address: str | None) -> Any:
            raise MaerestoreError("no Ray")

        patch.setattr("maerestore.cluster.ray_cluster", unreachable)
        with pytest.raises(MaerestoreError, match="no Ray"):
            extract_shards(["photos"], other, "out/", overwrite=True)
    assert contents() == before
    assert extract_shards(["photos"], other, "out/", overwrite=True).computed == 2
    [table] = read_shards("out")
    assert table.facts["fingerprint"] == "e" * 64 == json.loads(Path("out", FACTS_NAME).read_text())["fingerprint"]
    assert extract_shards(["photos"], other, "out/", overwrite=True).kept == 0


def test_a_far_tar_that_cannot_be_read_is_a_row_with_an_error(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_items import make_tar, png
    from .test_run import Fake

    @contextmanager
    def unreachable(path: RemotePath) -> Iterator[Path]:
        raise InputError(f"'{path.path}' cannot be read (access denied).")
        yield

    make_tar(Path("far.tar"), [("a.png", png())])
    monkeypatch.setattr("maerestore.features.shards.local_copy", unreachable)
    report = extract_shards(["photos", "far.tar"], Fake(), "out/")
    assert (report.images, [name for name, _ in report.errors]) == (3, ["far.tar"])
    assert report.errors[0][1].endswith("cannot be read (access denied)")


def test_where_there_is_no_image_no_table_is_written(no_ray: None) -> None:
    from .test_run import Fake

    pq.write_table(pa.table({"path": pa.array([], pa.string())}), "none.parquet")
    for _ in range(2):
        with pytest.raises(InputError, match=r"^no image in 'none\.parquet'"):
            extract_shards(["none.parquet"], Fake(), "out/", some=True)
        assert list(Path("out").iterdir()) == []
    assert extract_shards(["none.parquet"], Fake(), "out/").images == 0
    with pytest.raises(InputError, match="no image in"):  # nor in what an earlier release has left
        extract_shards(["none.parquet"], Fake(), "out/", some=True)
    assert list(Path("out").iterdir()) == []
    assert extract_shards(["none.parquet", "photos"], Fake(), "out/", some=True).images == 2


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


def test_a_table_that_cannot_be_removed_gets_one_line(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_run import Fake

    shard(Path("out/shard-0123456789abcdef.parquet"))
    folder = ShardFolder("out/")

    class Stuck:
        def __getattr__(self, name: str) -> Any:
            return getattr(folder.system, name)

        def delete_file(self, path: str) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(
        "maerestore.features.shard_folder.filesystem", lambda root: (Stuck(), str(Path("out").resolve()))
    )
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
