"""Images and features with the names of their classes, and how they are split for validation.

photos/cats/a.jpg                   a folder with one subfolder a class
shard-000.tar, classes.txt          NAME.cls beside NAME.webp in the tar; a number in it counts lines of classes.txt,
                                    from 0, blank ones too
features.parquet                    a table of features, with the labels that its images had
labels.csv                          "path,label" a line, in place of all those
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from maerestore.errors import MaerestoreError
from maerestore.features.classify.head_config import is_plain
from maerestore.features.items import Item, find_items
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_files import is_table, read_table
from maerestore.image.errors import InputError, quoted
from maerestore.wording import counted

CLASSES_NAME = "classes.txt"
_IN_TAR = re.compile(r"\.tar/", re.IGNORECASE)
_MOST_DIGITS = 9  # of a class's number


def are_tables(sources: Sequence[Path]) -> bool:
    """Whether the sources are tables of features, and not images.

    Raises:
        InputError: some are and some are not.
    """
    kinds = [is_table(source) for source in sources]
    if any(kinds) and not all(kinds):
        table = sources[kinds.index(True)]
        raise InputError(f"{quoted(table)} is a table of features, other sources are images: give either.")
    return any(kinds)


def read_labels(path: Path) -> dict[str, str]:
    """The names of images and of their classes from a CSV file: "path,label", with or without that line on top.

    Raises:
        InputError: it cannot be read, has no two columns, or names an image twice with different classes.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("path,label\\nphotos/a.jpg,cat\\n")
        >>> read_labels(path)
        {'photos/a.jpg': 'cat'}
    """
    return {name: label for name, (label, _) in _label_lines(path).items()}


def _label_lines(path: Path) -> dict[str, tuple[str, int]]:
    """For each image's name as written its class and the number of its line."""
    found: dict[str, tuple[str, int]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or (number == 1 and [cell.strip().lower() for cell in row[:2]] == ["path", "label"]):
                    continue
                if len(row) < 2 or not row[0].strip() or not row[1].strip():
                    raise InputError(f"{quoted(path)}, line {number}: give a path and a label, with a comma between.")
                _add_label(found, row[0].strip(), row[1].strip(), number, path)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise InputError(f"{quoted(path)} cannot be read as labels ({reason}).") from None
    if not found:
        raise InputError(f"{quoted(path)} holds no label.")
    return found


def _add_label(found: dict[str, tuple[str, int]], name: str, label: str, line: int, path: Path) -> None:
    """Store the class of an image; refuse a second, different one."""
    other, before = found.setdefault(name, (label, line))
    if other != label:
        raise InputError(
            f"{quoted(path)}, line {line}: {quoted(name)} is of the class {quoted(label)} here, and of {quoted(other)} "
            f"in line {before}: leave out one of them."
        )


def find_labelled(sources: Sequence[Path], labels: Path | None = None, partial: bool = False) -> list[Item]:
    """The images of all sources, each with its class.

    Args:
        sources: as for `maerestore.features.items.find_items`.
        labels: a CSV file; those images that it names are taken then, and no others. Its paths are the images' names,
            or count from the file's own folder.
        partial: whether `labels` may name further images, say those of another source.

    Returns:
        the images, each once: of a file that is found under several names the first one counts.

    Raises:
        InputError: no image, an image without a class or of two classes, a class whose name no head can keep, numbers
            of classes that do not fit `classes.txt`, or a line of `labels` without its image.
    """
    items = find_items(sources)
    if labels is not None:
        given = _given([item.name for item in items], labels, partial)
        items = [item for item in items if item.name in given]
    else:
        given = _resolved([item.name for item in items], [item.label for item in items])
    check_class_names(given.values())
    first: dict[str, Item] = {}
    for item, place in zip(items, _places(items), strict=True):
        other = first.setdefault(place, replace(item, label=given[item.name]))
        if other.label != given[item.name]:
            raise InputError(
                f"{quoted(other.name)} and {quoted(item.name)} are the same image, of the classes "
                f"{quoted(str(other.label))} and {quoted(given[item.name])}: leave out one of them."
            )
    return list(first.values())


def read_labelled(
    tables: Sequence[Path],
    labels: Path | None = None,
    partial: bool = False,
    failed: Callable[[str, str], None] | None = None,
) -> FeatureTable:
    """The rows of tables that have a feature, each with its class; arguments and errors as for `find_labelled`.

    Args:
        failed: called with name and reason of each row that is left out because it has none.

    Raises:
        InputError: also for tables that were made by different models or with different options, and for tables that
            share an image's name, but not its feature and its class.
    """
    read = [read_table(path) for path in tables]
    for path, table in zip(tables, read, strict=True):
        if table.facts.get("fingerprint") != read[0].facts.get("fingerprint"):
            raise InputError(f"{quoted(path)} was made by another model, or with other options, than the first table.")
    table = join_distinct(tables, read, labels=labels is None)
    given: dict[str, str] | None = None
    if labels is not None:
        given = _given(table.names, labels, partial)
        table = table.rows([i for i, name in enumerate(table.names) if name in given])
    if failed is not None:
        for name, error in table.failures():
            failed(name, error)
    table = table.without_errors()
    if given is None:
        given = _resolved(table.names, table.labels)
    check_class_names(given.values())
    return replace(table, labels=[given[name] for name in table.names])


def join_distinct(
    paths: Sequence[Path], tables: Sequence[FeatureTable], labels: bool = False, files: bool = True
) -> FeatureTable:
    """Rows of several tables, one after the other; a row that is in two of them counts once.

    Args:
        paths: of the tables, for messages.
        tables: of one extractor.
        labels: whether rows of one image have to agree in their labels too.
        files: whether one file under two names is one image; otherwise every name is.

    Raises:
        InputError: rows of one image that differ: its name stands for two images then, or one of the tables is old.
    """
    joined = join_tables(tables)
    first: dict[str, int] = {}
    kept: list[int] = []
    ends = np.cumsum([len(table) for table in tables])
    for row, place in enumerate(_real_paths(joined.names) if files else joined.names):
        before = first.setdefault(place, row)
        if before == row:
            kept.append(row)
            continue
        flaws = {
            "features": not np.array_equal(joined.features[row], joined.features[before], equal_nan=True),
            "labels": labels and joined.labels[row] != joined.labels[before],
        }
        if differ := [what for what, flawed in flaws.items() if flawed]:
            here, there = (quoted(paths[int(np.searchsorted(ends, at, "right"))]) for at in (row, before))
            raise InputError(
                f"{quoted(joined.names[row])} has different {differ[0]} in {there} and in {here}: give one of these "
                "tables, or make them anew with paths that tell the images apart."
            )
    return joined if len(kept) == len(joined) else joined.rows(kept)


def check_class_names(names: Iterable[str]) -> None:
    """Refuse a class whose name no head can keep.

    Raises:
        InputError: a blank name, or one with control characters, line breaks or surrogates; it names the class.
    """
    for name in dict.fromkeys(names):
        if not name.strip() or not is_plain(name):
            raise InputError(
                f"the class {name!a} cannot be used: a name is not blank, and holds no control characters, no "
                "line breaks, and nothing but Unicode: rename it."
            )


def check_apart(train: Sequence[Item] | FeatureTable, validation: Sequence[Item] | FeatureTable) -> None:
    """Refuse images that are in both the training and the validation set, even under different names.

    Raises:
        InputError: the sets overlap; the message names one image.
    """
    trained = set(_places(train))
    names = validation.names if isinstance(validation, FeatureTable) else [item.name for item in validation]
    both = [name for name, place in zip(names, _places(validation), strict=True) if place in trained]
    if both:
        told = counted(len(both), "image is", "images are")
        raise InputError(f"{told} both to train and to validate on, such as {quoted(min(both))}.")


def _places(images: Sequence[Item] | FeatureTable) -> list[str]:
    """The location of each image, independent of its name: the real path of its file, or of its tar with the member.

    Of a table the names are all that is known: paths from the working directory.
    """
    if isinstance(images, FeatureTable):
        return list(_real_paths(images.names))
    files = _real_paths([os.fspath(item.path) for item in images])
    return [file if item.member is None else f"{file}/{item.member}" for item, file in zip(images, files, strict=True)]


def _real_paths(paths: Iterable[str]) -> Iterator[str]:
    """The real path of each; that of a folder is looked up once."""
    folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = os.path.realpath(folder)
            except ValueError:  # a name that no file can have
                folders[folder] = folder
        yield os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], name)


