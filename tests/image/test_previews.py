"""Pictures of the photo within its metadata go when something is filled, and nothing else of a block does."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maerestore.image import Photo, read_photo, write_photo
from maerestore.image.exif import without_thumbnail
from maerestore.image.png import iter_chunks
from maerestore.image.png_text import change_profiles, change_text
from maerestore.image.previews import app13_without_previews, photoshop_without_previews, xmp_without_previews

OLD = b"OLDPICTURE"
HEADER = b"Photoshop 3.0\0"


def resource(number: int, data: bytes, name: bytes = b"", signature: bytes = b"8BIM") -> bytes:
    named = bytes([len(name)]) + name
    padded = data + b"\0" * (len(data) % 2)
    return (
        signature + struct.pack(">H", number) + named + b"\0" * (len(named) % 2) + struct.pack(">L", len(data)) + padded
    )


IPTC = resource(1028, b"\x1c\x02\x78\x00\x05a sea")  # of odd length, so that padding counts
PATHS = resource(2000, b"a path", b"odd name") + resource(1, b"?", signature=b"MeSa")
THUMBNAILS = [resource(1036, OLD * 99), resource(1033, OLD + b"!", b"x")]
RESOURCES = IPTC + THUMBNAILS[0] + PATHS + THUMBNAILS[1]
KEPT = IPTC + PATHS

XMP = b"""<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/">
<rdf:Description xmlns:xap="http://ns.adobe.com/xap/1.0/" xmlns:i='http://ns.adobe.com/xap/1.0/g/img/' xap:Rating="3">
%s<xap:Label>ThumbnailsOf</xap:Label>%s</rdf:Description></rdf:RDF></x:xmpmeta>"""
ALL_THUMBNAILS = b"""<xap:Thumbnails a="1>0">
<rdf:Alt><rdf:li rdf:parseType="Resource"><i:image>OLDPICTURE&#xA;OLD</i:image></rdf:li></rdf:Alt>
</xap:Thumbnails>"""
PACKET = XMP % (ALL_THUMBNAILS, b'<page i:width="9" i:image="OLDPICTURE"/><i:image>OLDPICTURE</i:image >')
BARE = XMP % (b"", b'<page i:width="9"/>')


def segment(payload: bytes) -> bytes:
    return b"\xff\xed" + struct.pack(">H", len(payload) + 2) + payload


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (5, 9, 3), dtype=np.uint8))


def refill(path: Path, hole: bool = True) -> Photo:
    """Read, fill one pixel, write beside it, and read back."""
    photo = read_photo(path)
    mask = np.zeros(photo.size[::-1], dtype=bool)
    mask[0, 0] = hole
    write_photo(photo.with_fill(photo.rgb(), mask), path.with_stem("out"))
    return read_photo(path.with_stem("out"))


# --- the blocks


def test_only_the_thumbnails_of_a_list_of_resources_go() -> None:
    assert photoshop_without_previews(RESOURCES) == KEPT
    assert photoshop_without_previews(KEPT) == KEPT
    assert photoshop_without_previews(b"") == b""


@pytest.mark.parametrize("cut", range(0, len(KEPT), 3))
def test_a_damaged_list_comes_back_as_it_is(cut: int) -> None:
    assert photoshop_without_previews(KEPT[:cut]) == KEPT[:cut]
    assert photoshop_without_previews(KEPT[:cut] + b"\xff" * 20) == KEPT[:cut] + b"\xff" * 20
    assert photoshop_without_previews(KEPT + THUMBNAILS[0][: 20 + cut]) == KEPT


def test_segments_are_left_alone_where_they_hold_no_thumbnail() -> None:
    segments = segment(HEADER + IPTC) + segment(b"Adobe_CM\0something") + segment(HEADER + PATHS) + b"\xff\xed"
    assert app13_without_previews(segments) == segments
    assert app13_without_previews(b"") == b""


def test_thumbnails_in_segments_go() -> None:
    other = segment(b"Adobe_CM\0something")
    assert app13_without_previews(segment(HEADER + RESOURCES) + other) == segment(HEADER + KEPT) + other
    assert app13_without_previews(segment(HEADER + THUMBNAILS[0])) == b""
    two = segment(HEADER + IPTC) + segment(HEADER + THUMBNAILS[0] + PATHS)
    assert app13_without_previews(two) == segment(HEADER + IPTC) + segment(HEADER + PATHS)


def test_a_list_over_several_segments_is_read_as_one() -> None:
    long = resource(3000, bytes(90_000))
    whole = IPTC + resource(1036, OLD * 9000) + long
    parts = [whole[start : start + 60_000] for start in range(0, len(whole), 60_000)]
    left = app13_without_previews(b"".join(segment(HEADER + part) for part in parts))
    assert OLD not in left
    assert left == segment(HEADER + (IPTC + long)[: 65533 - 14]) + segment(HEADER + (IPTC + long)[65533 - 14 :])


def test_xmp_no_longer_says_that_a_gain_map_or_a_video_follows() -> None:
    """What Ultra HDR and motion photos of Android state of the rest of their file."""
    start = (
        b'<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:C="http://ns.google.com/photos/1.0/container/"'
        b' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"'
    )
    flags = b' hdrgm:Version="1.0" GCamera:MotionPhoto="1" GCamera:MicroVideo="1"'
    items = b'<C:Directory><rdf:Seq><rdf:li C:Item="9"/></rdf:Seq></C:Directory>'
    rest = b"><tiff:Make>P</tiff:Make>%s</x>"
    assert xmp_without_previews(start + flags + rest % items) == start + rest % b""


def test_pictures_in_xmp_go_whatever_the_prefix() -> None:
    assert xmp_without_previews(PACKET) == BARE
    assert xmp_without_previews(BARE) == BARE
    strange = b'<a xmlns:xmp="http://elsewhere/"><xmp:Thumbnails>kept</xmp:Thumbnails></a>'
    assert xmp_without_previews(strange) == strange


@pytest.mark.parametrize(
    ("kind", "head"), [(b"tEXt", b"\0"), (b"zTXt", b"\0\0"), (b"iTXt", b"\0\1\0en\0t\0"), (b"iTXt", b"\0\0\0\0\0")]
)
def test_text_chunks_stay_the_kind_they_were(kind: bytes, head: bytes) -> None:
    packed = kind == b"zTXt" or head.startswith(b"\0\1")
    data = b"Key" + head + (zlib.compress(b"sea") if packed else b"sea")
    assert change_text(kind, data, lambda text: text) == data
    changed = change_text(kind, data, bytes.upper)
    assert changed == b"Key" + head + (zlib.compress(b"SEA") if packed else b"SEA")
    assert change_text(kind, b"Key", bytes.upper) == b"Key"
    if packed:
        assert change_text(kind, data[:-9], bytes.upper) == data[:-9]


def test_a_raw_profile_is_written_as_imagemagick_does() -> None:
    def raw(profile: bytes) -> bytes:
        digits = profile.hex()
        lines = [digits[i : i + 72] for i in range(0, len(digits), 72)]
        return b"Raw profile type 8bim\0\0" + zlib.compress(
            f"\n8bim\n{len(profile):8}\n{chr(10).join(lines)}\n".encode()
        )

    done = change_profiles(b"zTXt", raw(RESOURCES), bytes, photoshop_without_previews)
    assert done == raw(KEPT)
    assert change_profiles(b"zTXt", raw(KEPT), bytes, photoshop_without_previews) == raw(KEPT)
    assert change_profiles(b"tEXt", b"Title\0a", bytes.upper, bytes.upper) == b"Title\0a"


def test_an_uncompressed_exif_thumbnail_is_blanked() -> None:
    first = struct.pack("<HHHLHHL", 1, 0x0112, 3, 1, 1, 0, 26)
    second = struct.pack("<HHHLLHHLHHL", 2, 0x0111, 4, 2, 56, 0x0117, 3, 2, 10, 4, 0)
    block = b"II*\0" + struct.pack("<L", 8) + first + second + struct.pack("<LL", 64, 74) + OLD + b"OLD!" + b"kept"
    bare = without_thumbnail(block)
    assert len(bare) == len(block)
    assert b"OLD" not in bare
    assert bare.endswith(b"kept")


# --- files


def test_jpeg(tmp_path: Path) -> None:
    picture().save(tmp_path / "in.jpg", xmp=PACKET, extra=segment(HEADER + RESOURCES))
    for hole in (True, False):
        out = refill(tmp_path / "in.jpg", hole)
        data = (tmp_path / "out.jpg").read_bytes()
        assert (OLD not in data) == hole
        assert segment(HEADER + (KEPT if hole else RESOURCES)) in data
        assert out.metadata.xmp == (BARE if hole else PACKET)
        (tmp_path / "out.jpg").unlink()


def test_a_picture_in_an_attribute_goes_whatever_text_stands_before_it() -> None:
    start = b'<a xmlns:g="http://ns.adobe.com/xap/1.0/g/img/"><b>one x:image="'
    assert xmp_without_previews(start + b'</b><c g:image="9"/></a>') == start + b"</b><c/></a>"


@pytest.mark.parametrize(
    "part",
    [
        b"<g:image>", b"<g:image a='", b' g:image="', b"<g:image ", b"</g:image ", b"<g:imag", b"g:image=' ",
        b"xmlns:", b"xmlns:a",
        b"<g:image>9</g:image>", b'<p%d:image xmlns:p%d="http://ns.adobe.com/xap/1.0/g/img/">',
    ],
)  # fmt: skip
def test_a_packet_made_to_be_slow_is_read_once(part: bytes) -> None:
    """A megabyte that never ends what it begins; read anew at each beginning it would take hours."""
    start = b'<a xmlns:g="http://ns.adobe.com/xap/1.0/g/img/">'
    many = 1_000_000 // len(part)
    body = b"".join(part % (i, i) for i in range(many)) if b"%d" in part else part * many
    begun = time.process_time()
    xmp_without_previews(start + body)
    assert time.process_time() - begun < 30


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("keyword", ["XML:com.adobe.xmp", "Raw profile type iptc"])
def test_png(keyword: str, compress: bool, tmp_path: Path) -> None:
    info = PngInfo()
    if keyword.startswith("XML"):
        info.add_itxt(keyword, PACKET.decode(), zip=compress)
    else:
        info.add_text(keyword, f"\niptc\n{len(RESOURCES):8}\n{RESOURCES.hex()}\n", zip=compress)
    picture().save(tmp_path / "in.png", pnginfo=info)
    refill(tmp_path / "in.png")
    with (tmp_path / "out.png").open("rb") as file:
        kinds = [kind for kind, data in iter_chunks(file) if data.startswith(keyword.encode())]
    assert kinds == [b"iTXt" if keyword.startswith("XML") else b"zTXt" if compress else b"tEXt"]
    with Image.open(tmp_path / "out.png") as image:
        text: Any = image.text  # type: ignore[attr-defined]
    if keyword.startswith("XML"):
        assert text[keyword].encode() == BARE
    else:
        assert bytes.fromhex(text[keyword].split(None, 2)[2]) == KEPT


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_xmp_of_other_formats(suffix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"xmp": PACKET} if suffix == ".webp" else {"tiffinfo": {700: PACKET}}
    picture().save(tmp_path / f"in{suffix}", **options)
    assert refill(tmp_path / f"in{suffix}").metadata.xmp == BARE


def test_photoshops_tags_in_tiff(tmp_path: Path) -> None:
    tags = [(34377, 1, len(RESOURCES), RESOURCES, True), (37724, 7, 10, OLD, True), (65000, 7, 9, b"kept, all", True)]
    tifffile.imwrite(
        tmp_path / "in.tif", np.zeros((5, 9, 3), np.uint8), photometric="rgb", extratags=tags, metadata=None
    )
    refill(tmp_path / "in.tif")
    assert OLD not in (tmp_path / "out.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert bytes(file.pages[0].tags[34377].value) == KEPT
        assert file.pages[0].tags[65000].value == b"kept, all"
        assert 37724 not in file.pages[0].tags
