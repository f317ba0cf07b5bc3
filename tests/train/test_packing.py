import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.train import packing
from maerestore.train.packing import DataError, find_images, fit, held_out, list_folder, pack
from maerestore.train.resident import ResidentCorpus

from .conftest import file_names, gradient

ROOT = Path(__file__).resolve().parents[2]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_back(folder):
    index = json.loads((folder / "index.json").read_text())
    return np.load(folder / "pixels.npy"), np.load(folder / "sizes.npy"), index


def test_a_folder_is_packed_in_the_order_of_its_names(tmp_path):
    source = tmp_path / "photos"
    (source / "deeper").mkdir(parents=True)
    landscape, portrait = gradient(30, 20, 1), gradient(20, 28, 2)
    landscape.save(source / "a.png")
    portrait.save(source / "deeper" / "b.PNG")
    (source / "notes.txt").write_text("not a photo")
    assert pack([source], tmp_path / "out", 20) == {"photos": 2, "corrupt": 0}
    pixels, sizes, index = read_back(tmp_path / "out")
    assert index["names"] == ["a.png", "deeper/b.PNG"]
    assert index["short_side"] == 20
    assert pixels.shape == (2, 20, 30, 3)
    assert sizes.tolist() == [[20, 30, 0], [20, 28, 1]]
    assert np.array_equal(pixels[0], np.asarray(landscape))
    assert np.array_equal(pixels[1, :, :28], np.asarray(portrait).transpose(1, 0, 2))
    assert not pixels[1, :, 28:].any()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.json", "pixels.npy", "sizes.npy"]


