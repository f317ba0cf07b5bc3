"""The rows of a table: which photo, by which mask, and where its fill goes.

A table is a CSV file with a header, or a Parquet file. Its columns are `photo`, `mask`, and, if wanted, `output`: where
the fill goes in the output folder. Their names count in any case, other columns are left alone. Paths start from the
working directory.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from maerestore.image import InputError
from maerestore.image.errors import quoted, reason_of
from maerestore.image.output import format_of, suffix_of_fill

__all__ = ["Pair", "read_pairs"]

_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_ZIP = "PK\3\4"  # as spreadsheets begin, whatever they are called


@dataclass(frozen=True)
class Pair:
    """A row of a table.

    Attributes:
        row: its number, from 1.
        photo, mask: as they stand in the table.
        out: the file to write.
        error: why it cannot be done; None so far.
    """

    row: int
    photo: str
    mask: str
    out: Path
    error: str | None = None


def read_pairs(table: Path, folder: Path) -> list[Pair]:
    """Read a table and decide where each fill goes.

    Convention:
        Without an output, a photo's fill gets its path in the folder where that is relative, and its name otherwise,
        with the suffix of `maerestore.image.output.suffix_of_fill`; where another photo's goes there, as with a.png
        and a PNG that is called a.jpg, it is added to the whole name (a.jpg.png). No fill may replace a photo or mask
        of any row.

    Args:
        table: .csv, with commas or, where its header has no comma, semicolons or tabs; .tsv or .parquet. Text is in
            UTF-8.
        folder: of the fills.

    Returns:
        a pair for each row; rows that cannot be done have an error.

    Raises:
        InputError: it cannot be read, has no rows, or lacks a column.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp(), "pairs.csv")
        >>> _ = table.write_text("photo,mask\\ncats/a.jpg,masks/a.png\\n/photos/b.heic,masks/b.png\\n,\\n")
        >>> pairs = read_pairs(table, Path("filled"))
        >>> [pair.out.as_posix() for pair in pairs[:2]], pairs[2].error
        (['filled/cats/a.jpg', 'filled/b.png'], 'no photo is given')
    """
    rows = _rows(table)
    pairs: list[Pair] = []
    taken: dict[Path, int] = {}
    places = [_place_or_error(folder, *row) for row in rows]
    wanted: dict[Path | InputError, set[str]] = {}  # by what: suffixes of photos, and outputs that are given
    for (photo, _, output), place in zip(rows, places, strict=True):
        wanted.setdefault(place, set()).add(output or PurePath(photo).suffix)
    inputs = {os.path.realpath(name): name for row in rows for name in row[:2] if name and "\0" not in name}
    for number, ((photo, mask, output), out) in enumerate(zip(rows, places, strict=True), 1):
        try:
            if isinstance(out, InputError):
                raise out
            if not output and len(wanted[out]) > 1 and out.suffix != PurePath(photo).suffix:
                out = out.with_name(PurePath(photo).name + out.suffix)
            if (source := inputs.get(os.path.realpath(out))) is not None:
                raise InputError(f"its fill would replace the input {quoted(source)}: choose another output folder")
            if out in taken:
                raise InputError(f"its fill would replace that of row {taken[out]}: name another in a column 'output'")
            taken[out] = number
            pairs.append(Pair(number, photo, mask, out))
        except InputError as error:
            pairs.append(Pair(number, photo, mask, folder, error.message.rstrip(".")))
    return pairs


def _place_or_error(folder: Path, photo: str, mask: str, output: str) -> Path | InputError:
    try:
        if "\0" in photo + mask + output:
            raise InputError("a name holds a zero byte")
        for what, value in (("photo", photo), ("mask", mask)):
            if not value:
                raise InputError(f"no {what} is given")
        out = folder / _place(photo, output)
        format_of(out)
    except InputError as error:
        return error
    return out


def _place(photo: str, output: str) -> PurePath:
    """Where a fill goes in the output folder."""
    if output:
        place = PurePath(output)
        if place.is_absolute() or place.drive or not place.name or ".." in place.parts:
            raise InputError(f"the output {quoted(output)} leaves the output folder: name a place in it")
        return place
    place = PurePath(photo)
    if not place.name:
        raise InputError(f"{quoted(photo)} is a folder: give an image file")
    if place.is_absolute() or place.drive or ".." in place.parts:
        place = PurePath(place.name)
    return place.with_suffix(suffix_of_fill(Path(photo)))


def _rows(table: Path) -> list[tuple[str, str, str]]:
    """(photo, mask, output) of each row, as text; "" where there is none."""
    if table.suffix.lower() in _SPREADSHEETS and table.is_file():
        raise _spreadsheet(table)
    try:
        columns = _parquet(table) if table.suffix.lower() == ".parquet" else _csv(table)
    except InputError:
        raise
    except Exception as error:  # the readers of both have many for files that are damaged
        raise InputError(f"{quoted(table)} cannot be read ({reason_of(error)}).") from None
    for name in ("photo", "mask"):
        if name not in columns:
            raise InputError(f"{quoted(table)} has no column '{name}': columns are photo, mask and, if wanted, output.")
    photos, masks = columns["photo"], columns["mask"]
    if not photos:
        raise InputError(f"{quoted(table)} has no rows below its header: nothing to fill.")
    outputs = columns.get("output", [None] * len(photos))
    return [
        (str(photo or "").strip(), str(mask or "").strip(), str(output or "").strip())
        for photo, mask, output in zip(photos, masks, outputs, strict=True)
    ]


def _csv(table: Path) -> dict[str, list[Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if table.suffix.lower() == ".tsv":
                delimiter = "\t"
            else:  # spreadsheets write semicolons where a comma is what stands before decimals, and tabs for "text"
                delimiter = next((d for d in ",;\t" if d in header), ",")
            reader = csv.DictReader(chain([header], file), delimiter=delimiter, skipinitialspace=True)
            names = [_plain(name) for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise (_spreadsheet if error.object.startswith(_ZIP.encode()) else _not_utf8)(table) from None
    if header.startswith(_ZIP):
        raise _spreadsheet(table)
    if "\0" in header:  # UTF-16 without the mark that it begins with
        raise _not_utf8(table)
    return {name: [row.get(name) for row in rows] for name in names}


def _plain(name: str) -> str:
    """The name of a column, as people vary it."""
    return name.strip().lower()


def _spreadsheet(table: Path) -> InputError:
    return InputError(f"{quoted(table)} is a spreadsheet, which is not read: save it as CSV in UTF-8.")


def _not_utf8(table: Path) -> InputError:
    return InputError(f"{quoted(table)} is not in UTF-8: save it as UTF-8 (in Excel 'CSV UTF-8').")


def _parquet(table: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise InputError("a table in Parquet needs pyarrow: pip install 'maerestore[features]', or use CSV.") from None
    with pq.ParquetFile(table) as file:
        wanted = [name for name in file.schema_arrow.names if _plain(name) in ("photo", "mask", "output")]
        columns = file.read(wanted).to_pydict() if wanted else {}
    return {_plain(name): values for name, values in columns.items()}
