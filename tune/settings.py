"""What a person may set of a sweep: what varies (`space`), how it is searched (`search`), and where it runs (`ray`)."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config

QUICK = ("paper", "logistic", "mlp1", "svm", "noise")
"""Attackers that are cheap and find nearly what the whole fleet finds: for trials, of which there are many."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, evenly or, with `log`, by their order of magnitude."""

    low: int | float
    high: int | float
    log: bool = False


Numbers = Range | list[float] | None


@dataclass(frozen=True)
class SpaceConfig:
    """What a sweep varies. A key that is left out stays as the run's settings say.

    Args:
        taps: What to protect, alone or together: [backbone, arm, backbone+arm].
        attributes: What to hide, alone or together: [gender, gender+age_group]. A trial's terms share a weight of 1.
        objective: Such as [confusion, adversarial].
        options: Settings of objectives, such as {prior: [uniform, class], known: [frozen, alternating]}; each varies
            where the objective has it.
        backbone: Such as [resnet18, mobilenet_v3_large]; each has its own unprotected network and adversaries.
        channel: Settings of the channel, such as {norm: {low: 6, high: 24}, numbers: [4, 8], at: [layer3, layer4]}.
        lr: Learning rate of the private network, {low: 1e-4, high: 1e-3, log: true} or a list.
        seed: Of the private network's training.
        lambda_: Weight of the objective, {low: 0.1, high: 0.9} or a list.
    """

    taps: list[str] | None = None
    attributes: list[str] | None = None
    objective: list[str] | None = None
    options: dict[str, list[Any]] | None = None
    backbone: list[str] | None = None
    channel: dict[str, Range | list[Any]] | None = None
    lr: Numbers = None
    seed: list[int] | None = None
    lambda_: Numbers = None


@dataclass(frozen=True)
class SearchConfig:
    """How trials are chosen and measured.

    Args:
        algorithm: optuna (its multi-objective TPE sampler), random, or grid: every combination of lists.
        goal: front is more utility and less leakage at once; utility, leakage or score (utility minus leakage) alone.
        trials: How many; a grid has as many as it has combinations.
        concurrent: Trials at a time; 0 is as many as there are GPUs or, without, cores for.
        stop_early: Stop the worst two thirds of trials early (ASHA); needs a single goal.
        grace: Epochs that no trial is stopped before.
        measure_every: Epochs between measurements of leakage; 0 measures at a trial's end only.
        retries: How often a trial that failed or was killed is taken up again from its last checkpoint.
        taps: Where attackers look at every trial; empty is wherever one of them protects.
        attributes: What attackers are after; empty is whatever one of them hides.
        attackers: Who attacks each trial; whoever is on the front is audited in the end.
        audit: How networks on the front are judged on the test split: full, by the whole fleet; quick, by `attackers`;
            none.
        seed: Of the search.
    """

    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    goal: Literal["front", "utility", "leakage", "score"] = "front"
    trials: int = 16
    concurrent: int = 0
    stop_early: bool = False
    grace: int = 1
    measure_every: int = 0
    retries: int = 2
    taps: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    attackers: list[str] = field(default_factory=lambda: list(QUICK))
    audit: Literal["full", "quick", "none"] = "full"
    seed: int = 0


@dataclass(frozen=True)
class RayConfig:
    """Where trials run.

    Args:
        address: Of a running Ray cluster, `auto` or ray://HOST:10001; empty starts one here, which ends with the sweep.
        dashboard: Whether a cluster that is started here has Ray's dashboard.
        wheel: This package as a wheel, for a cluster whose machines do not have it.
        storage: Folder or URL (s3://, gs://) that all machines reach, for trials and their checkpoints; each sweep has
            a folder in it, of the same name as its output folder. Empty is the output folder.
        workers: Ranks per trial, on one machine.
        cpus: Cores, and threads, per rank; 0 shares this machine's among the trials at a time.
        gpus: GPUs per rank, also a fraction of one; -1 is one where there are GPUs.
    """

    address: str = ""
    dashboard: bool = False
    wheel: str = ""
    storage: Uri = Uri("")
    workers: int = 1
    cpus: int = 0
    gpus: float = -1.0


@dataclass(frozen=True)
class SweepConfig:
    """All settings of a sweep: those that every trial starts from (`config`), and the sections above.

    `fingerprint` is the data set's; with `quiet`, lines for a log are printed instead of a live table.
    """

    config: Config
    space: SpaceConfig
    search: SearchConfig
    ray: RayConfig
    fingerprint: str
    quiet: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the results: not where a sweep runs, nor how much of it at a time."""
        config = self.config.to_dict()
        for key in ("tracking", "output", "mirror"):
            del config[key]
        for key in ("checkpoints", "patience"):
            del config["engine"][key]
        if not config["engine"]["compile"]:  # which did not always exist
            del config["engine"]["compile"]
        for key in ("shards", "mode", "cache", "cache_gib", "disk_gib", "workers"):
            del config["data"][key]
        config["data"]["fingerprint"] = self.fingerprint
        space = asdict(self.space)
        space["lambda"] = space.pop("lambda_")
        space = {key: value for key, value in space.items() if value is not None}
        search = {key: value for key, value in asdict(self.search).items() if key not in ("concurrent", "retries")}
        return {**config, "space": space, "search": search}
