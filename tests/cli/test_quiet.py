"""What a decoder stumbles over in a file that can be read: the command says nothing of it, and the library leaves the
process's settings alone."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from cv2.utils import logging as opencv_log
from PIL import Image

from maerestore.image import read_photo, write_photo

from .conftest import HEIGHT, WIDTH, hole, save_mask

DEEP = np.random.default_rng(5).integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)


def deep_tiff(path: Path) -> None:
    """Write 16-bit LZW samples with a tag that OpenCV does not know in place of the last one, which says unsigned."""
    cv2.imwrite(str(path), DEEP, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[339]
        data[tag.offset : tag.offset + 2] = struct.pack(file.byteorder + "H", 65000)
    path.write_bytes(data)


def odd_tiff(path: Path) -> None:
    """Write 16-bit samples with a tag of no known type, of which tifffile logs."""
    tifffile.imwrite(path, DEEP, photometric="rgb", metadata=None, extratags=[(65000, 3, 1, 7, True)])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].tags[65000].offset
    data[offset + 2 : offset + 4] = b"\xee\xee"
    path.write_bytes(data)


def odd_jpeg(path: Path) -> None:
    """Write a JPEG whose EXIF lacks the one tag that it counts, of which Pillow warns."""
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0")


@pytest.mark.parametrize("table", [False, True])
def test_decoders_of_the_command_tell_nothing(table: bool, tmp_path: Path, model_folder: Path) -> None:
    names = ["a.tif", "b.tif", "c.jpg"]
    for name, write in zip(names, (deep_tiff, odd_tiff, odd_jpeg), strict=True):
        write(tmp_path / name)
    save_mask(tmp_path / "mask.png", hole())
    (tmp_path / "pairs.csv").write_text("".join(["photo,mask\n", *(f"{name},mask.png\n" for name in names)]))
    runs = [["--table", "pairs.csv", "-o", "filled"]] if table else [[name, "mask.png"] for name in names]
    options = ["--model", str(model_folder), "--device", "cpu", "--sharp", "off", "--quiet"]
    code = (
        "import json, sys; from maerestore.cli.main import main; "
        "sys.exit(max(main(['inpaint', *run, *sys.argv[2:]]) for run in json.loads(sys.argv[1])))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OPENCV_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(runs), *options], cwd=tmp_path,
                          env=environment, capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len([*(tmp_path / "filled").iterdir()] if table else [*tmp_path.glob("*_filled.*")]) == 3


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_tells_in_one_line_of_metadata_that_is_lost(
    quiet: bool, tmp_path: Path, model_folder: Path
) -> None:
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(tmp_path / "a.png")
    save_mask(tmp_path / "mask.png", hole())
    code = (
        "import sys; from maerestore.image import encode; write = encode._WRITERS['JPEG']; tried = []; "
        "encode._WRITERS['JPEG'] = lambda *a: (tried.append(1), len(tried) > 1 or 1 / 0, write(*a)); "
        "from maerestore.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--model", model_folder, "--device", "cpu", "--sharp", "off", *(["--quiet"] if quiet else [])]
    done = subprocess.run([sys.executable, "-c", code, "inpaint", "a.png", "mask.png", "-o", "out.jpg", *options],
                          cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.count("\n") == (not quiet)
    assert quiet or done.stderr.startswith("maerestore inpaint: warning: 'out.jpg' is written without the descriptions")


def test_the_library_leaves_the_warnings_of_the_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd_jpeg(tmp_path / "in.jpg")
    deep_tiff(tmp_path / "in.tif")
    filters, level = list(warnings.filters), opencv_log.getLogLevel()

    def changed(*_: object, **__: object) -> None:
        pytest.fail("even while a file is read, other threads have these settings")

    with monkeypatch.context() as patched:  # pytest needs them itself
        patched.setattr(warnings, "catch_warnings", changed)
        patched.setattr(opencv_log, "setLogLevel", changed)
        for name in ("in.jpg", "in.tif"):
            write_photo(read_photo(tmp_path / name), tmp_path / f"out_{name}")
    assert list(warnings.filters) == filters
    assert opencv_log.getLogLevel() == level


def test_a_warning_that_is_to_be_heard_is(tmp_path: Path) -> None:
    odd_jpeg(tmp_path / "in.jpg")
    with pytest.warns(UserWarning, match="EXIF"):
        read_photo(tmp_path / "in.jpg")
