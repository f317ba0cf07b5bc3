"""Orientation, profile, EXIF, resolution and text travel with the photo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from maerestore.errors import MaerestoreWarning
from maerestore.image import Metadata, Photo, read_mask, read_photo, write_photo
from maerestore.image.exif import orientation_of, turn_upright, upright_exif, upright_xmp, without_thumbnail

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif[0x013B] = "Artist"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA002: 9, 0xA003: 5, 0x829A: 0.01})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif.tobytes()


def picture(mode: str = "RGB") -> Image.Image:
    array = np.random.default_rng(3).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def refill(path: Path, out: Path) -> Photo:
    """Read, fill one pixel, write, and read back."""
    photo = read_photo(path)
    mask = np.zeros(photo.size[::-1], dtype=bool)
    mask[0, 0] = True
    write_photo(photo.with_fill(photo.rgb(), mask), out)
    return read_photo(out)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_output_is_upright_and_says_so(orientation: int, suffix: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    picture().save(source, exif=exif_block(orientation), dpi=(72, 144), **options)
    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image)
    photo = read_photo(source)
    np.testing.assert_array_equal(photo.samples, np.asarray(upright))
    refill(source, out)
    with Image.open(out) as image:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1
        assert image.size == upright.size
        assert exif[0x010F] == "Maker"
        inner = exif.get_ifd(0x8769)
        assert inner[0x9003] == "2024:05:06 07:08:09"
        if suffix != ".tif":
            assert (inner[0xA002], inner[0xA003]) == upright.size
        assert exif.get_ifd(0x8825)[1] == "N"
        if suffix != ".webp":
            expected = (72, 144) if orientation < 5 else (144, 72)
            assert image.info["dpi"] == pytest.approx(expected, abs=0.02)
        if suffix != ".jpg":
            np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_16_bit_tiff_is_turned_too(orientation: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (5, 9, 3)).astype(np.uint16)
    extra = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extratags=extra, metadata=None)
    photo = refill(tmp_path / "in.tif", tmp_path / "out.tif")
    np.testing.assert_array_equal(photo.samples, turn_upright(array, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_is_turned_by_its_own_orientation(orientation: int, tmp_path: Path) -> None:
    stored = np.zeros((6, 10), dtype=np.uint8)
    stored[:2, :3] = 255
    Image.fromarray(stored).save(tmp_path / "mask.png", exif=exif_block(orientation))
    upright = turn_upright(stored, orientation)
    mask = read_mask(tmp_path / "mask.png", upright.shape[::-1])
    np.testing.assert_array_equal(mask, upright > 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_profile_and_xmp_are_kept(suffix: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Title", "a title")
        picture().save(source, icc_profile=ICC, pnginfo=info)
    elif suffix == ".tif":
        picture().save(source, icc_profile=ICC, tiffinfo={700: XMP})
    else:
        picture().save(source, icc_profile=ICC, xmp=XMP)
    refill(source, out)
    with Image.open(out) as image:
        assert image.info["icc_profile"] == ICC
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert xmp == XMP.replace(b'"6"', b'"1"')
        if suffix == ".png":
            assert image.text["Title"] == "a title"


@pytest.mark.parametrize("source_suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_metadata_crosses_formats(source_suffix: str, suffix: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    picture().save(source, icc_profile=ICC, exif=exif_block(6), dpi=(200, 200))
    refill(source, out)
    with Image.open(out) as image:
        assert image.info["icc_profile"] == ICC
        assert image.size == (5, 9)
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
        if source_suffix != ".webp" and suffix != ".webp":
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.02)


COPYRIGHT, ARTIST, LENS = 0x8298, 0x013B, 0xA434
WORDS = {
    COPYRIGHT: "\xa9 Jos\xe9".encode("latin-1"),
    ARTIST: "\u0141ukasz".encode(),
    LENS: "50 mm \xc9t\xe9".encode("latin-1"),
}


def block_with_words() -> bytes:
    """A hand-made EXIF block with text beyond ASCII, in its first directory and in the Exif directory."""
    import struct

    words, at, entries = b"", 100, []
    for tag, text in sorted(WORDS.items()):
        entries.append(struct.pack("<HHLL", tag, 2, len(text) + 1, at + len(words)))
        words += text + b"\0"
    lens = entries.pop()
    first = struct.pack("<H", 3) + b"".join(entries) + struct.pack("<HHLLL", 0x8769, 4, 1, 60, 0)
    second = struct.pack("<H", 1) + lens + bytes(4)
    return b"".join([b"II*\0" + struct.pack("<L", 8), first.ljust(52, b"\0"), second.ljust(40, b"\0"), words])


def words_of(path: Path) -> dict[int, bytes]:
    """The text of a file's EXIF tags as stored, which Pillow reads as latin-1."""
    with Image.open(path) as image:
        exif = image.getexif()
        found = {**exif, **exif.get_ifd(0x8769)}
    assert all(isinstance(found[tag], str) for tag in WORDS)
    return {tag: found[tag].encode("latin-1") for tag in WORDS}


