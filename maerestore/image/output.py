"""Where output goes: chosen and checked before the work starts, written all or nothing."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import InputError, quoted, reason_of

__all__ = [
    "READ_ONLY",
    "SUFFIXES",
    "atomic_file",
    "check_target",
    "format_of",
    "resolve_output",
    "same_file",
    "suffix_of_fill",
]

_OR_OVERWRITE = "choose another output, or add --overwrite"
_OVERWRITE = "overwrite=True"  # as it is written in Python
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), None)

PathLike = str | os.PathLike[str]

SUFFIXES = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
}
"""File suffix -> format, for every format that can be written."""

READ_ONLY = {
    ".avif": "AVIF",
    ".heic": "HEIC",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".jp2": "JPEG 2000",
    ".mpo": "MPO",
    ".psd": "PSD",
    ".qoi": "QOI",
}
"""File suffix -> format, for those that can be read and not written."""

_LOSE_COLORS = ("JPEG", "GIF")  # of photos that were in another format; the others are written without loss

# The first bytes of every format that can be read; group names are those of `SUFFIXES` where it can be written. A BMP
# is known by the size of its header too, for text may begin with BM.
_BEGINNINGS = re.compile(
    rb"(?P<PNG>\x89PNG)|(?P<JPEG>\xff\xd8\xff)|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<WEBP>RIFF.{4}WEBP)|(?P<GIF>GIF8)"
    rb"|(?P<PPM>P[1-6]\s)|(?P<BMP>BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)"
    rb"|(?P<other>8BPS|qoif|.{4}ftyp|\0\0\0\x0cjP  |\xff\x4f\xff\x51)",
    re.DOTALL,
)


def format_of(path: PathLike) -> str:
    """Return the format that the suffix of `path` names.

    Args:
        path: the output; its suffix counts in any case.

    Returns:
        the format, as Pillow names it: a value of `SUFFIXES`.

    Raises:
        InputError: the suffix is missing or names no format that can be written.

    Example:
        >>> format_of("holiday.JPG")
        'JPEG'
    """
    suffix = Path(path).suffix
    try:
        return SUFFIXES[suffix.lower()]
    except KeyError:
        problem = "has no suffix"
        if suffix:
            known = READ_ONLY.get(suffix.lower())
            reason = "which cannot be written" if known is None else f"and {known} can be read, but not written"
            problem = f"has the suffix '{suffix}', {reason}"
        raise InputError(
            f"output {quoted(Path(path))} {problem}: use .png, .jpg, .tif, .webp, .bmp, .gif or .ppm."
        ) from None


def resolve_output(
    photo_path: PathLike,
    out: PathLike | None = None,
    overwrite: bool = False,
    inputs: Sequence[PathLike] = (),
) -> Path:
    """Decide where the output goes, and check whatever can be checked before the work starts.

    Args:
        photo_path: the photo; it counts as an input.
        out: a file; a folder, which gets the photo's own name; or None for `<stem>_filled<suffix>` beside the
            photo. Where the name is not given, its suffix is that of `suffix_of_fill`.
        overwrite: allow replacing an existing file, the photo included.
        inputs: further files, such as the mask, that are never replaced: unlike a filled photo, what is written there
            would have nothing of what it was. (A photo that is its own mask counts as the photo.)

    Returns:
        The path to write to.

    Raises:
        InputError: the suffix names no format that can be written, the folder does not exist or cannot be
            written to, the file is one of the inputs, or it exists and `overwrite` is not set.

    Example:
        >>> resolve_output("holiday.jpg").name
        'holiday_filled.jpg'
    """
    photo_path = Path(photo_path)
    if not photo_path.name:
        raise InputError(f"{quoted(photo_path)} is a folder: give an image file.")
    if out is None:
        path = photo_path.with_name(f"{photo_path.stem}_filled{suffix_of_fill(photo_path)}")
    elif os.fspath(out).endswith(("/", os.sep)) or Path(out).is_dir():
        if not Path(out).is_dir():
            raise InputError(f"output folder {quoted(os.fspath(out))} does not exist: create it first.")
        path = Path(out) / f"{photo_path.stem}{suffix_of_fill(photo_path)}"
    else:
        path = Path(out)
    format_of(path)
    is_photo = same_file(path, photo_path)
    if is_photo and not overwrite:
        raise InputError(
            f"output {quoted(path)} would replace the input {quoted(photo_path)}: {_OR_OVERWRITE}", _OVERWRITE
        )
    for source in () if is_photo else inputs:
        if same_file(path, Path(source)):
            raise InputError(
                f"output {quoted(path)} would replace the input {quoted(Path(source))}: choose another output."
            )
    check_target(path, overwrite)
    return path


def suffix_of_fill(photo: Path) -> str:
    """Return the suffix of a photo's fill where no name is given: the photo's own, unless that would cost known pixels.

    A PNG that is called .jpg, as from the web, gets .png, for written as a JPEG its known pixels would change; a JPEG
    without a suffix gets .jpg, but one that is called .png stays a PNG. What cannot be written, such as HEIC, gets
    .png. A file that is not there, or is no image, goes by its name: reading it will say what is wrong.

    Args:
        photo: its first bytes are read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "photo.jpg")
        >>> size = path.write_bytes(b"\\x89PNG\\r\\n")
        >>> suffix_of_fill(path), suffix_of_fill(Path("none.JPG")), suffix_of_fill(Path("none.heic"))
        ('.png', '.JPG', '.png')
    """
    named = SUFFIXES.get(photo.suffix.lower())
    beginning = None
    with suppress(OSError, ValueError):
        if photo.is_file():
            with photo.open("rb") as file:
                beginning = _BEGINNINGS.match(file.read(18))
    held = named if beginning is None else beginning.lastgroup
    if named is not None and (held == named or named not in _LOSE_COLORS):
        return photo.suffix
    if named is not None and held == "JPEG":
        return ".png"  # a name that promises every pixel exact does not become a JPEG
    return next((suffix for suffix, known in SUFFIXES.items() if known == held), ".png")


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths name one file, which need not be there."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise InputError unless a file can be written to `path`."""
    name = quoted(path)
    target = Path(os.path.realpath(path))
    parent = target.parent
    try:
        if target.is_dir():
            raise InputError(f"output {name} is a folder: give a file name in it.")
        if not parent.is_dir():
            what = "is not a folder" if parent.exists() else "does not exist: create it first"
            raise InputError(f"output {name} cannot be written: the folder {quoted(parent)} {what}.")
        if target.exists():
            if not target.is_file():
                raise InputError(f"output {name} is not a regular file: choose another output.")
            if not overwrite:
                raise InputError(f"output {name} exists: {_OR_OVERWRITE}", _OVERWRITE)
            if not os.access(target, os.W_OK):
                raise InputError(f"output {name} is write-protected: choose another output.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(
                f"output {name} cannot be written: no permission for the folder {quoted(parent)}; "
                "choose another output."
            )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise _cannot_write(name, error) from None