def test_a_tar_packs_to_the_same_as_the_folder_it_was_made_of(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(3):
        gradient(24, 20, i).save(source / f"{i}.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(source.iterdir()):
            tar.add(path, path.name)
    pack([source], tmp_path / "one", 20)
    pack([tmp_path / "photos.tar"], tmp_path / "two", 20)
    assert (tmp_path / "one/index.json").read_text() == (tmp_path / "two/index.json").read_text()
    assert (tmp_path / "one/pixels.npy").read_bytes() == (tmp_path / "two/pixels.npy").read_bytes()


@pytest.mark.parametrize("name", ["shard.tar", "SHARD.TAR"])
def test_tars_inside_a_folder_are_found(tmp_path, name):
    data = png(gradient(24, 20))
    with tarfile.open(tmp_path / name, "w") as tar:
        member = tarfile.TarInfo("inside.png")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    gradient(24, 20).save(tmp_path / "beside.png")
    assert pack([tmp_path], tmp_path / "out", 20)["photos"] == 2
    assert sorted(read_back(tmp_path / "out")[2]["names"]) == ["beside.png", "inside.png"]
    assert pack([tmp_path / name], tmp_path / "alone", 20) == {"photos": 1, "corrupt": 0}


def test_corrupt_files_are_counted_and_left_out(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    gradient(24, 20).save(source / "good.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(source / "cut.jpg")
    (source / "cut.jpg").write_bytes((source / "cut.jpg").read_bytes()[:1500])
    (source / "text.png").write_text("hello")
    (source / "empty.webp").write_bytes(b"")
    assert pack([source], tmp_path / "out", 20) == {"photos": 1, "corrupt": 3}
    assert read_back(tmp_path / "out")[2]["corrupt"] == 3


def test_a_long_photo_keeps_its_middle():
    pixels, turned = fit(png(gradient(90, 20)), 20)
    assert not turned
    assert np.array_equal(pixels, np.asarray(gradient(90, 20))[:, 30:60])


def test_a_tall_photo_keeps_its_middle_on_its_side():
    pixels, turned = fit(png(gradient(20, 91)), 20)
    assert turned
    assert pixels.shape == (20, 30, 3)
    assert np.array_equal(pixels, np.asarray(gradient(20, 91))[30:60].transpose(1, 0, 2))


@pytest.mark.parametrize("size", [(301, 200), (200, 301), (7, 5), (50, 50), (33, 1)])
def test_the_short_side_fits_whatever_came(size):
    pixels, turned = fit(png(gradient(*size)), 16)
    assert pixels.shape[0] == 16
    assert 16 <= pixels.shape[1] <= 24
    assert turned == (size[1] > size[0])
    assert pixels.dtype == np.uint8


def test_the_exif_orientation_is_followed():
    upright, exif, buffer = gradient(30, 20), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    assert np.array_equal(fit(buffer.getvalue(), 20)[0], np.asarray(upright))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(mode):
    buffer = io.BytesIO()
    gradient(24, 20).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert fit(buffer.getvalue(), 20)[0].shape == (20, 24, 3)


def empty_png(width, height):
    """A PNG that states its size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    bodies = (header, b"IDAT")
    chunks = [struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_file_that_claims_a_gigantic_size_is_corrupt():
    assert fit(empty_png(60_000, 60_000), 20) is None


def test_an_error_of_struct_means_corrupt(monkeypatch):
    def broken(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr("maerestore.features.decode.ImageOps.exif_transpose", broken)
    assert fit(png(gradient(24, 20)), 20) is None


def test_sixteen_bit_gray_keeps_its_shades():
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 24), 0x8000, np.uint16)).save(buffer, "PNG")
    assert abs(int(fit(buffer.getvalue(), 20)[0].mean()) - 128) <= 1


def test_colours_hidden_by_transparency_are_not_packed():
    picture = Image.new("RGBA", (24, 20), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 12, 20))
    pixels, _ = fit(png(picture), 20)
    assert np.array_equal(pixels[:, [2, 21]], np.broadcast_to([[0, 0, 255], [255, 255, 255]], (20, 2, 3)))


def test_what_counts_as_an_image_is_what_counts_everywhere(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.gif", "b.jp2", "c.ppm"):
        gradient(24, 20).save(tmp_path / "photos" / name)
    assert pack([tmp_path / "photos"], tmp_path / "out", 20) == {"photos": 3, "corrupt": 0}
    assert read_back(tmp_path / "out")[2]["names"] == ["a.gif", "b.jp2", "c.ppm"]


def test_the_file_of_pixels_is_as_numpy_writes_it(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        gradient(24, 20, i).save(tmp_path / "photos" / f"{i}.png")
    pack([tmp_path / "photos"], tmp_path / "out", 20)
    np.save(tmp_path / "again.npy", read_back(tmp_path / "out")[0])
    assert (tmp_path / "out/pixels.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_files_are_read_in_portions_of_so_many_bytes(tmp_path, monkeypatch):
    held = []
    chunks = packing._chunks
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 3000)
    monkeypatch.setattr(packing, "_chunks", lambda items: (held.append(len(c)) or c for c in chunks(items)))
    (tmp_path / "photos").mkdir()
    for i in range(5):
        path = tmp_path / f"photos/{i}.png"
        gradient(24, 20, i).save(path)
        path.write_bytes(path.read_bytes().ljust(2000))  # decoders stop where the picture ends
    assert pack([tmp_path / "photos"], tmp_path / "out", 20)["photos"] == 5
    assert held == [2, 2, 1]


def test_a_disk_that_is_full_ends_in_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for it: both are errors of a write."""
    (tmp_path / "photos").mkdir()
    for i in range(40):
        gradient(96, 80, i).save(tmp_path / "photos" / f"{i}.png")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2); sys.argv[1:] = "
        f"[{str(tmp_path / 'photos')!r}, '-o', {str(tmp_path / 'out')!r}, '--size', '80', '--workers', '1']; "
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r}); import prepare_data; sys.exit(prepare_data.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"prepare_data: {tmp_path / 'out'}: cannot be written (File too large)"
    assert list((tmp_path / "out").iterdir()) == []


def test_packing_anew_that_is_cut_off_leaves_no_index_of_before(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    gradient(24, 20).save(tmp_path / "photos/a.png")
    pack([tmp_path / "photos"], tmp_path / "out", 20)

    def cut_off(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pack([tmp_path / "photos"], tmp_path / "out", 20)
    assert not (tmp_path / "out/index.json").exists()  # the new pixels with the old names


def test_a_killed_decoder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    gradient(24, 20).save(tmp_path / "photos/a.png")
    monkeypatch.setattr(packing, "fit", lambda data, short_side: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(packing, "ProcessPoolExecutor", partial(ProcessPoolExecutor, mp_context=get_context("fork")))
    with pytest.raises(DataError, match="was killed"):
        pack([tmp_path / "photos"], tmp_path / "out", 20)


def test_a_missing_source_and_a_folder_without_photos_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        pack([tmp_path / "nowhere"], tmp_path / "out", 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        pack([tmp_path / "empty"], tmp_path / "out2", 20)
    assert list((tmp_path / "out2").iterdir()) == []


def test_a_missing_second_source_leaves_nothing_behind(tmp_path):
    (tmp_path / "photos").mkdir()
    gradient(24, 20).save(tmp_path / "photos/a.png")
    with pytest.raises(DataError):
        pack([tmp_path / "photos", tmp_path / "nowhere"], tmp_path / "out", 20)
    assert not (tmp_path / "out").exists()


def test_which_photos_are_held_out_depends_on_the_name_alone():
    names = [f"photo-{i}.jpg" for i in range(20_000)]
    assert [held_out(name) for name in names] == [zlib.crc32(name.encode()) % 64 == 0 for name in names]
    assert 0.8 / 64 < np.mean([held_out(name) for name in names]) < 1.2 / 64


def run_script(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, str(ROOT / "scripts/prepare_data.py"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=60, env=environment, check=False)  # fmt: skip


def test_the_script_packs_a_folder_and_says_what_it_did(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for name in file_names(3, False) + file_names(1, True):
        gradient(24, 20).save(source / name)
    (source / "broken.jpg").write_text("hello")
    result = run_script(source, "-o", tmp_path / "out", "--size", 20, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert "4 photos packed" in result.stdout
    assert "(1 of them kept aside)" in result.stdout
    assert "1 corrupt" in result.stdout
    assert read_back(tmp_path / "out")[0].shape == (4, 20, 30, 3)


def test_the_script_says_in_a_line_that_a_source_is_missing(tmp_path):
    result = run_script(tmp_path / "nowhere", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("prepare_data: ")


@pytest.mark.parametrize("option", [("--workers", 0), ("--size", 0), ("--size", -4)])
def test_the_script_wants_positive_numbers(tmp_path, option):
    result = run_script(tmp_path, "-o", tmp_path / "out", *option)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].endswith(f"{option[0]} must be at least 1, got {option[1]}")
    assert "Traceback" not in result.stderr


def test_a_name_that_is_no_utf8_is_packed_like_any_other(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos").mkdir()
    try:
        gradient(24, 20).save(tmp_path / "photos" / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.add(tmp_path / "photos" / name, "caf\xe9.png")
    for source in ("photos", "photos.tar"):
        assert pack([tmp_path / source], tmp_path / "out", 20) == {"photos": 1, "corrupt": 0}
        assert json.loads((tmp_path / "out/index.json").read_text())["names"] == [name]
        ResidentCorpus.from_packed(tmp_path / "out", torch.device("cpu"))


def test_hidden_files_and_the_pictures_of_runs_are_no_photographs(tmp_path):
    for place in ("a.png", "b/c.png", "._a.png", ".thumbs/a.png", "run/fills-1.jpg", "run/d/d.png", "b/log/e.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        gradient(24, 20).save(tmp_path / place)
    for folder in ("run", "b/log"):  # of which the second is none
        (tmp_path / folder / "log.jsonl").touch()
    names = ["a.png", "b/c.png", "b/log/e.png"]
    assert list_folder(tmp_path) == [tmp_path / name for name in names]
    assert [name for name, _ in find_images([tmp_path])] == names


def test_a_compressed_tar_that_is_cut_off_gets_one_line(tmp_path):
    gradient(24, 20).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        for i in range(20):
            tar.add(tmp_path / "a.png", f"{i}.png")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tar: not a readable tar"):
        pack([tmp_path / "cut.tar"], tmp_path / "out", 20)
