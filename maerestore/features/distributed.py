"""Extraction as in `maerestore.features.run`, on the processes and machines of a Ray cluster.

The images are divided into shards of a fixed number. Each actor of a Ray Data stage (`map_batches`) loads the network
once, and then computes shards: it decodes images in threads, one per CPU, ahead of the network. Only names and features
are sent to the process that writes the table, which stores each shard as it arrives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maerestore import cluster
from maerestore.errors import MaerestoreError
from maerestore.features.engine import Engine, local_engine
from maerestore.features.items import Item
from maerestore.features.loaders import Extractor, ExtractorSettings, Loader
from maerestore.features.run import Report, extract
from maerestore.features.table import FeatureTable, join_tables

__all__ = ["SHARD", "FeatureActor", "extract_ray", "on_cpu", "ray_engine"]

SHARD = 256
"""Number of images in a shard, which is the most that an actor loses when it is killed."""


def extract_ray(
    items: Sequence[Item],
    settings: Loader,
    out: Path,
    *,
    address: str | None = None,
    ray_workers: int | None = None,
    workers: int | None = None,
    half: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    some: bool = False,
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Report:
    """As `maerestore.features.run.extract`, on a Ray cluster. The table is the same; shards are stored one by one.

    Convention:
        Features equal those of one process to 1e-5 in fp32. All machines of the cluster must see the files under the
        same paths, unless the sources are URIs.

    Args:
        items: from `maerestore.features.remote.find_sources` or `find_items`.
        settings: an `ExtractorSettings`.
        out: path of the table, on this machine.
        address: of the cluster, as for `ray.init`; None to start Ray on this machine.
        ray_workers: number of actors, each with its own network, at least 1; None for one per GPU, or else per CPU.
        workers: number of threads that decode in each actor; None for one per CPU of the actor.
        half, overwrite, retry, some, progress, failed: as for `extract`.
        shard: number of images in a shard, at least 1.

    Raises:
        MaerestoreError: Ray is missing or cannot be reached; otherwise as for `extract`.

    Example:
        >>> from maerestore.features import find_items                                              # doctest: +SKIP
        >>> report = extract_ray(find_items(["photos"]), ExtractorSettings(), Path("photos.parquet"),
        ...                      ray_workers=4)                                                     # doctest: +SKIP
    """
    for name, value in (("ray_workers", ray_workers), ("shard", shard)):
        if value is not None and value < 1:
            raise MaerestoreError(f"{name} must be at least 1, got {value}")
    cluster.check_ray()
    engine = ray_engine(settings, address, ray_workers, workers, shard)
    return extract(
        items,
        on_cpu(settings),
        out,
        workers=workers,
        half=half,
        overwrite=overwrite,
        retry=retry,
        some=some,
        engine=engine,
        progress=progress,
        failed=failed,
    )


def ray_engine(
    settings: Loader,
    address: str | None = None,
    ray_workers: int | None = None,
    workers: int | None = None,
    shard: int = SHARD,
) -> Engine:
    """The engine that `extract_ray` uses; arguments as there."""

    def run(items: Sequence[Item], _: Loader, extractor: Extractor, half: bool) -> Iterator[FeatureTable]:
        shards = [list(items[i : i + shard]) for i in range(0, len(items), shard)]
        with cluster.ray_cluster(address) as ray:
            share = cluster.share_of(cluster.nodes_of(ray), getattr(settings, "device", "auto"), ray_workers)
            arguments = {"settings": settings, "workers": workers or share.threads, "half": half}
            yield from cluster.run_actors(ray, FeatureActor, arguments, shards, share)

    return run


class FeatureActor:
    """Computes the features of shards, in a process of its own.

    Args:
        settings: load the extractor.
        workers: number of threads that decode.
        half: whether features are float16.
    """

    def __init__(self, settings: Loader, workers: int, half: bool) -> None:
        self.settings, self.half = settings, half
        self.extractor = settings.load()
        self.engine = local_engine(workers)

    def __call__(self, items: Sequence[Item]) -> FeatureTable:
        """Compute the features of a shard."""
        return join_tables(list(self.engine(items, self.settings, self.extractor, self.half)))


def on_cpu(settings: Loader) -> Loader:
    """The settings for a process that only needs the fingerprint: the CPU, as the GPU is left to the actors."""
    return dataclasses.replace(settings, device="cpu") if isinstance(settings, ExtractorSettings) else settings