def _cannot_write(name: str, error: Exception) -> InputError:
    # Encoders raise errors without a number where they are told of none: it may be a full disk.
    full = isinstance(error, OSError) and error.errno in _FULL
    advice = "free space or choose another output" if full else "choose another output"
    return InputError(f"output {name} cannot be written ({reason_of(error)}): {advice}.")


@contextmanager
def atomic_file(path: PathLike, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place when the block ends without an error.

    A link is followed, so the file it names is replaced and not the link. A file that is replaced keeps its
    permissions; a new one gets those the process's umask leaves. Whatever ends the block early - an error of
    the encoder, a full disk, an interrupt from the keyboard - removes the temporary file and leaves `path` as
    it was.

    Args:
        path: the file to write, in a folder that is there.
        overwrite: replace a file that is there.

    Yields:
        the temporary file, open for binary writing.

    Raises:
        InputError: the file cannot be written, or appeared in the meantime without `overwrite`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "note.txt")
        >>> with atomic_file(path) as file:
        ...     size = file.write(b"all or nothing")
        >>> path.read_bytes()
        b'all or nothing'
    """
    name = quoted(Path(path))
    target = Path(os.path.realpath(path))
    # A long name plus a random part could pass the longest name the file system takes.
    temporary = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        # Not tempfile: its files are private, and the umask cannot be asked for without setting it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            if target.exists():
                if not overwrite:
                    raise InputError(f"output {name} exists: {_OR_OVERWRITE}", _OVERWRITE)
                with suppress(OSError):
                    os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except InputError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        raise _cannot_write(name, error) from None
