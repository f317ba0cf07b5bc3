"""Features for an index, from the sources that a user names: images, folders, tars and tables of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maerestore.features.failures import none_read
from maerestore.features.index.admission import one_a_place
from maerestore.features.index.gone import check_full
from maerestore.features.index.store import PARTS, Generations
from maerestore.features.items import Item, find_items
from maerestore.features.loaders import Extractor, ExtractorSettings, Loaded, Loader
from maerestore.features.options import FeatureOptions
from maerestore.features.run import extract
from maerestore.features.table import FeatureTable, join_tables
from maerestore.features.table_files import companions, is_table, read_table
from maerestore.image import InputError
from maerestore.image.errors import quoted

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor
    from maerestore.features.index.image_index import ImageIndex


@dataclass(frozen=True)
class Gathered:
    """Features of sources.

    Attributes:
        table: the features and errors of new and changed images; it may have no rows.
        unchanged: number of images that are in the index already.
        moved: the names of those among them that are elsewhere in the index.
        items: all images that were found, except those of tables.
    """

    table: FeatureTable
    unchanged: int = 0
    moved: Sequence[str] = ()
    items: Sequence[Item] = ()


@contextmanager
def gathering(
    store: Generations,
    sources: Sequence[str | Path],
    extractor: FeatureExtractor | Loader | None = None,
    index: ImageIndex | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    pruned: Sequence[Path] = (),
) -> Iterator[Gathered]:
    """Read tables, and extract the features of images that are not in the index; a context manager.

    Extracted features are stored in the folder of the index batch by batch, and deleted when the block ends without an
    error: a run that was killed continues where it stopped.

    Args:
        store: folder of the index, made where it is missing.
        sources: images, folders, tars, lists (.txt) and tables of features, or folders of them.
        extractor: for images, or what loads one; by default that of `index`, or the bundled model's.
        index: None while it is built.
        progress: called with "images" and how many of how many are done.
        pruned: folders among the sources, each of which has to hold an image.

    Raises:
        InputError: nothing there, tables of different models, the folder cannot be written, or another process extracts
            for the same index; while an index is built, no image that can be read.
        ModelError: no such model.
    """
    paths = [Path(source) for source in sources]
    tables = [read_table(path) for path in paths if is_table(path)]
    _check_one_model([table.facts for table in tables])
    if index is not None:
        for table in tables:
            if len(table):
                index.check_alike(table.facts, table.features.shape[1])
    images: list[str | Path] = [path for path in paths if not is_table(path)]
    found = find_items(images) if images or not tables else []
    check_full(pruned, found)
    found = items = [found[i] for i in one_a_place([item.name for item in found])]
    moved: list[str] = []
    if index is not None:
        items, moved = _not_in(index, items)
    loaded = _loaded(extractor, index) if items else None
    if loaded is not None and index is not None:
        index.check_alike({"model": loaded.name, "fingerprint": loaded.fingerprint}, loaded.dim)
    if loaded is not None:  # told now, and not when all images are computed
        _check_one_model([*(table.facts for table in tables), {"fingerprint": loaded.fingerprint}])
    with store.extracting() if items else nullcontext():
        kept: list[Path] = []
        if loaded is not None:
            out = store.folder / PARTS / f"{loaded.fingerprint[:16]}.safetensors"
            tables.append(_extracted(items, out, loaded, progress))
            kept = companions(out)
        joined = _joined(tables)
        useless = index is None and len(joined) > 0 and None not in joined.errors
        if not useless:
            yield Gathered(joined, len(found) - len(items), moved, found)
        for path in kept:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not there, or another model's features wait in it
            (store.folder / PARTS).rmdir()
        if useless:
            raise none_read(joined.failures(), str(store.folder))


def settings_of(
    facts: dict[str, Any],
    folder: Path,
    device: str = "auto",
    batch_size: int = 32,
    model: str | None = None,
    whitening: str | None = None,
) -> ExtractorSettings:
    """The settings that load the extractor with which an index was built.

    Args:
        facts: of the index.
        folder: of the index, for messages.
        device, batch_size: as for `FeatureExtractor`.
        model: where the model is now; None for where it was.
        whitening: file; None for none.

    Raises:
        InputError: the index was built of features alone.
    """
    if facts.get("options") is None or facts.get("model") is None:
        raise InputError(f"index {quoted(folder)} does not tell what its features were made with: give features.")
    options = FeatureOptions.from_dict(facts["options"])
    return ExtractorSettings(model or facts["model"], options, device, batch_size, whitening)


def _not_in(index: ImageIndex, items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """The items that are not in an index, or have another size or modification time there; names of moved others."""
    sizes, mtimes = (np.array([getattr(item, name) for item in items], np.int64) for name in ("size", "mtime_ns"))
    there, moved = index.unchanged_and_moved([item.name for item in items], sizes, mtimes)
    return [item for item, known in zip(items, there, strict=True) if not known], [
        items[i].name for i in moved if there[i]
    ]


def _loaded(extractor: FeatureExtractor | Loader | None, index: ImageIndex | None) -> Extractor:
    if extractor is None:
        return ExtractorSettings().load() if index is None else index.extractor()
    return extractor.load() if hasattr(extractor, "load") else extractor


def _extracted(
    items: Sequence[Item],
    out: Path,
    extractor: Extractor,
    progress: Callable[[str, int, int], None] | None,
) -> FeatureTable:
    try:
        out.parent.mkdir(exist_ok=True)
    except OSError as err:
        raise InputError(f"{quoted(out.parent)} cannot be made ({err.strerror}).") from None
    tell = None if progress is None else lambda done, total: progress("images", done, total)
    extract(items, Loaded(extractor), out, disjoint=True, progress=tell)  # a run that was killed may have left others
    return read_table(out)


def _check_one_model(facts: Sequence[dict[str, Any]]) -> None:
    if len({str(each.get("fingerprint")) for each in facts}) > 1:
        raise InputError("the sources hold features of different models or options: give those of one.")


def _joined(tables: Sequence[FeatureTable]) -> FeatureTable:
    if tables:
        return join_tables(tables)
    return FeatureTable([], np.zeros((0, 1), np.float32), [], [], {}, np.zeros(0, np.int64), np.zeros(0, np.int64))
