"""Features of very many images as a folder of Parquet tables, written by the machines of a Ray cluster themselves.

    features/                            on any filesystem that pyarrow opens
        facts.json                           the weights and options that all tables are made with
        plan.json                            the names of the tables that the last finished run has left
        shard-5b1f0c3a9d2e4f60.parquet       features of a tar, of a Parquet table, or of some loose images

A shard is named by what it is made of: the names, sizes and times of its files. One that is there under its name, and
is whole, is done; all others are not needed any more, and are removed at the end. A run that is killed may leave an
image in an old table and in a new one: what reads the folder reads the tables of the plan. The process that starts the
work lists files only: tars and tables are opened where they are worked on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maerestore import cluster
from maerestore.features.distributed import FeatureActor, on_cpu
from maerestore.features.failures import Failure, Failures, none_read
from maerestore.features.filesystems import File, RemotePath, filesystem, is_local
from maerestore.features.items import as_utf8
from maerestore.features.loaders import Loader
from maerestore.features.remote import ARCHIVES, items_in, list_files
from maerestore.features.run import Report, table_facts
from maerestore.features.shard_folder import ShardFolder, local_copy
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import read_table
from maerestore.image.errors import InputError, quoted

__all__ = ["LOOSE", "Shard", "extract_shards", "plan_shards", "read_shards"]

LOOSE = 2048
"""Images of a shard that are in no tar or table."""


@dataclass(frozen=True)
class Shard:
    """Some files, and where their features go.

    Attributes:
        name: of the table.
        files: loose images; or one tar or Parquet table.
    """

    name: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Attributes:
        images: rows of its table.
        errors: (name, reason) of those with an error.
        failed: (name, reason) of the images that could not be read now.
        stays: whether the table that was there stays, as it has more features than could be computed now.
    """

    images: int
    errors: list[Failure]
    failed: list[Failure]
    stays: bool = False


def plan_shards(
    sources: Sequence[str | Path], key: str = "", loose: int = LOOSE, without: str | None = None
) -> list[Shard]:
    """Cut sources into shards: each tar and table is one, loose images are taken by the number.

    Args:
        sources: URIs, files, folders and lists, as `list_files` takes them; no file counts twice.
        key: what else decides the content: of the features.
        loose: images of a shard.
        without: URI or absolute path of a folder whose files do not count: that of the output may lie in a source.

    Raises:
        InputError: a source that cannot be listed, or nothing in any.
    """
    files = {file.name: file for source in sources for file in list_files(source) if not _below(file.path, without)}
    if not files:
        raise InputError(f"no image in {', '.join(quoted(str(source)) for source in sources) or 'no source'}.")
    archives = [(file,) for file in files.values() if file.suffix in ARCHIVES]
    images = [file for file in files.values() if file.suffix not in ARCHIVES]
    groups = [tuple(images[i : i + loose]) for i in range(0, len(images), loose)]
    return [Shard(_name(group, key), group) for group in [*archives, *groups]]