@pytest.mark.parametrize("source_suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_text_beyond_ascii_crosses_formats_byte_for_byte(source_suffix: str, suffix: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", exif=b"Exif\0\0" + block_with_words())
    assert words_of(tmp_path / "in.jpg") == WORDS
    refill(tmp_path / "in.jpg", tmp_path / f"first{source_suffix}")
    refill(tmp_path / f"first{source_suffix}", tmp_path / f"out{suffix}")
    assert words_of(tmp_path / f"out{suffix}") == WORDS


def test_text_beyond_ascii_in_an_exif_profile_of_a_png(tmp_path: Path) -> None:
    info = PngInfo()
    block = b"Exif\0\0" + block_with_words()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    picture().save(tmp_path / "in.png", pnginfo=info)
    refill(tmp_path / "in.png", tmp_path / "out.jpg")
    assert words_of(tmp_path / "out.jpg") == WORDS
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n  9\nno digits\n")
    picture().save(tmp_path / "damaged.png", pnginfo=info)
    damaged = read_photo(tmp_path / "damaged.png").metadata
    assert (damaged.exif, damaged.damaged) == (None, ("EXIF",))


def test_an_exif_directory_of_a_tiff_needs_no_other_tag_to_be_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    picture().save(tmp_path / "in.jpg", exif=exif)
    refill(tmp_path / "in.jpg", tmp_path / "first.tif")
    refill(tmp_path / "first.tif", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_a_resolution_that_no_field_holds_does_not_lose_a_fill(suffix: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "in.tif", tiffinfo={282: 4e9, 283: 4e9, 296: 2})
    assert read_photo(tmp_path / "in.tif").metadata.dpi is None
    refill(tmp_path / "in.tif", tmp_path / f"out{suffix}")
    odd = Photo(np.zeros((5, 9, 3), np.uint8), format="GIF", metadata=Metadata(icc=ICC, dpi=(4e9, 4e9)))
    write_photo(odd, tmp_path / f"odd{suffix}")
    assert read_photo(tmp_path / f"odd{suffix}").metadata.icc == (None if suffix == ".bmp" else ICC)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("damaged", [b"no EXIF at all", b"MM\0*", b"II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_does_not_lose_a_fill(damaged: bytes, suffix: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", exif=b"Exif\0\0" + damaged)
    assert refill(tmp_path / "in.jpg", tmp_path / f"out{suffix}").size == (9, 5)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("garbage", [b"garbage", b"garbagegarbage", b"II" + b"garbage" * 99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_profile_and_exif_that_are_garbage_are_left_out(suffix: str, garbage: bytes, tmp_path: Path) -> None:
    source = tmp_path / f"in{suffix}"
    exif = None if suffix == ".tif" else garbage if suffix == ".webp" else b"Exif\0\0" + garbage
    picture().save(source, icc_profile=garbage, **({"exif": exif} if exif else {}))
    metadata = read_photo(source).metadata
    assert (metadata.icc, metadata.exif) == (None, None)
    assert metadata.damaged == (("colour profile", "EXIF") if exif else ("colour profile",))
    for out in (".jpg", ".png", ".webp", ".tif"):
        kept = refill(source, tmp_path / f"out{out}").metadata
        assert (kept.icc, kept.exif, kept.damaged) == (None, None, ())


def test_a_profile_that_png_cannot_unpack_is_left_out(tmp_path: Path) -> None:
    samples, chunks = np.zeros((5, 9, 3), np.uint8), ((b"iCCP", b"a profile\0\0not deflated"),)
    write_photo(Photo(samples, metadata=Metadata(png_chunks=chunks)), tmp_path / "in.png")
    assert read_photo(tmp_path / "in.png").metadata.damaged == ("colour profile",)
    refill(tmp_path / "in.png", tmp_path / "out.png")
    assert b"iCCP" not in (tmp_path / "out.png").read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_what_is_merely_unusual_stays(suffix: str, tmp_path: Path) -> None:
    header = bytes(36) + b"acsp" + bytes(100)
    blocks = (
        b"II*\0\x08\0\0\0\0\0",  # no tags
        b"II*\0\x08\0\0\0\x09\0" + b"\x31\x01\x63\0\x01\0\0\0\0\0\0\0",  # of nine tags one, of no known type
        block_with_exif_pointer(9999, orientation=1),
    )
    for number, block in enumerate(blocks):
        exif = block if suffix == ".webp" else b"Exif\0\0" + block
        picture().save(tmp_path / f"in{suffix}", icc_profile=header, exif=exif)
        kept = refill(tmp_path / f"in{suffix}", tmp_path / f"out{number}{suffix}").metadata
        assert (kept.icc, kept.exif, kept.damaged) == (header, block, ())


def test_a_tag_whose_value_breaks_its_type_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    import struct

    make = struct.pack(">HHL4s", 0x010F, 2, 4, b"Cam\0")
    software = struct.pack(">HHLL", 0x0131, 5, 1, 50)  # a fraction in place of text
    first = struct.pack(">H", 3) + make + software + struct.pack(">HHLLL", 0x8769, 4, 1, 58, 0)
    inner = struct.pack(">HHHLLL", 1, 0x9003, 2, 20, 76, 0)
    block = b"".join(
        [b"MM\0*" + struct.pack(">L", 8), first, struct.pack(">LL", 1, 3), inner, b"2024:05:06 07:08:09\0"]
    )
    picture().save(tmp_path / "in.jpg", exif=b"Exif\0\0" + block)
    refill(tmp_path / "in.jpg", tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as image:
        exif = image.getexif()
        assert exif[0x010F] == "Cam"
        assert 0x0131 not in exif
        assert exif.get_ifd(0x8769) == {0x9003: "2024:05:06 07:08:09"}


def test_png_chunks_are_carried_and_stale_ones_dropped(tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    info.add(b"tIME", bytes([7, 232, 1, 1, 1, 1, 1]))
    info.add(b"abCd", b"private, safe to copy")
    info.add(b"abCD", b"private, tied to the pixels")
    picture().save(tmp_path / "in.png", pnginfo=info)
    refill(tmp_path / "in.png", tmp_path / "out.png")
    data = (tmp_path / "out.png").read_bytes()
    assert b"gAMA\x00\x00\xb1\x8f" in data
    assert data.index(b"gAMA") < data.index(b"IDAT")
    assert b"private, safe to copy" in data
    assert b"tIME" not in data
    assert b"tied to the pixels" not in data


def test_tiff_tags_are_kept(tmp_path: Path) -> None:
    tags = [
        (270, 2, 0, "a caption", True),
        (269, 2, 0, "\xdcbersicht".encode(), True),
        (33432, 2, 0, "me", True),
        (33550, 12, 3, (1.0, 2.0, 0.0), True),
    ]
    array = np.zeros((5, 9, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extratags=tags, metadata=None, software="camera")
    refill(tmp_path / "in.tif", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        out = file.pages[0].tags
        assert out[270].value == "a caption"
        assert out[269].value == "\xdcbersicht"
        assert out[33432].value == "me"
        assert out[33550].value == (1.0, 2.0, 0.0)
        assert out[305].value == "camera"


def block_with_thumbnail(order: str) -> bytes:
    """A hand-made EXIF block: orientation 6, and a thumbnail of eight bytes in a second directory."""
    import struct

    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    first = struct.pack(order + "HHHLHHL", 1, 0x0112, 3, 1, 6, 0, 26)
    second = struct.pack(order + "HHHLLHHLLL", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 8, 0)
    return mark + struct.pack(order + "L", 8) + first + second + b"THUMBNL!"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\x00\x00"])
def test_exif_is_patched_in_place(order: str, prefix: bytes) -> None:
    block = prefix + block_with_thumbnail(order)
    assert orientation_of(block) == 6
    upright = upright_exif(block)
    assert orientation_of(upright) == 1
    assert sum(a != b for a, b in zip(block, upright, strict=True)) == 1
    bare = without_thumbnail(upright)
    assert b"THUMBNL!" in upright
    assert b"THUMBNL!" not in bare
    assert len(bare) == len(block)
    exif = Image.Exif()
    exif.load(bare)
    assert not exif.get_ifd(1)


def test_the_thumbnail_goes_only_when_something_was_filled(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", exif=b"Exif\x00\x00" + block_with_thumbnail("<"))
    photo = read_photo(tmp_path / "in.jpg")
    empty = np.zeros(photo.size[::-1], dtype=bool)
    fill = photo.rgb()
    assert b"THUMBNL!" in (photo.with_fill(fill, empty).metadata.exif or b"")
    assert b"THUMBNL!" not in (photo.with_fill(fill, ~empty).metadata.exif or b"")


@pytest.mark.parametrize(
    "damaged", [b"", b"II", b"II*\x00\xff\xff\xff\x7f", b"II*\x00\x08\x00\x00\x00\xff\xff", b"x" * 99]
)
def test_damaged_exif_is_left_alone(damaged: bytes) -> None:
    assert orientation_of(damaged) == 1
    assert upright_exif(damaged) == damaged
    assert without_thumbnail(damaged) == damaged


def block_with_exif_pointer(target: int, orientation: int = 6) -> bytes:
    """A hand-made EXIF block: an orientation, and a pointer to an Exif directory at `target`."""
    import struct

    first = struct.pack("<HHHLHHHHLLL", 2, 0x0112, 3, 1, orientation, 0, 0x8769, 4, 1, target, 0)
    inner = struct.pack("<HHHLLHHLLHHLLL", 3, 0xA002, 4, 1, 40, 0xA003, 4, 1, 30, 0x8769, 4, 1, 8, 0)
    return b"II*\x00" + struct.pack("<L", 8) + first + inner


@pytest.mark.parametrize("target", [8, 38, 9999, 0, 20])
def test_exif_directories_are_visited_once_and_the_orientation_is_reset(target: int) -> None:
    # 8 is the first directory, 38 an Exif directory that points back to it: both once hung. The others are none.
    block = block_with_exif_pointer(target)
    code = "import sys; from maerestore.image.exif import upright_exif as u; print(u(bytes.fromhex(sys.argv[1])).hex())"
    done = subprocess.run([sys.executable, "-c", code, block.hex()], capture_output=True, text=True, timeout=60)
    upright = bytes.fromhex(done.stdout)
    assert orientation_of(upright) == 1
    changed = [at for at, (a, b) in enumerate(zip(block, upright, strict=True)) if a != b]
    assert changed == ([18, 48, 60] if target == 38 else [18])


def test_an_impossible_orientation_is_ignored(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.png", exif=exif_block(9))
    assert read_photo(tmp_path / "in.png").size == (9, 5)


def test_xmp_orientation_in_element_form() -> None:
    packet = b"<tiff:Orientation>8</tiff:Orientation><a>8</a>"
    assert upright_xmp(packet) == b"<tiff:Orientation>1</tiff:Orientation><a>8</a>"


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".ppm"])
def test_formats_without_exif_do_not_mind_it(suffix: str, tmp_path: Path) -> None:
    picture("L").save(tmp_path / "in.jpg", exif=exif_block(6), icc_profile=ICC)
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / f"out{suffix}")
    assert read_photo(tmp_path / f"out{suffix}").size == (5, 9)


def test_where_descriptions_cannot_be_written_what_says_how_pixels_look_is(tmp_path: Path) -> None:
    looks = ((b"gAMA", b"\0\0\xb1\x8f"), (b"cICP", b"\1\r\0\1"), (b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1"))
    samples = np.zeros((3, 4, 3), np.uint8)
    text = (b"tEXt", "no bytes")
    photo = Photo(samples, format="PNG", metadata=Metadata(png_chunks=(*looks, text)))  # type: ignore[arg-type]
    with pytest.warns(MaerestoreWarning, match=r"out\.png' is written without the descriptions"):
        write_photo(photo, tmp_path / "out.png")
    assert read_photo(tmp_path / "out.png").metadata.png_chunks == looks
    photo = Photo(samples, metadata=Metadata(dpi=(300, 300), exif="no bytes", icc=ICC))  # type: ignore[arg-type]
    with pytest.warns(MaerestoreWarning, match=r"out\.jpg' is written without"):
        write_photo(photo, tmp_path / "out.jpg")
    assert read_photo(tmp_path / "out.jpg").metadata.dpi == (300, 300)
    assert read_photo(tmp_path / "out.jpg").metadata.icc == ICC


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 4, 7])  # bytes; as most programs say, numbers of 32 bits; undefined
def test_the_iptc_of_a_tiff_is_kept_whatever_type_it_has(kind: int, order: str, tmp_path: Path) -> None:
    iptc = b"\x1c\x02\x50\x00\x08Jane Doe" + b"\x1c\x02\x78\x00\x06A view"
    values = np.frombuffer(iptc, order + "u4").tolist() if kind == 4 else iptc
    extra = [(33723, kind, len(values), values, True)]
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((6, 8, 3), np.uint8), photometric="rgb", byteorder=order,
                     extratags=extra, metadata=None)  # fmt: skip
    refill(tmp_path / "in.tif", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert bytes(file.pages[0].tags[33723].value) == iptc


def test_no_tag_of_a_tiff_points_into_the_file_it_came_from(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA005: {1: "R98", 2: b"0100"}})
    picture().save(tmp_path / "in.jpg", exif=exif)
    for source, out in (("in.jpg", "between.tif"), ("between.tif", "out.jpg")):
        refill(tmp_path / source, tmp_path / out)
        with Image.open(tmp_path / out) as image:
            kept = image.getexif()
            assert kept.get_ifd(0x8769) == {0x9003: "2024:05:06 07:08:09"}
            assert kept[0x010F] == "Maker"


@pytest.mark.parametrize("name", ["XMP", "EXIF"])
def test_what_is_too_long_for_a_jpeg_is_left_out_alone_and_told(name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * (70_000 if name == "EXIF" else 10)
    long = b"<x:xmpmeta>" + b"y" * (70_000 if name == "XMP" else 10) + b"</x:xmpmeta>"
    photo = Photo(np.zeros((6, 8, 3), np.uint8), metadata=Metadata(icc=ICC, exif=exif.tobytes(), xmp=long))
    with pytest.warns(MaerestoreWarning, match=f"{name} is left out"):
        write_photo(photo, tmp_path / "out.jpg")
    kept = read_photo(tmp_path / "out.jpg").metadata
    assert kept.icc == ICC
    assert (kept.exif is None, kept.xmp is None) == (name == "EXIF", name == "XMP")


@pytest.mark.parametrize("place", ["profile", "XMP"])
def test_a_png_with_megabytes_beside_its_pixels_is_read(place: str, tmp_path: Path) -> None:
    large = np.random.default_rng(0).bytes(1_500_000)
    text = PngInfo()
    if place == "XMP":
        text.add_itxt("XML:com.adobe.xmp", "<x>" + large.hex() + "</x>", zip=True)
    picture().save(tmp_path / "in.png", pnginfo=text, icc_profile=ICC + large if place == "profile" else None)
    filled = refill(tmp_path / "in.png", tmp_path / "out.png").metadata
    assert large.hex().encode() in filled.xmp if place == "XMP" else filled.icc == ICC + large
