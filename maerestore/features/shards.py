"""Features of very many images as a folder of Parquet tables, which the machines of a Ray cluster write.

    features/                            on any filesystem that pyarrow opens
        facts.json                           the weights and options with which all tables were made
        plan.json                            the names of the tables of the last finished run
        shard-5b1f0c3a9d2e4f60.parquet       features of a tar, of a Parquet table, or of a number of single images

The name of a shard is a hash of the names, sizes and modification times of its files. A shard whose table exists and is
complete is not computed again; tables of other names are removed at the end. After a run was killed, an image may be in
an old table and in a new one: `read_table` and `read_shards` read the tables in plan.json. The process that starts the
work only lists files; tars and tables are opened on the machines that work on them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maerestore import cluster
from maerestore.features.distributed import FeatureActor, on_cpu
from maerestore.features.failures import Failure, Failures, none_read
from maerestore.features.filesystems import File, RemotePath, filesystem, is_local, no_image, public_name
from maerestore.features.items import as_utf8
from maerestore.features.loaders import Loader
from maerestore.features.remote import ARCHIVES, items_in, list_files
from maerestore.features.run import Report, table_facts
from maerestore.features.shard_folder import ShardFolder, local_copy
from maerestore.features.store import of_other_images
from maerestore.features.table import FeatureTable
from maerestore.features.table_files import read_table
from maerestore.image.errors import InputError

__all__ = ["LOOSE", "Shard", "extract_shards", "plan_shards", "read_shards"]

LOOSE = 2048
"""The number of single images (in no tar or table) in a shard."""


@dataclass(frozen=True)
class Shard:
    """A unit of work: some files, whose features become one table.

    Attributes:
        name: of the table.
        files: single images; or one tar or Parquet table.
    """

    name: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Outcome:
    """The result of a shard.

    Attributes:
        images: number of rows of its table.
        errors: (name, reason) of the rows with an error.
        failed: (name, reason) of the images that could not be read in this run.
        stays: whether the old table was kept, because it has more features than could be computed now.
    """

    images: int
    errors: list[Failure]
    failed: list[Failure]
    stays: bool = False


def plan_shards(
    sources: Sequence[str | Path], key: str = "", loose: int = LOOSE, without: str | None = None
) -> list[Shard]:
    """Divide sources into shards: one for each tar and table, and one for every `loose` single images.

    A file that is in several sources is in one shard only, with the label of the first source. But an image that two
    Parquet tables name is in the shards of both.

    Args:
        sources: URIs, files, folders and lists, as for `list_files`.
        key: identifies the weights and options; it is part of the hash that names a shard.
        loose: number of single images in a shard, at least 1.
        without: URI or absolute path of a folder whose files are left out, since the output may lie in a source.

    Raises:
        InputError: a source that cannot be listed, or no image in any.
    """
    files: dict[str, File] = {}
    inside = False
    for file in (file for source in sources for file in list_files(source)):
        if _below(file.path, without):
            inside = True
        else:
            files.setdefault(file.name, file)
    if not files and inside:
        raise InputError("all images of the sources lie in the output itself: choose another output.")
    if not files:
        raise no_image(sources)
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
    """Write the features of images to a folder of Parquet tables, or update the folder.

    Convention:
        Only shards that are new or changed are computed. Only one process may work on a folder at a time. Local paths,
        of sources and of the output, must exist on all machines of the cluster.

    Args:
        sources: as for `plan_shards`.
        settings: an `ExtractorSettings`.
        out: path or URI of a folder, created where it is missing.
        address, ray_workers, workers, half, failed: as for `maerestore.features.distributed.extract_ray`.
        overwrite: compute all features again, and replace the existing tables, which stay until that is done.
        retry: compute shards again that have an image with an error. The old table of a shard is kept if fewer images
            can be read than before, since a store may be unreachable for a while.
        some: raise InputError if there is no image or none that can be read, and remove the tables of this run.
        loose: number of single images in a shard, at least 1.
        progress: called with the numbers of finished shards and of all shards to compute.

    Returns:
        what was done; images of shards that were not computed again are `kept`.

    Raises:
        InputError: the folder holds other features, features of other images only or foreign files, or cannot be
            written; there is no image, or, with `some`, none that can be read.
        MaerestoreError: Ray is missing or cannot be reached; otherwise as for `extract`.
    """
    cluster.check_ray()
    extractor = on_cpu(settings).load()
    facts = table_facts(extractor, half)
    folder = ShardFolder(out)
    planned = plan_shards(sources, facts["fingerprint"] + facts["dtype"], loose, without=folder.root)
    folder.claim(facts, overwrite)
    there = {} if overwrite else folder.check({shard.name for shard in planned})
    if not there and not overwrite:
        _check_overlap(folder, planned)
    if retry:
        there = {name: found for name, found in there.items() if not found[1]}
    todo = [shard for shard in planned if shard.name not in there]
    report = Report(facts=facts, kept=sum(number for number, _ in there.values()))
    report.errors = [error for _, errors in there.values() for error in errors]
    told = Failures(failed, len(report.errors) < report.kept or not some)
    if todo:
        with cluster.ray_cluster(address) as ray:
            if overwrite:  # not before Ray is there: until then, everything stays
                folder.put_facts(facts)
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
    if some and not report.images:  # tars or tables without images
        folder.remove({shard.name for shard in planned})
        raise no_image(sources)
    if some and len(report.errors) == report.images:
        folder.remove({shard.name for shard in todo})
        raise none_read(report.errors, public_name(out))
    dropped = folder.finish({shard.name for shard in planned})
    report.dropped = 0 if overwrite else dropped
    return report


def _check_overlap(folder: ShardFolder, planned: Sequence[Shard]) -> None:
    """Raise InputError where the tables of the last finished run have no image of the planned shards.

    Parquet tables are taken for what was there before, since their images have names of any kind.
    """
    files = {file.name: file for shard in planned for file in shard.files}
    if any(file.suffix == ".parquet" for file in files.values()):
        return
    other = None
    for name in folder.finished() or []:
        for image in folder.images(name):
            # The image itself, or the tar that it is in.
            if image in files or any(image[:i] in files for i, letter in enumerate(image) if letter == "/"):
                return
            other = other or image
    if other is not None:  # hours of computing, gone by a slip of the hand
        raise of_other_images(folder.name, other, "add --overwrite to write new tables")


def read_shards(folder: str | Path) -> Iterator[FeatureTable]:
    """Yield the tables of a folder one after the other; they need not fit into memory together.

    They are those of the last finished run, in the order of their names. If no run has finished yet, all tables are
    read, the newest first, without images that an earlier one had; the names of all images are held in memory then.

    Args:
        folder: path or URI.

    Raises:
        InputError: the folder does not exist, or a table is damaged.
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
    """Computes shards and writes their tables, in a process of its own.

    Args:
        out: path or URI of the folder.
        facts: stored in each table.
        settings, workers, half: as for `FeatureActor`.
    """

    def __init__(self, out: str, facts: dict[str, Any], settings: Loader, workers: int, half: bool) -> None:
        self.extract = FeatureActor(settings, workers, half)
        self.folder, self.facts = ShardFolder(out), facts

    def __call__(self, shard: Shard) -> Outcome:
        """Compute a shard and write its table."""
        with ExitStack() as copies:
            try:
                files = copies.enter_context(_nearby(shard.files))
                items = [item for file in files for item in items_in(file)]
            except InputError as error:  # a tar that is damaged or out of reach is a row with an error, as an image is
                table = _rows(shard.files[:1], as_utf8(str(error).rstrip(".")), self.facts["dim"])
            else:
                table = self.extract(items) if items else _rows((), "", self.facts["dim"])
        flaws = table.failures()
        if flaws and (there := self.folder.look(shard.name)) is not None:
            images, before = there
            if images - len(before) > len(table) - len(flaws):
                return Outcome(images, before, flaws, stays=True)
        features = table.features.astype(self.facts["dtype"], copy=False)
        self.folder.write(shard.name, replace(table, features=features, facts=self.facts))
        return Outcome(len(table), flaws, flaws)


@contextmanager
def _nearby(files: Sequence[File]) -> Iterator[list[File]]:
    """Copy a remote tar or table to this machine, since all of it is read; single images are read where they are."""
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
    """Rows without a feature for tars or tables that cannot be read."""
    return FeatureTable(
        [file.name for file in files],
        np.full((len(files), dim), np.nan, np.float32),
        [error for _ in files],
        [file.label for file in files],
        {},
        np.full(len(files), -1),
        np.array([file.mtime_ns for file in files], dtype=np.int64),
    )
