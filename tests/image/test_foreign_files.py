"""Files that other software wrote, and what other software reads of ours."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from maerestore.image import InputError, Photo, read_photo, write_photo
from maerestore.image.exif import turn_upright

RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 12, 19
SAMPLE_FORMAT = 339


def samples(channels: int, bits: int = 8) -> np.ndarray:
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    return RNG.integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)


def filled(photo: Photo) -> tuple[Photo, np.ndarray]:
    """Fill a block in the corner; return the photo and the mask."""
    width, height = photo.size
    mask = np.zeros((height, width), dtype=bool)
    mask[:5, :4] = True
    return photo.with_fill(np.full((height, width, 3), 0.5, dtype=np.float32), mask), mask


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pillow_sees_the_same_pixels(mode: str, channels: int, suffix: str, tmp_path: Path) -> None:
    array = samples(channels)
    Image.fromarray(array).save(tmp_path / f"in{suffix}")
    result, mask = filled(read_photo(tmp_path / f"in{suffix}"))
    write_photo(result, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.mode == mode
        out = np.asarray(image)
    np.testing.assert_array_equal(out[~mask], array[~mask])
    assert (out[mask][..., 0] if channels > 1 else out[mask]).tolist() == [128] * 20


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_opencv_sees_the_same_16_bit_png(channels: int, tmp_path: Path) -> None:
    array = samples(channels, 16)
    cv2.imwrite(str(tmp_path / "in.png"), array)
    photo = read_photo(tmp_path / "in.png")
    assert photo.bits == 16
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.png")
    out = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out[~mask], array[~mask])
    assert set(out[mask].reshape(20, -1)[:, 0].tolist()) == {32768}


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (3, 16), (4, 16), (3, 8)])
def test_tifffile_sees_the_same_pixels(options: dict, byteorder: str, channels: int, bits: int, tmp_path: Path) -> None:
    array = samples(channels, bits)
    photometric = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "in.tif", array, photometric=photometric, byteorder=byteorder, metadata=None, **options)
    photo = read_photo(tmp_path / "in.tif")
    assert (photo.bits, len(photo.mode)) == (bits, channels)
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.tif")
    out = tifffile.imread(tmp_path / "out.tif")
    assert out.dtype == array.dtype
    np.testing.assert_array_equal(out[~mask], array[~mask])
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert (file.pages[0].compression == 1) == (not options)


def test_a_gif_of_the_gray_ramp_keeps_its_transparent_entry(tmp_path: Path) -> None:
    array = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(array).save(tmp_path / "in.gif", transparency=7)
    photo = read_photo(tmp_path / "in.gif")
    np.testing.assert_array_equal(photo.alpha() == 0, array == 7)
    np.testing.assert_array_equal(np.rint(photo.rgb()[..., 0] * 255), array)
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as image:
        out = np.asarray(image.convert("RGBA"))
    assert (out[..., 3] == np.where(array == 7, 0, 255))[~mask].all()
    np.testing.assert_array_equal(out[..., 0][~mask & (array != 7)], array[~mask & (array != 7)])


def test_a_planar_tiff_is_read(tmp_path: Path) -> None:
    array = samples(3, 16)
    tifffile.imwrite(tmp_path / "in.tif", np.moveaxis(array, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, array)


def test_an_lzw_tiff_of_16_bits_is_read(tmp_path: Path) -> None:
    array = samples(3, 16)
    cv2.imwrite(str(tmp_path / "in.tif"), array, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, array[..., ::-1])


def test_an_lzw_tiff_is_read_without_imagecodecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = samples(3, 16)
    cv2.imwrite(str(tmp_path / "in.tif"), array, [cv2.IMWRITE_TIFF_COMPRESSION, 5])

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, array[..., ::-1])


@pytest.mark.parametrize(("channels", "bits"), [(3, 16), (4, 16), (4, 8)])
def test_planes_that_only_opencv_could_decode_are_refused(
    channels: int, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = samples(channels, bits)
    alpha = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "in.tif", np.moveaxis(array, -1, 0), photometric="rgb", planarconfig="separate", **alpha
    )
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, array)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(InputError, match="save it uncompressed or with ZIP"):
        read_photo(tmp_path / "in.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_a_deep_lzw_tiff_is_turned_once(mode: str, orientation: int, tmp_path: Path) -> None:
    array = samples(1 if mode == "I;16" else 3, 16)
    cv2.imwrite(str(tmp_path / "in.tif"), array[..., ::-1] if array.ndim == 3 else array,
                [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # fmt: skip
    data = bytearray((tmp_path / "in.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "in.tif") as file:
        assert file.pages[0].compression == 5
        tag = file.pages[0].tags[SAMPLE_FORMAT]  # unsigned, as without it: its place is the orientation's now
        assert tag.value in (1, (1, 1, 1))
        entry = [(274, 2), (3, 2), (1, 4), (orientation, 2), (0, 2)]
        order = "little" if file.byteorder == "<" else "big"
        data[tag.offset : tag.offset + 12] = b"".join(value.to_bytes(size, order) for value, size in entry)
    (tmp_path / "in.tif").write_bytes(data)
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, turn_upright(array, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("CMYK", 4)])
def test_an_8_bit_tiff_is_turned_once_and_keeps_its_samples(
    mode: str, channels: int, compression: str, orientation: int, tmp_path: Path
) -> None:
    array = samples(channels)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(array, mode).save(tmp_path / "in.tif", compression=compression, exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "in.tif").samples, turn_upright(array, orientation))


def test_a_compression_that_nothing_here_reads_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = samples(2)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="minisblack", extrasamples=["assocalpha"])

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LERC: 34887> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(InputError, match="uncompressed"):
        read_photo(tmp_path / "in.tif")


@pytest.mark.parametrize("bits", [8, 16])
def test_premultiplied_alpha_stays_as_stored(bits: int, tmp_path: Path) -> None:
    array = samples(4, bits)
    array[..., :3] = np.minimum(array[..., :3], array[..., 3:])
    array[0, 0] = 0
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    photo = read_photo(tmp_path / "in.tif")
    assert photo.premultiplied
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        out = file.asarray()
        assert file.pages[0].extrasamples == (1,)
    np.testing.assert_array_equal(out[~mask], array[~mask])
    np.testing.assert_array_equal(out[mask][:, 3], array[mask][:, 3])
    np.testing.assert_array_equal(out[mask][:, 0], np.rint(array[mask][:, 3] * np.float32(0.5)))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_min_is_white_tiff_keeps_its_polarity(bits: int, tmp_path: Path) -> None:
    array = samples(1, bits)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="miniswhite", metadata=None)
    photo = read_photo(tmp_path / "in.tif")
    assert photo.rgb()[0, 0, 0] == pytest.approx(1 - array[0, 0] / (2**bits - 1))
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].photometric == 0
        np.testing.assert_array_equal(file.asarray()[~mask], array[~mask])


@pytest.mark.parametrize("size", [(1, 1), (20, 31)])
@pytest.mark.parametrize("colors", [2, 5, 60, 256])
@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_palette_files_of_pillow(size: tuple[int, int], colors: int, suffix: str, tmp_path: Path) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    image = noise.quantize(colors)
    image.save(tmp_path / f"in{suffix}")
    with Image.open(tmp_path / f"in{suffix}") as opened:
        expected = np.asarray(opened.convert("RGB"))
    photo = read_photo(tmp_path / f"in{suffix}")
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 3] = True
    fill = RNG.random((*size, 3), dtype=np.float32)
    write_photo(photo.with_fill(fill, mask), tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as opened:
        assert opened.mode in ("P", "L", "1")
        np.testing.assert_array_equal(np.asarray(opened.convert("RGB"))[~mask], expected[~mask])


def test_gif_transparency_survives(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 4, (9, 9), dtype=np.uint8))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / "in.gif", transparency=2)
    photo = read_photo(tmp_path / "in.gif")
    mask = np.ones((9, 9), dtype=bool)
    write_photo(photo.with_fill(np.ones((9, 9, 3), dtype=np.float32), mask), tmp_path / "out.gif")
    before = np.asarray(Image.open(tmp_path / "in.gif").convert("RGBA"))
    after = np.asarray(Image.open(tmp_path / "out.gif").convert("RGBA"))
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    assert (after[after[..., 3] == 255][:, :3] == 255).all()


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (1, 2, 3)), ("1", 0)])
def test_the_transparent_colour_of_a_png_is_neither_lost_nor_gained(
    mode: str, key: int | tuple[int, ...], tmp_path: Path
) -> None:
    image = Image.new(mode, (6, 4), key)
    image.paste(1 if mode == "1" else "white", (0, 0, 3, 4))
    image.save(tmp_path / "in.png", transparency=key)
    photo = read_photo(tmp_path / "in.png")
    alpha = photo.alpha()
    assert alpha is not None
    assert alpha.tolist() == [[1, 1, 1, 0, 0, 0]] * 4
    # a fill of exactly the transparent colour must not punch holes into the opaque half
    level = np.asarray(key, dtype=np.float32).reshape(-1) / np.float32(255)
    fill = np.broadcast_to(level if len(level) == 3 else level.repeat(3), (4, 6, 3))
    result = photo.with_fill(fill, np.ones((4, 6), dtype=bool))
    write_photo(result, tmp_path / "out.png")
    again = read_photo(tmp_path / "out.png").alpha()
    assert again is not None
    np.testing.assert_array_equal(again, alpha)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_is_written_without_loss_whatever_it_was(lossless: bool, tmp_path: Path) -> None:
    Image.fromarray(samples(4)).save(tmp_path / "in.webp", lossless=lossless)
    with Image.open(tmp_path / "in.webp") as opened:
        before = np.asarray(opened)
    result, mask = filled(read_photo(tmp_path / "in.webp"))
    write_photo(result, tmp_path / "out.webp")
    assert b"VP8L" in (tmp_path / "out.webp").read_bytes()
    with Image.open(tmp_path / "out.webp") as opened:
        np.testing.assert_array_equal(np.asarray(opened)[~mask], before[~mask])


def test_a_phone_photo_with_a_preview_is_read_as_a_jpeg(tmp_path: Path) -> None:
    main, preview = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (20, 15), "blue")
    main.save(tmp_path / "in.mpo", save_all=True, append_images=[preview])
    (tmp_path / "in.mpo").rename(tmp_path / "in.jpg")
    photo = read_photo(tmp_path / "in.jpg")
    assert (photo.size, photo.format) == ((40, 30), "JPEG")


def test_a_tiff_thumbnail_is_not_a_second_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        file.write(samples(3), photometric="rgb")
        file.write(samples(3)[:6, :9], photometric="rgb", subfiletype=1)
    assert read_photo(tmp_path / "in.tif").size == (WIDTH, HEIGHT)


def interlaced_png(array: np.ndarray) -> bytes:
    """Encode uint16 RGB in the seven passes of Adam7, unfiltered."""
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = (row for y, x, dy, dx in passes for row in array.astype(">u2")[y::dy, x::dx] if row.size)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">LLBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (12, 19)])
def test_an_interlaced_16_bit_png_is_read(size: tuple[int, int], tmp_path: Path) -> None:
    array = RNG.integers(0, 65536, (*size, 3)).astype(np.uint16)
    (tmp_path / "in.png").write_bytes(interlaced_png(array))
    np.testing.assert_array_equal(read_photo(tmp_path / "in.png").samples, array)


@pytest.mark.parametrize("white", [256, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_ppm_of_any_depth_over_8_bits_is_read_at_16(white: int, plain: bool, tmp_path: Path) -> None:
    array = RNG.integers(0, white + 1, (HEIGHT, WIDTH, 3))
    array[0, 0] = (0, white, white // 2)
    head = b"%s # made by hand\n19 12\n# and\n%d\n" % (b"P3" if plain else b"P6", white)
    if plain:
        text = [b" ".join(b"%d" % value for value in row.ravel()) + b" # row" for row in array]
        data = b"\r\n".join(text).removesuffix(b" # row")
    else:
        data = array.astype(">u2").tobytes() + b"behind"
    (tmp_path / "in.ppm").write_bytes(head + data)
    photo = read_photo(tmp_path / "in.ppm")
    assert photo.bits == 16
    np.testing.assert_array_equal(photo.samples, np.rint(array * (65535 / white)))
    result, mask = filled(photo)
    write_photo(result, tmp_path / "out.ppm")
    np.testing.assert_array_equal(read_photo(tmp_path / "out.ppm").samples[~mask], photo.samples[~mask])


@pytest.mark.parametrize("data", [b"", b"1 2 3 4 5", b"1 2 3 4 5 x", b"1 2 3 4 5 -6", b"1 2 3 4 5 \xe9"])
def test_a_plain_ppm_that_is_damaged_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_bytes(b"P3\n2 1\n1023\n" + data)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_photo(tmp_path / "in.ppm")


@pytest.mark.parametrize("behind", [b" 7 8", b"\nP3 1 1 255 1 2 3", b" x", b"\n\xe9\0", b" -1", b" # end", b"\0"])
def test_what_is_behind_the_pixels_of_a_plain_ppm_is_left(behind: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_bytes(b"P3\n2 1\n65535\n1 2 3 400 500 600" + behind)
    assert read_photo(tmp_path / "in.ppm").samples.tolist() == [[[1, 2, 3], [400, 500, 600]]]


def test_what_is_whiter_than_the_white_of_a_ppm_is_white(tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_bytes(b"P6\n1 1\n1000\n" + np.array([0, 1001, 65535], ">u2").tobytes())
    assert read_photo(tmp_path / "in.ppm").samples.tolist() == [[[0, 65535, 65535]]]


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (3, 16)])
def test_a_saved_selection_of_a_tiff_is_no_opacity(channels: int, bits: int, tmp_path: Path) -> None:
    array = samples(channels + 1, bits)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "in.tif", array, photometric=kind, planarconfig="contig", extrasamples=["unspecified"])
    photo = read_photo(tmp_path / "in.tif")
    assert photo.alpha() is None
    after, mask = filled(photo)
    np.testing.assert_array_equal(after.samples[~mask], array[~mask])
    np.testing.assert_array_equal(after.samples[..., -1], array[..., -1])
    write_photo(after, tmp_path / "out.png")
    as_png = read_photo(tmp_path / "out.png")
    assert as_png.mode == ("RGB" if channels == 3 else "L")
    np.testing.assert_array_equal(as_png.samples.reshape(HEIGHT, WIDTH, -1)[~mask], array[~mask][:, :-1])
    write_photo(after, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].tags["ExtraSamples"].value == (0,)
        np.testing.assert_array_equal(file.pages[0].asarray(), after.samples)


@pytest.mark.parametrize(("suffix", "bits"), [(".jp2", 16), (".jp2", 8), (".avif", 10), (".avif", 8)])
def test_depth_that_a_decoder_does_not_give_is_known(suffix: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / f"in{suffix}"
    options = [cv2.IMWRITE_AVIF_DEPTH, bits] if suffix == ".avif" else []
    try:
        written = cv2.imwrite(str(path), samples(3, bits).repeat(6, axis=0).repeat(6, axis=1), options)
    except cv2.error:
        written = False
    if not written:
        pytest.skip(f"this OpenCV writes no {suffix} of {bits} bits")
    photo = read_photo(path)
    assert photo.bits == 8
    assert photo.metadata.stored_bits == (bits if bits > 8 else None)