def split(labels: Sequence[str], share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of each class for validation.

    Args:
        labels: names of the classes of N images.
        share: in [0, 1). Each class of two images or more gives at least one, and keeps at least one; a class of one
            image keeps it.
        seed: of the choice.

    Returns:
        numbers of the images for training and for validation, ascending.

    Raises:
        MaerestoreError: a share outside [0, 1).

    Example:
        >>> train, validation = split(["a"] * 8 + ["b"] * 4 + ["c"], 0.25)
        >>> len(train), len(validation), 12 in train
        (10, 3, True)
    """
    if not 0 <= share < 1:
        raise MaerestoreError(f"share must lie in [0, 1), got {share}")
    rng = np.random.default_rng(seed)
    held: list[np.ndarray] = [np.empty(0, np.int64)]
    of_class: dict[str, list[int]] = {}  # grouped once: there may be thousands of classes
    for i, name in enumerate(labels):
        of_class.setdefault(name, []).append(i)
    for name in sorted(of_class):
        members = rng.permutation(np.array(of_class[name], np.int64))
        if share and len(members) > 1:
            held.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def numbers_of(labels: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """Labels as numbers of classes: (N,) int64.

    Raises:
        InputError: a label that is none of the classes.

    Example:
        >>> numbers_of(["dog", "cat"], ["cat", "dog"]).tolist()
        [1, 0]
    """
    number = {name: i for i, name in enumerate(classes)}
    for label in labels:
        if label not in number:
            listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise InputError(f"the class {quoted(str(label))} is not among the {len(classes)} fitted ones ({listed}).")
    return np.array([number[str(label)] for label in labels], dtype=np.int64)


def _given(names: Sequence[str], path: Path, partial: bool) -> dict[str, str]:
    """The classes of the images that a CSV file names, by the images' names."""
    known = set(names)
    found: dict[str, tuple[str, int]] = {}
    lines = _label_lines(path)
    besides = [(path.parent / written).as_posix() for written in lines]
    at: dict[str, str] = {}  # names by their real paths
    for image, place in zip(names, _real_paths(names), strict=True):
        at.setdefault(place, image)
    for (written, (label, line)), beside, place in zip(lines.items(), besides, _real_paths(besides), strict=True):
        literal = next((name for name in (written, Path(written).as_posix(), beside) if name in known), None)
        name = literal or at.get(place)
        if name is not None:
            _add_label(found, name, label, line, path)
        elif not partial:
            raise InputError(f"{quoted(path)} names {quoted(written)}, which is not among the images given.")
    if not found:
        raise InputError(f"{quoted(path)} names none of the images given.")
    return {name: label for name, (label, _) in found.items()}


def _resolved(names: Sequence[str], labels: Sequence[str | None]) -> dict[str, str]:
    """The classes of images by the images' names; numbers are replaced by names."""
    bare = [name for name, label in zip(names, labels, strict=True) if label is None]
    if bare:
        have = "has" if len(bare) == 1 else "have"
        raise InputError(
            f"{len(bare)} of {counted(len(names), 'image')} {have} no class, the first is {quoted(bare[0])}: put them "
            "into one folder a class, or name their classes in a CSV file (--labels)."
        )
    lists: dict[Path, list[str] | None] = {}
    found = {}
    for name, label in zip(names, labels, strict=True):
        assert label is not None
        tar, *inside = _IN_TAR.split(name, maxsplit=1)
        if inside and label.isdecimal():
            path = Path(tar).parent / CLASSES_NAME
            if path not in lists:
                lists[path] = _class_list(path)
            label = _numbered(label, lists[path], name, path)
        found[name] = label
    return found


def _class_list(path: Path) -> list[str] | None:
    """The names of numbered classes by line, blank lines among them; None where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else f"not UTF-8: {err}"
        raise InputError(f"{quoted(path)}, the list of classes, cannot be read ({reason}).") from None
    names = [line.strip() for line in lines]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name and first.setdefault(name, number) != number:
            raise InputError(
                f"{quoted(path)}: lines {first[name]} and {number} are both {quoted(name)}, which would make one class "
                "of two: give them different names."
            )
    return names


def _numbered(label: str, classes: list[str] | None, image: str, path: Path) -> str:
    """The name of a class by its number; the number itself where there is no list."""
    if classes is None:
        return label
    name = classes[int(label)] if len(label) <= _MOST_DIGITS and int(label) < len(classes) else ""
    if not name:
        raise InputError(
            f"{quoted(image)} is of class {label[:20]}, for which {quoted(path)} has no name; numbers count its lines "
            "from 0, blank lines too."
        )
    return name
