"""Output paths are checked beforehand, and files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.image import InputError, Photo, atomic_file, encode, resolve_output, write_photo

PHOTO = Photo(np.full((4, 6, 3), 200, dtype=np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_photo(PHOTO, tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        resolve_output(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_default_name(source: Path) -> None:
    assert resolve_output(source) == source.with_name("photo_filled.png")
    assert resolve_output(source.with_name("a.b.JPG")).name == "a.b_filled.JPG"


def test_a_suffix_that_cannot_be_written_becomes_png_where_we_choose_the_name(tmp_path: Path) -> None:
    assert resolve_output(tmp_path / "photo.heic").name == "photo_filled.png"
    assert resolve_output(tmp_path / "photo").name == "photo_filled.png"
    folder = tmp_path / "out"
    folder.mkdir()
    assert resolve_output(tmp_path / "photo.avif", folder) == folder / "photo.png"


@pytest.mark.parametrize(("name", "file_format", "expected"), [
    ("photo.jpg", "PNG", "photo_filled.png"),
    ("photo.PNG", "JPEG", "photo_filled.PNG"),
    ("photo.gif", "JPEG", "photo_filled.png"),
    ("photo.webp", "PNG", "photo_filled.webp"),
    ("photo", "JPEG", "photo_filled.jpg"),
    ("photo", "TIFF", "photo_filled.tif"),
    ("photo.png", "WEBP", "photo_filled.png"),
    ("photo.jpeg", "GIF", "photo_filled.gif"),
    ("photo.jpg", "BMP", "photo_filled.bmp"),
    ("photo.jpg", "PPM", "photo_filled.ppm"),
    ("photo.jpg", "JPEG2000", "photo_filled.png"),
    ("photo.JPEG", "JPEG", "photo_filled.JPEG"),
    ("photo.jfif", "JPEG", "photo_filled.jfif"),
    ("photo.pnm", "PPM", "photo_filled.pnm"),
])  # fmt: skip
def test_the_name_that_we_choose_fits_what_the_photo_holds(
    name: str, file_format: str, expected: str, tmp_path: Path
) -> None:
    Image.new("L", (8, 6), 9).save(tmp_path / name, format=file_format)
    assert resolve_output(tmp_path / name).name == expected
    (tmp_path / "out").mkdir()
    assert resolve_output(tmp_path / name, tmp_path / "out").name == expected.replace("_filled", "")
    assert resolve_output(tmp_path / name, tmp_path / "given.jpg").name == "given.jpg"


@pytest.mark.parametrize("start", [b"\0\0\0\x20ftypheic\0", b"\0\0\0\x1cftypavif\0", b"8BPS\0\1", b"qoif\0\0"])
def test_what_is_read_only_becomes_png_under_any_name(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(start)
    assert resolve_output(tmp_path / "photo.jpg").name == "photo_filled.png"
    (tmp_path / "photo.jpg").write_bytes(b"BM, which is no image, but text")
    assert resolve_output(tmp_path / "photo.jpg").name == "photo_filled.jpg"


def test_folder_gets_the_name_of_the_photo(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert resolve_output(source, tmp_path / "out") == tmp_path / "out" / "photo.png"
    assert resolve_output(source, f"{tmp_path}/out/") == tmp_path / "out" / "photo.png"
    assert "does not exist" in refusal(source, f"{tmp_path}/none/")
    assert "--overwrite" in refusal(source, tmp_path)  # its own folder


def test_missing_parent(source: Path, tmp_path: Path) -> None:
    assert "does not exist: create it first" in refusal(source, tmp_path / "none" / "x.png")
    assert "is not a folder" in refusal(source, source / "x.png")


@pytest.mark.parametrize("name", ["x.xyz", "x", "x.heic", "x.svg", ".png"])
def test_unknown_suffix(source: Path, name: str, tmp_path: Path) -> None:
    assert "use .png, .jpg" in refusal(source, tmp_path / name)
    with pytest.raises(InputError):
        write_photo(PHOTO, tmp_path / name)


@pytest.mark.parametrize(("name", "known"), [
    ("x.avif", "AVIF"), ("x.JP2", "JPEG 2000"), ("x.qoi", "QOI"), ("x.psd", "PSD"), ("x.heic", "HEIC"),
])  # fmt: skip
def test_a_format_that_is_only_read_is_named(source: Path, name: str, known: str, tmp_path: Path) -> None:
    message = refusal(source, tmp_path / name)
    assert f"and {known} can be read, but not written: use .png, .jpg" in message


def test_an_existing_file_needs_overwrite(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(b"precious")
    assert "add --overwrite" in refusal(source, other)
    with pytest.raises(InputError, match=r"add --overwrite .in Python: overwrite=True"):
        write_photo(PHOTO, other)
    assert other.read_bytes() == b"precious"
    assert resolve_output(source, other, overwrite=True) == other
    write_photo(PHOTO, other, overwrite=True)
    assert other.read_bytes() == source.read_bytes()


def test_inputs_are_recognised_under_other_names(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "mask.png"
    write_photo(PHOTO, mask)
    (tmp_path / "link.png").symlink_to(source)
    os.link(mask, tmp_path / "hard.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for out in ("link.png", "./photo.png", "hard.png", "mask.png", "folder/mask.png", source):
        of_photo = os.path.samefile(out, source)
        message = refusal(source, out, inputs=(mask,))
        assert "would replace the input" in message
        assert ("--overwrite" in message) == of_photo
        if of_photo:
            resolve_output(source, out, overwrite=True, inputs=(mask,))
            resolve_output(source, out, overwrite=True, inputs=(source,))  # its own mask
        else:
            assert refusal(source, out, overwrite=True, inputs=(mask,)) == message


def test_an_input_that_does_not_exist_is_still_no_output(tmp_path: Path) -> None:
    assert "would replace the input" in refusal(tmp_path / "a.png", tmp_path / "a.png")


def test_special_files_and_folders_are_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert resolve_output(source, tmp_path / "folder.png") == tmp_path / "folder.png" / "photo.png"
    with pytest.raises(InputError, match="is a folder"):
        write_photo(PHOTO, tmp_path / "folder.png", overwrite=True)
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refusal(source, tmp_path / "pipe.png", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_places(source: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission" in refusal(source, tmp_path / "locked" / "x.png")
    (tmp_path / "fixed.png").touch(mode=0o400)
    assert "write-protected" in refusal(source, tmp_path / "fixed.png", overwrite=True)


def test_missing_permission_is_reported(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert "no permission for the folder" in refusal(source, tmp_path / "x.png")


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write_photo(PHOTO, tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


def test_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_photo(PHOTO, tmp_path / "new.png")
        (tmp_path / "kept.png").touch()
        (tmp_path / "kept.png").chmod(0o604)
        write_photo(PHOTO, tmp_path / "kept.png", overwrite=True)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new.png").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "kept.png").stat().st_mode) == 0o604


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, MemoryError, RuntimeError])
@pytest.mark.parametrize("existing", [False, True])
def test_an_aborted_write_leaves_nothing(
    failure: type[BaseException], existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    if existing:
        path.write_bytes(b"before")

    def fail(photo: Photo, file: object, quality: int | None) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise failure

    monkeypatch.setitem(encode._WRITERS, "PNG", fail)
    with pytest.raises(failure):
        write_photo(PHOTO, path, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == (["out.png"] if existing else [])
    if existing:
        assert path.read_bytes() == b"before"


def test_a_full_disk_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leftovers: Callable[[], list[str]]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_photo(PHOTO, tmp_path / "out.png")
    assert no_leftovers() == []
    assert not (tmp_path / "out.png").exists()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, no_leftovers: Callable[[], list[str]]) -> None:
    path = tmp_path / "out.png"
    with pytest.raises(InputError, match="exists"), atomic_file(path) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert no_leftovers() == []


def test_the_longest_name_a_file_system_takes(tmp_path: Path) -> None:
    write_photo(PHOTO, tmp_path / ("x" * 251 + ".png"))
    with pytest.raises(InputError):
        write_photo(PHOTO, tmp_path / ("x" * 300 + ".png"))


def test_colours_a_gif_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GIF cannot hold this photo's colours"):
        write_photo(PHOTO, tmp_path / "out.gif")
    assert list(tmp_path.iterdir()) == []
