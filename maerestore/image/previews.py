"""Small pictures of the photo within its metadata, which would go on showing what a fill removed.

Dropped are the thumbnails of Photoshop's resources and of XMP, here, and that of EXIF, in `exif`. What else a block
holds stays byte for byte. Previews in a camera's maker notes stay too: their layout is each maker's own.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections import defaultdict

__all__ = ["app13_without_previews", "photoshop_without_previews", "xmp_without_previews"]

_THUMBNAILS = (1033, 1036)  # of Photoshop 4, and of later versions
_SIGNATURES = (b"8BIM", b"PHUT", b"DCSR", b"AgHg", b"MeSa")
_HEADER = re.compile(rb"Photoshop 3\.0\0|Adobe_Photoshop2\.5:")
_APP13 = b"\xff\xed"
_MOST = 65533  # bytes of a segment

_PICTURES = {
    b"http://ns.adobe.com/xap/1.0/": (b"Thumbnails",),
    b"http://ns.adobe.com/xap/1.0/g/img/": (b"image",),
    b"http://ns.google.com/photos/1.0/image/": (b"Data",),
    b"http://ns.google.com/photos/1.0/container/": (b"Directory",),
    b"http://ns.google.com/photos/1.0/camera/": (b"MotionPhoto", b"MicroVideo"),
    b"http://ns.adobe.com/hdr-gain-map/1.0/": (b"Version",),
}
"""Namespace and names of the XMP properties that hold pictures, or say that a gain map or a video follows the photo: of
a phone's JPEG only the photo itself is read and written."""

# Looked for once for all prefixes: a packet that binds thousands of them would be read as often.
_NAME = rb"""([^\s=<>/:"']+):(""" + b"|".join(name for names in _PICTURES.values() for name in names) + b")"
_VALUE = rb"""\s*=\s*(?:"[^"<]*"|'[^'<]*')"""
_BOUND = re.compile(rb"""xmlns:([^\s=<>/:"']+)\s*=\s*["'](""" + b"|".join(map(re.escape, _PICTURES)) + rb""")["']""")
_ATTRIBUTE = re.compile(rb"\s" + _NAME + _VALUE)
_CLOSING = re.compile(b"</" + _NAME + rb"\s*>")
_OPENING = re.compile(b"<" + _NAME + rb"(?:\s+[^\s=<>/]+" + _VALUE + rb")*\s*(/?)>")


def xmp_without_previews(xmp: bytes) -> bytes:
    """Return the XMP packet without the properties that hold pictures, whatever prefixes it uses.

    Example:
        >>> start = b'<a xmlns:g="http://ns.adobe.com/xap/1.0/g/img/">'
        >>> xmp_without_previews(start + b"<g:width>9</g:width><g:image>/9j/4A</g:image></a>").removeprefix(start)
        b'<g:width>9</g:width></a>'
    """
    pictures = {(prefix, name) for prefix, namespace in _BOUND.findall(xmp) for name in _PICTURES[namespace]}
    closed: dict[tuple[bytes, ...], list[int]] = defaultdict(list)
    for closing in _CLOSING.finditer(xmp):
        closed[closing.groups()].append(closing.end())
    kept, at = [], 0
    for opening in _OPENING.finditer(xmp):
        tag = opening.group(1, 2)
        if opening.start() < at or tag not in pictures:
            continue
        ends = closed[tag]
        later = bisect_right(ends, opening.end())
        if opening[3] or later < len(ends):
            kept.append(xmp[at : opening.start()])
            at = opening.end() if opening[3] else ends[later]
    xmp = b"".join(kept) + xmp[at:]
    return _ATTRIBUTE.sub(lambda found: b"" if found.groups() in pictures else found[0], xmp)


def photoshop_without_previews(resources: bytes) -> bytes:
    """Return a list of Photoshop's image resources without its thumbnails.

    From where the list is damaged on it comes back as it is; a thumbnail that is cut off is dropped.
    """
    return _without_thumbnails(resources)[0]


def app13_without_previews(segments: bytes) -> bytes:
    """Return a JPEG's APP13 segments, markers included, without Photoshop's thumbnails.

    A list of resources that is longer than a segment goes on in the next one.
    """
    out: list[bytes] = []
    waiting: list[bytes] = []  # segments of a list that is not at its end
    resources = b""
    at = 0
    while at + 4 <= len(segments):
        (length,) = struct.unpack_from(">H", segments, at + 2)
        whole = segments[at : at + 2 + length]
        at += max(2 + length, 4)
        header = _HEADER.match(whole, 4)
        if header is None:
            out.append(whole)
            continue
        waiting.append(whole)
        resources += whole[header.end() :]
        kept, complete = _without_thumbnails(resources)
        if complete:
            out += _packed(resources, kept, waiting, header.group())
            waiting, resources = [], b""
    if waiting:
        out += _packed(resources, _without_thumbnails(resources)[0], waiting, b"Photoshop 3.0\0")
    return b"".join(out) + segments[at:]


def _packed(resources: bytes, kept: bytes, segments: list[bytes], header: bytes) -> list[bytes]:
    """The segments as they were where nothing was dropped, or new ones for what is left."""
    if kept == resources:
        return segments
    step = _MOST - len(header)
    parts = [header + kept[start : start + step] for start in range(0, len(kept), step)]
    return [_APP13 + struct.pack(">H", len(part) + 2) + part for part in parts]


def _without_thumbnails(resources: bytes) -> tuple[bytes, bool]:
    """What is left of a list of resources, and whether it was read to its end."""
    kept: list[bytes] = []
    at = 0
    while resources[at : at + 4] in _SIGNATURES and at + 7 <= len(resources):
        (number,) = struct.unpack_from(">H", resources, at + 4)
        name = resources[at + 6] + 1
        start = at + 6 + name + name % 2
        if start + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">L", resources, start)
        end = start + 4 + size
        if number not in _THUMBNAILS:
            if end > len(resources):
                break
            kept.append(resources[at : end + size % 2])
        at = end + size % 2
        if end > len(resources):  # a thumbnail that is cut off
            return b"".join(kept), False
    return b"".join(kept) + resources[at:], at >= len(resources)
