"""The ranks of one trial: its own process is the first, the others are Ray tasks in the rest of its reservation.

All are on one machine, with one GPU or share of it each, and a port of their own. Where one dies the others' next
collective call fails, so the trial does, and is taken up again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from privatenet.distributed.place import Place, free_port
from privatenet.distributed.ranks import Ranks, join, leave

Work = Callable[[Ranks], None]


@dataclass(frozen=True)
class Workers:
    """How many ranks a trial has, and the cores and GPUs of each."""

    count: int
    cpus: int
    gpus: float

    @property
    def reusable(self) -> bool:
        """Whether a process can take one trial after the other: it joins ranks once, as the engine remembers them."""
        return self.count == 1

    @property
    def reservation(self) -> tune.PlacementGroupFactory:
        """What Tune sets aside for a trial."""
        bundle = {"CPU": float(self.cpus)} | ({"GPU": self.gpus} if self.gpus else {})
        return tune.PlacementGroupFactory([bundle] * self.count, strategy="STRICT_PACK")


def on_every_rank(work: Work, workers: Workers) -> None:
    """Let every rank do `work`; called in the trial's own process, which is rank 0."""
    port = free_port()
    places = [Place(rank, workers.count, port=port, threads=workers.cpus) for rank in range(workers.count)]
    group = ray.util.get_current_placement_group()
    others = [_start(work, place, workers, group) for place in places[1:]]
    try:
        _run(work, places[0])
        ray.get(others)
    except BaseException:
        for other in others:
            ray.cancel(other, force=True)
        raise


def _start(work: Work, place: Place, workers: Workers, group: PlacementGroup) -> ray.ObjectRef:
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place.rank)
    task = ray.remote(max_calls=1, max_retries=0)(_run)  # see `Workers.reusable`
    task = task.options(num_cpus=workers.cpus, num_gpus=workers.gpus, scheduling_strategy=strategy)
    return task.remote(work, place)


def _run(work: Work, place: Place) -> None:
    ranks = join(place)
    try:
        work(ranks)
    finally:
        if place.world_size > 1:
            leave()  # a lone rank stays one: its process may take the next trial
