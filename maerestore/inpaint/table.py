"""Filling the photos of a table, one after the other with one loaded model, or on a Ray cluster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maerestore.errors import MaerestoreWarning, lacks_memory
from maerestore.image import InputError, write_photo
from maerestore.image.errors import quoted, reason_of
from maerestore.image.output import check_target
from maerestore.inpaint.pair import grown_mask, read_pair, warn_of_losses
from maerestore.inpaint.rows import Pair

if TYPE_CHECKING:
    from maerestore.inpaint.pipeline import Inpainter

__all__ = ["FillSettings", "Outcome", "TableReport", "fill_pair", "fill_table"]


@dataclass(frozen=True)
class FillSettings:
    """How every photo of a table is filled; cheap, and can be sent to another process.

    Attributes:
        model: as for `Inpainter.from_pretrained`, as are device and precision.
        dilate, feather, sharp, seed: as for `Inpainter.inpaint`.
        mask_white: what white in a mask means, "hole" or "keep".
        resize_mask: scale masks of another size.
    """

    model: str | None = None
    device: str = "auto"
    precision: str = "auto"
    dilate: int = 0
    feather: int = 0
    sharp: bool = True
    seed: int = 0
    mask_white: Literal["hole", "keep"] = "hole"
    resize_mask: bool = False

    def load(self) -> Inpainter:
        """Load the model.

        Raises:
            ModelError: no such model, or one that predicts no pixels.
        """
        from maerestore.inpaint.pipeline import Inpainter

        return Inpainter.from_pretrained(self.model, device=self.device, precision=self.precision)


@dataclass(frozen=True)
class Outcome:
    """What became of a row; can be sent from another process.

    Attributes:
        error: why it could not be done, in one line; None where it is written.
        warnings: what can be done and is hardly meant, a line each.
    """

    error: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class TableReport:
    """What became of a table.

    Attributes:
        rows: of the table.
        written: photos filled.
        present: rows whose output was there.
        errors: (row, photo, reason) of the others, in the order of the rows.
        warnings: (row, photo, warning), in that order too.
    """

    rows: int = 0
    written: int = 0
    present: int = 0
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    warnings: list[tuple[int, str, str]] = field(default_factory=list)


_told: set[tuple[str, type[Warning], str, int]] = set()  # warnings of other libraries, and where they came from

Engine = Callable[[Sequence[Pair], FillSettings, bool], Iterator[tuple[Pair, Outcome]]]
"""engine(pairs, settings, overwrite): yields each pair with what became of it, as it is finished."""


def fill_table(
    pairs: Sequence[Pair],
    settings: FillSettings,
    *,
    overwrite: bool = False,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[Pair, str], None] | None = None,
    warned: Callable[[Pair, str], None] | None = None,
) -> TableReport:
    """Fill the photos of a table.

    Convention:
        Outputs that are there are kept: the same call goes on where it was cut off. A row that cannot be done is
        recorded, and the others are done.

    Args:
        pairs: what `read_pairs` gave.
        settings: of the model and the fills.
        overwrite: fill again what is there.
        engine: None for `local_engine`.
        progress: called with the numbers of rows done and to do.
        failed: called with each pair that cannot be done, and the reason.
        warned: called with a pair that can be done, and what of it is hardly meant.

    Raises:
        InputError: settings that are out of range.
        ModelError: as `Inpainter.from_pretrained`.

    Example:
        >>> pairs = read_pairs(Path("pairs.csv"), Path("filled"))       # doctest: +SKIP
        >>> fill_table(pairs, FillSettings(dilate=3)).written           # doctest: +SKIP
        24
    """
    report = TableReport(rows=len(pairs))

    def note(pair: Pair, reason: str) -> None:
        report.errors.append((pair.row, pair.photo, reason))
        if failed is not None:
            failed(pair, reason)

    todo = []
    for pair in pairs:
        if pair.error is not None:
            note(pair, pair.error)
        elif not overwrite and pair.out.is_file():
            report.present += 1
        else:
            todo.append(pair)
    if todo:
        from maerestore.inpaint.checks import check_settings, check_whole

        check_whole("dilate", settings.dilate, at_least=0)
        check_settings(settings.sharp, settings.feather, settings.seed)
        for number, (pair, outcome) in enumerate((engine or local_engine)(todo, settings, overwrite), 1):
            for warning in outcome.warnings:
                report.warnings.append((pair.row, pair.photo, warning))
                if warned is not None:
                    warned(pair, warning)
            if outcome.error is None:
                report.written += 1
            else:
                note(pair, outcome.error)
            if progress is not None:
                progress(number, len(todo))
    report.errors.sort()
    report.warnings.sort()
    return report


def local_engine(pairs: Sequence[Pair], settings: FillSettings, overwrite: bool) -> Iterator[tuple[Pair, Outcome]]:
    """One model, one pair after the other."""
    inpainter = settings.load()
    for pair in pairs:
        yield pair, fill_pair(inpainter, pair, settings, overwrite)


def fill_pair(inpainter: Inpainter, pair: Pair, settings: FillSettings, overwrite: bool = False) -> Outcome:
    """Fill one photo of a table; nothing but an interrupt gets out of it, and no `MaerestoreWarning`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MaerestoreWarning)
        error = _fill(inpainter, pair, settings, overwrite)
    ours = []
    for warning in caught:
        if issubclass(warning.category, MaerestoreWarning):
            ours.append(str(warning.message))
        # Python tells a warning of other libraries once a place; what it has told it forgets with each row.
        elif (place := (str(warning.message), warning.category, warning.filename, warning.lineno)) not in _told:
            _told.add(place)
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return Outcome(error, tuple(ours))


def _fill(inpainter: Inpainter, pair: Pair, settings: FillSettings, overwrite: bool) -> str | None:
    try:
        photo, mask = read_pair(Path(pair.photo), Path(pair.mask), settings.mask_white, settings.resize_mask)
        mask = grown_mask(photo, mask, pair.out, settings.dilate)
        warn_of_losses(photo, pair.out)
        try:
            pair.out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {quoted(pair.out.parent)} cannot be made ({error.strerror})") from None
        check_target(pair.out, overwrite)  # before the seconds that a fill takes
        filled, _ = inpainter.fill(photo, mask, feather=settings.feather, sharp=settings.sharp, seed=settings.seed)
        write_photo(filled, pair.out, overwrite)
    except InputError as error:
        return error.message.rstrip(".")
    except MemoryError:
        return "not enough memory for this picture"
    except Exception as error:  # whatever one photo makes a codec or a stage stumble over: the other rows are done
        if lacks_memory(error):
            return "not enough memory on this device"
        return f"it could not be filled ({type(error).__name__}: {reason_of(error)})"
    return None
