"""Items of URIs and of Parquet tables."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.features import filesystems
from maerestore.features.decode import load_image
from maerestore.features.filesystems import is_uri
from maerestore.features.items import find_items, read_bytes, source_of
from maerestore.features.remote import find_sources, items_in, list_files
from maerestore.features.shards import plan_shards
from maerestore.image import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(seed: int = 0, size: tuple[int, int] = (20, 12)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder, with a space in its name, of two images in classes, a tar and things that are no images."""
    folder = tmp_path / "my photos"
    (folder / "cats").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "cats/a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(png(2))
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden/c.png").write_bytes(png(3))
    tar_of(folder / "s.tar", {"x.png": png(4), "x.cls": b"dogs", "y.png": png(5)})
    return folder


def test_a_uri_has_the_images_of_the_folder_that_it_names(photos: Path) -> None:
    uri = photos.as_uri()
    far, near = find_sources([uri]), find_items([photos])
    assert "%20" in uri
    assert [item.name for item in far] == [f"{uri}/{Path(item.name).relative_to(photos)}" for item in near]
    assert [(item.label, item.size, item.mtime_ns) for item in far] == [
        (item.label, item.size, item.mtime_ns) for item in near
    ]
    assert [item.label for item in far] == [None, "cats", "dogs", None]
    for one, other in zip(far, near, strict=True):
        assert read_bytes(pickle.loads(pickle.dumps(one))) == read_bytes(other)  # as Ray sends it


def test_sources_of_this_machine_are_those_of_find_items(photos: Path) -> None:
    assert find_sources([photos]) == find_items([photos])
    assert find_sources([photos / "b.png", photos / "b.png"]) == find_items([photos / "b.png"])


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_a_table_of_bytes(kind: str, tmp_path: Path) -> None:
    contents = [png(k) for k in range(5)]
    if kind == "struct":  # as the library datasets writes it
        column: Any = pa.array([{"bytes": content, "path": None} for content in contents])
    else:
        column = pa.array(contents, getattr(pa, kind)())
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": column, "label": [3, 1, None, 1, 0], "other": range(5)}), path, row_group_size=2)
    items = find_sources([path])
    assert [item.name for item in items] == [f"{path.as_posix()}/{k}" for k in range(5)]
    assert [item.label for item in items] == ["3", "1", None, "1", "0"]
    assert [item.size for item in items] == [len(content) for content in contents]
    assert [read_bytes(item) for item in reversed(items)] == contents[::-1]
    assert read_bytes(pickle.loads(pickle.dumps(items[3]))) == contents[3]


def test_a_null_among_the_bytes_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": pa.array([png(), None], pa.binary())}), path)
    items = find_sources([path])
    assert load_image(read_bytes(items[0])).shape == (12, 20, 3)
    with pytest.raises(InputError):
        load_image(read_bytes(items[1]))


