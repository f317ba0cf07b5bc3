"""The images of folders, tars and lists."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from maerestore.features.items import Item, find_items, read_bytes, source_of
from maerestore.image import InputError


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 3), value).save(file, "PNG")
    return file.getvalue()


def make_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with photos/a.png, photos/cats/b.png, photos/cats/old/c.JPG and what is no image."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "cats/b.png", "cats/old/c.JPG", "cats/notes.txt", ".hidden.png", ".git/d.png", "dogs/.e.png"):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_folder_is_searched_recursively_and_labels_are_its_folders() -> None:
    items = find_items(["photos"])
    assert [(item.name, item.label) for item in items] == [
        ("photos/a.png", None),
        ("photos/cats/b.png", "cats"),
        ("photos/cats/old/c.JPG", "cats"),
    ]
    assert [read_bytes(item) for item in items] == [b"a.png", b"cats/b.png", b"cats/old/c.JPG"]


def test_a_single_source_needs_no_list() -> None:
    assert find_items("photos") == find_items(Path("photos")) == find_items(["photos"])


def test_an_item_knows_its_file() -> None:
    os.utime("photos/a.png", ns=(1, 1_700_000_000_123_456_789))
    [item] = find_items([Path("photos/a.png")])
    assert item == Item("photos/a.png", Path("photos/a.png"), None, 5, 1_700_000_000_123_456_789)


def test_a_file_that_is_named_needs_no_suffix() -> None:
    Path("picture").write_bytes(b"x")
    assert [item.name for item in find_items(["picture"])] == ["picture"]


def test_sources_stay_in_order_and_an_image_counts_once() -> None:
    items = find_items(["photos/cats", "photos", "./photos/a.png"])
    assert [(item.name, item.label) for item in items] == [
        ("photos/cats/b.png", None),
        ("photos/cats/old/c.JPG", "old"),
        ("photos/a.png", None),
    ]


def test_members_of_a_tar_have_labels_beside_them() -> None:
    make_tar(
        Path("photos/shard.tar"),
        [("x/a.png", png(1)), ("x/a.cls", b"tench\n"), ("b.cls", b"3"), ("b.png", png(2)), ("c.png", png(3)),
         ("d.cls", b"nobody's"), ("e.json", b"{}"), ("x/.f.png", b"hidden")],
    )  # fmt: skip
    items = find_items(["photos/shard.tar"])
    assert [(item.name, item.member, item.label) for item in items] == [
        ("photos/shard.tar/x/a.png", "x/a.png", "tench"),
        ("photos/shard.tar/b.png", "b.png", "3"),
        ("photos/shard.tar/c.png", "c.png", None),
    ]
    assert [read_bytes(item) for item in items] == [png(1), png(2), png(3)]
    assert {item.mtime_ns for item in items} == {Path("photos/shard.tar").stat().st_mtime_ns}
    assert [item.name for item in find_items(["photos"])][-3:] == [item.name for item in items]


def test_the_later_of_two_members_with_one_name_counts() -> None:
    make_tar(Path("twice.tar"), [("a.png", png(1)), ("a.png", png(2))])
    [item] = find_items(["twice.tar"])
    assert read_bytes(item) == png(2)


def test_hard_links_in_a_tar_have_the_data_of_their_files() -> None:
    with tarfile.open("shard.tar", "w") as tar:
        for name, target in (
            ("x/a.png", ""),
            ("b.png", "./x/a.png"),
            ("a.cls", ""),
            ("b.cls", "a.cls"),
            ("c.png", "no"),
        ):
            member = tarfile.TarInfo(name)
            content = b"" if target else (b"cats" if name == "a.cls" else png(7))
            member.size, member.type, member.linkname = len(content), b"1" if target else b"0", target
            tar.addfile(member, io.BytesIO(content))
    items = find_items(["shard.tar"])
    assert [(item.name, item.label) for item in items] == [
        ("shard.tar/x/a.png", None),
        ("shard.tar/b.png", "cats"),
        ("shard.tar/c.png", None),
    ]
    assert [read_bytes(item) for item in items[:2]] == [png(7)] * 2
    with pytest.raises(
        InputError, match=r"^'shard\.tar/c\.png' is a hard link to a member that the tar does not contain\.$"
    ):
        read_bytes(items[2])


@pytest.mark.parametrize("line", ["x" * 300 + ".png", "y/" * 3000 + "z.png", "a\0b.png"])
def test_a_line_that_no_file_can_be_named_is_an_image_that_cannot_be_read(line: str) -> None:
    Path("list.txt").write_text(f"photos/a.png\n{line}\n")
    good, bad = find_items(["list.txt"])
    assert (good.size, bad.name, bad.size) == (5, line, -1)
    with pytest.raises(InputError):
        read_bytes(bad)


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_header_after_the_first_is_told(cut: bool) -> None:
    # tarfile ends there without an error, and the members after it would count as removed.
    path = make_tar(Path("shard.tar"), [("a.png", png()), ("b.png", png()), ("c.png", png())])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    content = path.read_bytes()
    path.write_bytes(content[: second + 100] if cut else content[:second] + b"x" * 512 + content[second + 512 :])
    with pytest.raises(InputError, match=r"^'shard\.tar' cannot be read \(a damaged header\)\.$"):
        find_items(["shard.tar"])
    path.write_bytes(content[:second])  # without the zeros at its end, but whole
    assert [item.member for item in find_items(["shard.tar"])] == ["a.png"]


def test_a_list_names_images_and_tars_from_the_working_directory() -> None:
    make_tar(Path("shard.tar"), [("a.png", png())])
    Path("lists").mkdir()
    Path("lists/some.txt").write_bytes(b"\xef\xbb\xbfphotos/cats/b.png\r\n\n  \nshard.tar\nphotos/none.png\n")
    items = find_items(["lists/some.txt"])
    assert [item.name for item in items] == ["photos/cats/b.png", "shard.tar/a.png", "photos/none.png"]
    assert items[-1].size == -1
    with pytest.raises(InputError, match=r"'photos/none.png' cannot be read \(No such file"):
        read_bytes(items[-1])


def test_names_are_utf8_whatever_the_file_system_holds() -> None:
    try:
        Path("odd").mkdir()
        Path(os.fsdecode(b"odd/caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    [item] = find_items(["odd"])
    assert item.name == "odd/caf\\xe9.png"
    assert read_bytes(item) == b"x"


def test_links_to_nowhere_are_left_out() -> None:
    Path("photos/broken.png").symlink_to("nowhere.png")
    assert len(find_items(["photos"])) == 3


def test_a_tar_that_became_shorter_is_told() -> None:
    path = make_tar(Path("shard.tar"), [("a.png", png())])
    [item] = find_items([path])
    os.truncate(path, item.offset + 10)
    with pytest.raises(InputError, match="'shard\\.tar/a\\.png' is cut off"):
        read_bytes(item)


BAD = {
    "none": ("nowhere", "'nowhere' does not exist"),
    "no image": ("photos/dogs", "no image in 'photos/dogs'"),
    "compressed": ("shard.tar.gz", "is compressed"),
    "no tar": ("fake.tar", "'fake.tar' cannot be read"),
    "compressed inside": ("really.tar", "'really.tar' cannot be read"),
    "folder in a list": ("folders.txt", "names the folder 'photos'"),
    "empty list": ("empty.txt", "no image in 'empty.txt'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_get_one_line(case: str) -> None:
    make_tar(Path("shard.tar.gz"), [("a.png", png())], "w:gz")
    make_tar(Path("really.tar"), [("a.png", png())], "w:gz")
    Path("fake.tar").write_bytes(b"no tar at all" * 100)
    Path("folders.txt").write_text("photos\n")
    Path("empty.txt").write_text("\n")
    source, message = BAD[case]
    with pytest.raises(InputError) as caught:
        find_items(["photos/a.png", source] if case not in ("no image", "empty list") else [source])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_loads_no_torch() -> None:
    import subprocess

    code = "import sys, maerestore.features.run; assert not {'torch', 'pyarrow', 'ray', 'sklearn'} & set(sys.modules)"
    root = Path(sys.modules["maerestore"].__file__ or "").parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_source_of_a_member_is_its_content() -> None:
    [member] = find_items([make_tar(Path("shard.tar"), [("a.png", png())])])
    assert source_of(member) == png()
    assert source_of(find_items(["photos/a.png"])[0]) == Path("photos/a.png")
