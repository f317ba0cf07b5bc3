"""Images and features with the names of their classes, and how they are split for validation.

photos/cats/a.jpg                   a folder with one subfolder a class
shard-000.tar, classes.txt          NAME.cls beside NAME.webp in the tar; a number in it counts lines of classes.txt
features.parquet                    a table of features, with the labels that its images had
labels.csv                          "path,label" a line, in place of all those
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from maerestore.errors import MaerestoreError
from maerestore.features.items import Item, find_items
from maerestore.features.table import FeatureTable, is_table, join_tables, read_table
from maerestore.image.errors import InputError, quoted
from maerestore.wording import counted

CLASSES_NAME = "classes.txt"


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
        InputError: it cannot be read, or has no two columns.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("path,label\\nphotos/a.jpg,cat\\n")
        >>> read_labels(path)
        {'photos/a.jpg': 'cat'}
    """
    labels: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or (number == 1 and [cell.strip().lower() for cell in row[:2]] == ["path", "label"]):
                    continue
                if len(row) < 2 or not row[0].strip() or not row[1].strip():
                    raise InputError(f"{quoted(path)}, line {number}: give a path and a label, with a comma between.")
                labels[row[0].strip()] = row[1].strip()
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise InputError(f"{quoted(path)} cannot be read as labels ({reason}).") from None
    if not labels:
        raise InputError(f"{quoted(path)} holds no label.")
    return labels


def find_labelled(sources: Sequence[Path], labels: Path | None = None, partial: bool = False) -> list[Item]:
    """The images of all sources, each with its class.

    Args:
        sources: as for `maerestore.features.items.find_items`.
        labels: a CSV file; those images that it names are taken then, and no others. Its paths are the images' names,
            or count from the file's own folder.
        partial: whether `labels` may name further images, say those of another source.

    Raises:
        InputError: no image, an image without a class, or a line of `labels` without its image.
    """
    items = find_items(sources)
    if labels is not None:
        given = _given([item.name for item in items], labels, partial)
        items = [item for item in items if item.name in given]
    else:
        given = _resolved([item.name for item in items], [item.label for item in items])
    return [replace(item, label=given[item.name]) for item in items]


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
        InputError: also for tables that were made by different models or with different options.
    """
    read = [read_table(path) for path in tables]
    for path, table in zip(tables, read, strict=True):
        if table.facts.get("fingerprint") != read[0].facts.get("fingerprint"):
            raise InputError(f"{quoted(path)} was made by another model, or with other options, than the first table.")
    table = join_tables(read)
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
    return replace(table, labels=[given[name] for name in table.names])


def split(labels: Sequence[str], share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Part off a share of each class for validation.

    Args:
        labels: of N images.
        share: in [0, 1). Each class of two images or more gives at least one, and keeps at least one.
        seed: of the choice.

    Returns:
        numbers of the images for training and for validation, ascending.

    Raises:
        ValueError: a share outside [0, 1).

    Example:
        >>> train, validation = split(["a"] * 8 + ["b"] * 4 + ["c"], 0.25)
        >>> len(train), len(validation), 12 in train
        (10, 3, True)
    """
    if not 0 <= share < 1:
        raise MaerestoreError(f"share must lie in [0, 1), got {share}")
    rng = np.random.default_rng(seed)
    names = np.asarray(labels, dtype=object)
    held: list[np.ndarray] = [np.empty(0, np.int64)]
    for name in sorted(set(labels)):
        members = rng.permutation(np.flatnonzero(names == name))
        if share and len(members) > 1:
            held.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(names)), validation), validation


def numbers_of(labels: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """The classes' numbers: (N,) int64.

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
    """Image's name -> class, for those that a CSV file names."""
    known, found = set(names), {}
    for written, label in read_labels(path).items():
        beside = (path.parent / written).as_posix()
        name = next((name for name in (written, Path(written).as_posix(), beside) if name in known), None)
        if name is not None:
            found[name] = label
        elif not partial:
            raise InputError(f"{quoted(path)} names {quoted(written)}, which is not among the images given.")
    if not found:
        raise InputError(f"{quoted(path)} names none of the images given.")
    return found


def _resolved(names: Sequence[str], labels: Sequence[str | None]) -> dict[str, str]:
    """Image's name -> class, where all have one."""
    bare = [name for name, label in zip(names, labels, strict=True) if label is None]
    if bare:
        have = "has" if len(bare) == 1 else "have"
        raise InputError(
            f"{len(bare)} of {counted(len(names), 'image')} {have} no class, the first is {quoted(bare[0])}: put them "
            "into one folder a class, or name their classes in a CSV file (--labels)."
        )
    lists: dict[str, list[str]] = {}
    found = {}
    for name, label in zip(names, labels, strict=True):
        assert label is not None
        tar, inside, _ = name.partition(".tar/")
        if inside and label.isdecimal():
            folder = Path(tar).parent
            if str(folder) not in lists:
                lists[str(folder)] = _class_list(folder / CLASSES_NAME)
            classes = lists[str(folder)]
            label = classes[int(label)] if int(label) < len(classes) else label
        found[name] = label
    return found


def _class_list(path: Path) -> list[str]:
    """The names of numbered classes; none where there is no such file."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