def extract_shards(
    sources: Sequence[str | Path],
    settings: Loader,
    out: str,
    *,
    address: str | None = None,
    ray_workers: int | None = None,
    workers: int | None = None,
    half: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    some: bool = False,
    loose: int = LOOSE,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Report:
    """Write the features of images to a folder of Parquet tables, or bring the folder up to date.

    Convention:
        Only shards that are new or changed are computed. One process at a time works on a folder. Paths of this
        machine, and the output where it is one, are seen by all machines.

    Args:
        sources: as for `plan_shards`.
        settings: an `ExtractorSettings`.
        out: a folder or the URI of one; made where it is missing.
        address, ray_workers, workers, half, failed: as for `maerestore.features.distributed.extract_ray`.
        overwrite: start anew, whatever features are there.
        retry: do shards again that have an image with an error. One of which fewer images can be read than before
            stays as it is: a store may be out of reach for a while.
        some: refuse images of which not one can be read, and remove their tables; those that were not to be done again
            stay.
        loose: images of a shard that are in no tar or table.
        progress: called with the numbers of shards done and to do.

    Returns:
        what was done; images of shards that were there are `kept`.

    Raises:
        InputError: the folder holds other features, or cannot be written; no image, or, with `some`, none that can be
            read.
        MaerestoreError: Ray is missing or cannot be reached; otherwise as for `extract`.
    """
    cluster.check_ray()
    extractor = on_cpu(settings).load()
    facts = table_facts(extractor, half)
    folder = ShardFolder(out)
    planned = plan_shards(sources, facts["fingerprint"] + facts["dtype"], loose, without=folder.root)
    folder.claim(facts, overwrite)
    there = folder.check({shard.name for shard in planned})
    if retry:
        there = {name: found for name, found in there.items() if not found[1]}
    todo = [shard for shard in planned if shard.name not in there]
    report = Report(facts=facts, kept=sum(number for number, _ in there.values()))
    report.errors = [error for _, errors in there.values() for error in errors]
    told = Failures(failed, len(report.errors) < report.kept or not some)
    if todo:
        with cluster.ray_cluster(address) as ray:
            share = cluster.share_of(cluster.nodes_of(ray), getattr(settings, "device", "auto"), ray_workers)
            arguments = {
                "settings": settings, "workers": workers or share.threads, "half": half, "out": out, "facts": facts,
            }  # fmt: skip
            if progress is not None:
                progress(0, len(todo))
            outcomes: Iterator[Outcome] = cluster.run_actors(ray, ShardActor, arguments, todo, share)
            for done, outcome in enumerate(outcomes, 1):
                if outcome.stays:
                    report.kept += outcome.images
                else:
                    report.computed += outcome.images
                report.errors += outcome.errors
                told.note(outcome.failed, outcome.stays or len(outcome.failed) < outcome.images)
                if progress is not None:
                    progress(done, len(todo))
    report.images = report.kept + report.computed
    if some and len(report.errors) == report.images > 0:
        folder.remove({shard.name for shard in todo})
        raise none_read(report.errors, out)
    report.dropped = folder.finish({shard.name for shard in planned})
    return report


def read_shards(folder: str | Path) -> Iterator[FeatureTable]:
    """The tables of a folder, one after the other; they need not fit into memory.

    They are those of the last finished run, in the order of their names. Where no run was finished yet, they are all
    that there are, the newest first, and an image that was in one already is left out: the names have to fit then.

    Raises:
        InputError: it is not there, or a table is damaged.
    """
    opened = ShardFolder(str(folder))
    planned = opened.finished()
    seen: set[str] = set()
    for name in opened.names() if planned is None else planned:
        with local_copy(RemotePath(opened.root, f"{opened.path}/{name}")) as path:
            table = read_table(path)
        if planned is None:
            table = table.not_seen(seen)
        yield table


class ShardActor:
    """Writes the table of shard after shard; arguments as for `FeatureActor`, and the folder and its facts."""

    def __init__(self, out: str, facts: dict[str, Any], settings: Loader, workers: int, half: bool) -> None:
        self.extract = FeatureActor(settings, workers, half)
        self.folder, self.facts = ShardFolder(out), facts

    def __call__(self, shard: Shard) -> Outcome:
        """Compute a shard, and write its table."""
        with _nearby(shard.files) as files:
            try:
                items = [item for file in files for item in items_in(file)]
            except InputError as error:  # a damaged tar is a row with an error, as a damaged image is
                table = _rows(shard.files[:1], as_utf8(str(error).rstrip(".")), self.facts["dim"])
            else:
                table = self.extract(items) if items else _rows((), "", self.facts["dim"])
        found = zip(table.names, table.errors, strict=True)
        flaws = [(name, error) for name, error in found if error is not None]
        if flaws and (there := self.folder.look(shard.name)) is not None:
            images, before = there
            if images - len(before) > len(table) - len(flaws):
                return Outcome(images, before, flaws, stays=True)
        features = table.features.astype(self.facts["dtype"], copy=False)
        self.folder.write(shard.name, replace(table, features=features, facts=self.facts))
        return Outcome(len(table), flaws, flaws)


@contextmanager
def _nearby(files: Sequence[File]) -> Iterator[list[File]]:
    """A far tar or table is copied whole, since it is all read; loose images are read where they are."""
    [*rest] = files
    if len(rest) == 1 and rest[0].suffix in ARCHIVES:
        with local_copy(rest[0].path) as path:
            yield [replace(rest[0], path=RemotePath(str(path), str(path)))]
    else:
        yield rest


def _below(path: RemotePath, folder: str | None) -> bool:
    if folder is None:
        return False
    (system, place), (other, _) = filesystem(folder), filesystem(path.root)
    if not system.equals(other):
        return False
    above = path.path.rpartition("/")[0]
    if is_local(system):
        place, above = os.path.realpath(place), _without_links(above)
    return f"{above}/".startswith(place.rstrip("/") + "/")


@lru_cache(maxsize=1 << 12)
def _without_links(folder: str) -> str:
    return os.path.realpath(folder)


def _name(files: Sequence[File], key: str) -> str:
    facts = json.dumps([[file.name, file.size, file.mtime_ns, file.label] for file in files])
    return f"shard-{hashlib.sha256((key + facts).encode()).hexdigest()[:16]}.parquet"


def _rows(files: Sequence[File], error: str, dim: int) -> FeatureTable:
    """A row without a feature for each tar or table that cannot be read."""
    return FeatureTable(
        [file.name for file in files],
        np.full((len(files), dim), np.nan, np.float32),
        [error for _ in files],
        [file.label for file in files],
        {},
        np.full(len(files), -1),
        np.array([file.mtime_ns for file in files], dtype=np.int64),
    )