def test_a_table_of_paths(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    paths = ["b.png", str(photos / "cats/a.png"), (photos / "b.png").as_uri(), "gone.png", None]
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": paths, "class": ["u", "v", "w", "x", None]}), path)
    items = find_sources([path])
    assert [item.name for item in items] == [*paths[:4], f"{path.as_posix()}/4"]
    assert [item.label for item in items] == ["u", "v", "w", "x", None]
    assert [item.size for item in items] == [len(png(2)), len(png(1)), len(png(2)), -1, -1]
    assert read_bytes(items[2]) == png(2)
    for item in items[3:]:
        with pytest.raises(InputError):
            read_bytes(item)


def test_a_filesystem_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    memory, _ = fs.FileSystem.from_uri("mock:///")
    monkeypatch.setattr(filesystems, "_opened", lambda root: (memory, ""))  # it holds nothing for another connection
    memory.create_dir("bucket/cats")
    for name, content in (("bucket/cats/a.png", png(1)), ("bucket/b.png", png(2))):
        with memory.open_output_stream(name) as file:
            file.write(content)
    items = find_sources(["mock:///bucket/"])
    assert [(item.name, item.label) for item in items] == [
        ("mock:///bucket/b.png", None),
        ("mock:///bucket/cats/a.png", "cats"),
    ]
    assert [read_bytes(item) for item in items] == [png(2), png(1)]


def test_passwords_and_options_are_in_no_name() -> None:
    assert filesystems.public_name("s3://key:secret@bucket/a?region=x") == "s3://bucket/a"
    assert filesystems.public_name("photos/what?.png") == "photos/what?.png"
    assert filesystems.public_name("s3://bucket//a@b.png") == "s3://bucket//a@b.png"  # no password


@pytest.mark.parametrize("read", [find_sources, plan_shards])
def test_a_source_without_images_is_named_without_its_password(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    memory, _ = fs.FileSystem.from_uri("mock:///")
    memory.create_dir("bucket")
    monkeypatch.setattr(filesystems, "_opened", lambda root: (memory, ""))
    with pytest.raises(InputError, match=r"^no image in 'mock://host/bucket/'[.]$"):
        read(["mock://key:secret@host/bucket/"])


def test_a_list_of_uris_and_paths(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{(photos / 'b.png').as_uri()}\n\n{photos / 's.tar'}\n")
    assert [Path(file.name).name for file in list_files(listed)] == ["b.png", "s.tar"]


def test_a_list_names_what_is_gone_and_no_list(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos / 'b.png'}\r\n{photos / 'gone.png'}\n{listed}\n")
    files = list(list_files(listed))
    assert [(Path(file.name).name, file.size) for file in files[:2]] == [("b.png", len(png(2))), ("gone.png", -1)]
    [gone], [itself] = items_in(files[1]), items_in(files[2])
    with pytest.raises(InputError, match=r"gone\.png"):
        read_bytes(gone)
    with pytest.raises(InputError, match="not an image"):
        load_image(read_bytes(itself))


def test_a_table_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    for k in (1, 2):
        pq.write_table(pa.table({"image": pa.array([png(k)], pa.binary())}), path)
        os.utime(path, ns=(k, k))
        [item] = find_sources([path])
        assert read_bytes(item) == png(k)


def _table_without_images(folder: Path) -> str:
    pq.write_table(pa.table({"number": [1, 2]}), folder / "t.parquet")
    return str(folder / "t.parquet")


def _damaged_table(folder: Path) -> str:
    (folder / "t.parquet").write_bytes(b"PAR1 and nothing more")
    return str(folder / "t.parquet")


def _damaged_tar(folder: Path) -> str:
    (folder / "t.tar").write_bytes(b"no tar" * 1000)
    return (folder / "t.tar").as_uri()


@pytest.mark.parametrize(
    "make",
    [
        _table_without_images,
        _damaged_table,
        _damaged_tar,
        lambda folder: (folder / "gone").as_uri(),
        lambda folder: "nonesuch://bucket/photos",
        lambda folder: folder.as_uri(),  # nothing in it
    ],
)
def test_bad_sources_are_told_in_one_line(make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_sources([make(tmp_path)])
    assert len(str(caught.value).splitlines()) == 1


def test_files_are_opened_only_when_their_images_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"no tar" * 1000)
    [file] = list_files(tmp_path)
    with pytest.raises(InputError, match=r"t\.tar"):
        items_in(file)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    try:
        for name in (b"caf\xe9.png", b"caf\xe9.tar"):
            Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(png(1))
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    (tmp_path / "list.txt").write_bytes(bytes(folder) + b"/caf\xe9.png\n")
    for source in (folder, folder.as_uri(), tmp_path / "list.txt"):
        first = next(list_files(source))
        assert first.name.endswith("/caf%E9.png" if is_uri(str(source)) else "/caf\\xe9.png")
        [item] = items_in(pickle.loads(pickle.dumps(first)))
        assert read_bytes(item) == png(1)
    with pytest.raises(InputError) as caught:
        items_in(list(list_files(folder))[1])
    assert caught.match("cannot be read")
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/odd\xe9"))
    odd.mkdir()
    (odd / "a.png").write_bytes(png(2))
    for source in (odd, odd.as_uri()):
        [item] = find_sources([source])
        item.name.encode()
        assert read_bytes(item) == png(2)


def test_names_of_uris_lead_back_to_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    names = ["x%41.png", "xA.png", "a#1.png", "a?b=c.png", "new\nline.png", "caf\xe9.png", "a@b.png", "100 %.png"]
    names += ["deep%41/x.png", os.fsdecode(b"caf\xe9.png")]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(seed))
    first = find_sources([folder.as_uri()])
    pq.write_table(pa.table({"path": [item.name for item in first]}), tmp_path / "t.parquet")
    again = find_sources([tmp_path / "t.parquet"])
    assert [item.name for item in again] == [item.name for item in first]
    assert {read_bytes(item) for item in first} == {png(seed) for seed in range(len(names))}
    assert [read_bytes(item) for item in again] == [read_bytes(item) for item in first]
    assert [item.label for item in first if item.label] == ["deep%41"]
    # A table of an earlier release has plain names.
    pq.write_table(pa.table({"path": [f"file://{folder}/100 %.png"]}), tmp_path / "old.parquet")
    [old] = find_sources([tmp_path / "old.parquet"])
    assert read_bytes(old) == png(names.index("100 %.png"))


@pytest.mark.parametrize("name", ["p.png", "p.tar", "p.txt", "p.parquet"])
def test_nobody_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for source in (tmp_path / name, (tmp_path / name).as_uri()):
        with pytest.raises(InputError, match="not a regular file"):
            for item in find_sources([source]):
                load_image(source_of(item))


def test_links_in_folders_are_followed_as_by_find_items(photos: Path) -> None:
    (photos / "self").symlink_to(".")
    (photos / "linked.png").symlink_to("b.png")
    (photos / "broken.png").symlink_to("nowhere.png")
    expected = {item.path for item in find_items([photos]) if item.member is None}
    assert photos / "linked.png" in expected
    for source in (photos, photos.as_uri()):
        found = [file for file in list_files(source) if file.suffix != ".tar"]
        assert {Path(file.path.path) for file in found} == expected


def test_a_line_that_no_file_can_be_named_is_an_image_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos / 'b.png'}\n{'x' * 300}.png\na\0b.png\n")
    files = list(list_files(listed))
    assert [file.size for file in files] == [len(png(2)), -1, -1]
    for file in files[1:]:
        [item] = items_in(file)
        with pytest.raises(InputError):
            read_bytes(item)


def test_times_that_64_bits_do_not_hold_are_the_last_that_they_do(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "cats/a.png", photos / "s.tar"):
        os.utime(path, (1e10, 1e10))  # the year 2286, as clocks and cameras that are set wrong have it
    pq.write_table(pa.table({"path": [str(photos / "cats/a.png")]}), tmp_path / "list.parquet")
    for sources in ([photos], [photos / "cats/a.png"], [photos.as_uri()], [photos.as_uri() + "/cats/a.png"],
                    [tmp_path / "list.parquet"]):  # fmt: skip
        items = find_sources(sources)
        times = np.array([item.mtime_ns for item in items], np.int64)
        assert times.max() > 2e18  # file systems may end earlier, in 2038


def test_a_path_that_a_table_names_twice_counts_once(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    paths = [str(photos / name) for name in ("b.png", "cats/a.png", "b.png")]
    pq.write_table(pa.table({"path": paths, "label": ["u", "v", "w"]}), path)
    [file] = list_files(path)
    assert [(item.name, item.label) for item in items_in(file)] == list(zip(paths[:2], ["u", "v"], strict=True))


def test_a_column_of_paths_counts_before_one_of_any_bytes(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"sha256": [b"\1" * 32], "path": [str(photos / "b.png")]}), path)
    assert [read_bytes(item) for item in find_sources([path])] == [png(2)]
    pq.write_table(pa.table({"photo bytes": [png(3)], "number": [1]}), path)
    assert [read_bytes(item) for item in find_sources([path])] == [png(3)]


def test_a_column_with_a_dot_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "dot.parquet"
    pq.write_table(pa.table({"my.jpg": [png(1), png(2)], "my": [{"bytes": 1}, {"bytes": 2}]}), path)
    assert [read_bytes(item) for item in find_sources([path])] == [png(1), png(2)]


def test_tables_of_features_in_a_folder_are_no_images(photos: Path) -> None:
    from maerestore.features.table import FeatureTable
    from maerestore.features.table_files import write_table

    none: list[str | None] = [None]
    numbers = np.zeros(1, np.int64)
    table = FeatureTable([str(photos / "b.png")], np.ones((1, 2), np.float32), none, none, {}, numbers, numbers)
    write_table(table, photos / "features.parquet")
    found = {file.suffix: items_in(file) for file in list_files(photos)}
    assert found[".parquet"] == []
    assert [item.name for item in find_sources([photos / "features.parquet"])] == table.names  # it is named itself


def test_what_is_a_uri() -> None:
    assert [is_uri(text) for text in ("s3://b/a", "file:///a", "C:/a", "a/b", "a:b")] == [
        True,
        True,
        False,
        False,
        False,
    ]
