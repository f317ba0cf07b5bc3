"""The photos of a table, filled on the processes and machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maerestore import cluster
from maerestore.errors import MaerestoreError
from maerestore.inpaint.rows import Pair
from maerestore.inpaint.table import Engine, FillSettings, Outcome, fill_pair

__all__ = ["FillActor", "ray_engine"]

_TOGETHER = 4  # pairs of a task: a fill takes seconds, and handing over a task milliseconds


def ray_engine(address: str | None = None, workers: int | None = None) -> Engine:
    """An engine for `maerestore.inpaint.table.fill_table`: each actor loads the model once.

    All machines see photos, masks and the output folder under the same paths. A fill is that of one process with the
    same number of threads, byte for byte on one kind of hardware.

    Args:
        address: of the cluster, as `ray.init` takes it; None for Ray on this machine.
        workers: actors; None for one a GPU, or else one a CPU.

    Raises:
        MaerestoreError: Ray is missing or cannot be reached.

    Example:
        >>> report = fill_table(pairs, FillSettings(), engine=ray_engine(workers=4))    # doctest: +SKIP
    """
    if workers is not None and workers < 1:
        raise MaerestoreError(f"workers must be at least 1, got {workers}")
    cluster.check_ray()

    def run(pairs: Sequence[Pair], settings: FillSettings, overwrite: bool) -> Iterator[tuple[Pair, Outcome]]:
        tasks = [list(pairs[i : i + _TOGETHER]) for i in range(0, len(pairs), _TOGETHER)]
        of_row = {pair.row: pair for pair in pairs}
        with cluster.ray_cluster(address) as ray:
            share = cluster.share_of(cluster.nodes_of(ray), settings.device, workers)
            arguments = {"settings": settings, "overwrite": overwrite}
            for done in cluster.run_actors(ray, FillActor, arguments, tasks, share):
                for row, outcome in done:
                    yield of_row[row], outcome

    return run


class FillActor:
    """Fills photo after photo in a process of its own.

    Args:
        settings: of the model and the fills.
        overwrite: replace files that are there.
    """

    def __init__(self, settings: FillSettings, overwrite: bool) -> None:
        self.settings, self.overwrite = settings, overwrite
        self.inpainter = settings.load()

    def __call__(self, pairs: Sequence[Pair]) -> list[tuple[int, Outcome]]:
        """The number of each row, and what became of it."""
        return [(pair.row, self._fill(pair)) for pair in pairs]

    def _fill(self, pair: Pair) -> Outcome:
        # A task that is done a second time, after its machine was lost, finds some of its outputs.
        if pair.out.is_file() and not self.overwrite:
            return Outcome()
        return fill_pair(self.inpainter, pair, self.settings, self.overwrite)
