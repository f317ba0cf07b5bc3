"""What a decoder stumbles over in a file that can be read is not told on stderr."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from cv2.utils import logging as opencv_log
from PIL import Image

from maerestore.image import InputError, read_photo, write_photo
from maerestore.image.quiet import quiet_opencv, quiet_pillow

DEEP = np.random.default_rng(5).integers(0, 65536, (12, 19, 3)).astype(np.uint16)


def deep_tiff(path: Path) -> None:
    """Write 16-bit LZW samples with a tag that OpenCV does not know in place of the last one, which says unsigned."""
    cv2.imwrite(str(path), DEEP, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[339]
        data[tag.offset : tag.offset + 2] = struct.pack(file.byteorder + "H", 65000)
    path.write_bytes(data)


def test_opencv_does_not_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = opencv_log.getLogLevel()
    deep_tiff(tmp_path / "in.tif")
    cv2.imread(str(tmp_path / "in.tif"), cv2.IMREAD_UNCHANGED)
    assert "Unknown field" in capfd.readouterr().err
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, DEEP[..., ::-1])
    data = (tmp_path / "in.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:200] + b"\xff" * 200 + data[400:])
    with pytest.raises(InputError):
        read_photo(tmp_path / "cut.tif")
    assert capfd.readouterr().err == ""
    assert opencv_log.getLogLevel() == level


def test_a_profile_that_libpng_complains_about_is_kept_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), DEEP)
    data = (tmp_path / "in.png").read_bytes()
    profile = b"iCCP" + b"odd\0\0" + zlib.compress(b"a profile")
    chunk = struct.pack(">L", len(profile) - 4) + profile + struct.pack(">L", zlib.crc32(profile))
    (tmp_path / "in.png").write_bytes(data[:33] + chunk + data[33:])
    cv2.imread(str(tmp_path / "in.png"), cv2.IMREAD_UNCHANGED)
    assert "iCCP" in capfd.readouterr().err
    photo = read_photo(tmp_path / "in.png")
    np.testing.assert_array_equal(photo.samples, DEEP[..., ::-1])
    write_photo(photo, tmp_path / "out.png")
    assert chunk in (tmp_path / "out.png").read_bytes()
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("error")
def test_pillow_does_not_warn(tmp_path: Path) -> None:
    filters = list(warnings.filters)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0"  # one tag, which is missing
    Image.fromarray(DEEP.astype(np.uint8)).save(tmp_path / "in.jpg", exif=exif)
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / "out.tif")
    data = (tmp_path / "out.tif").read_bytes()
    (tmp_path / "in.tif").write_bytes(data[:4] + struct.pack("<L", len(data)) + data[8:] + data[8:40])
    with pytest.raises(InputError):
        read_photo(tmp_path / "in.tif")
    assert warnings.filters == filters


def test_tifffile_does_not_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # but to those of pytest
    tifffile.imwrite(tmp_path / "in.tif", DEEP, photometric="rgb", metadata=None, extratags=[(65000, 3, 1, 7, True)])
    data = bytearray((tmp_path / "in.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "in.tif") as file:
        offset = file.pages[0].tags[65000].offset
    data[offset + 2 : offset + 4] = b"\xee\xee"  # no type
    (tmp_path / "in.tif").write_bytes(data)
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, DEEP)
    assert capfd.readouterr().err == ""


def test_threads_that_overlap_leave_everything_as_it_was() -> None:
    filters, level = list(warnings.filters), opencv_log.getLogLevel()
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with quiet_pillow, quiet_opencv:
            first_is_in.set()
            assert second_is_in.wait(10)
        first_is_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_in.wait(10)
    with quiet_pillow, quiet_opencv:
        second_is_in.set()
        assert first_is_out.wait(10)
        assert warnings.filters != filters
        assert opencv_log.getLogLevel() == opencv_log.LOG_LEVEL_SILENT
    thread.join()
    assert warnings.filters == filters
    assert opencv_log.getLogLevel() == level
