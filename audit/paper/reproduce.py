"""Runs all of the paper on a sharded data set: every network and adversary of its tables and Fig. 2, and timings.

target  known (adversaries of Table 1)                              under the output
<objective>-<tap>-<attribute>/{private, unknown}                    Table 2
lambda-<value>/{private, unknown}                                   Fig. 2, but for the network it shares with Table 2
"""

import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from privatenet.audit.attack.measures import recorded_accuracy
from privatenet.audit.paper.comparison import markdown_page
from privatenet.audit.paper.reproduction import (
    VERSION,
    Adversary,
    Case,
    Latency,
    PrivateNetwork,
    ReproduceConfig,
    Reproduction,
    adversaries,
    cases,
    complete,
    notes,
    robustness,
    write_reproduction,
)
from privatenet.audit.report import charts
from privatenet.data_shards.files import replacing
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.engine import evaluation_precision, layout
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.stages.stage import Say
from privatenet.distributed.stages.trained import load_network
from privatenet.distributed.tracking.tracker import code_version, log_files, parent_run
from privatenet.models.adversary import Pair
from privatenet.models.objectives.registry import option_names

WARM_UP = 10

Test = Mapping[str, Mapping[str, Any]]


def reproduce(settings: ReproduceConfig, config: Config, faces: Faces, ranks: Ranks, say: Say) -> Reproduction | None:
    """Train what is not there yet, time it, write it down. All ranks call it together; the first one gets the result.

    Raises `AuditError` before anything is started where the settings do not fit the data set or the network.
    """
    settings = complete(settings, config, faces.schema)
    table, sweep = cases(settings, config.protect.lambda_)
    output = Path(config.output)
    with parent_run(config.tracking, output, "reproduce") if ranks.first else nullcontext(config.tracking) as tracking:
        dist.barrier()  # opening a new store takes the first rank a while
        config = replace(config, tracking=tracking)
        target, known = _unprotected(settings, config, faces, ranks, say)
        todo = list(dict.fromkeys([*table, *sweep]))
        private, unknown = {}, {}
        for place, case in enumerate(todo):
            say(f"{case.name} ({place + 1} of {len(todo)})")
            own = _settings_of(case, config)
            private[case] = run_stage("private", own, faces, ranks, say)
            unknown[case] = run_stage("adversary", own, faces, ranks, say)
        if not ranks.first:
            return None
        reached = {
            case: _network(case, faces, private[case].state["test"], unknown[case].state["test"], known.state["test"])
            for case in todo
        }
        say(f"timing {settings.repetitions} inferences of one picture")
        timed = {"unprotected": target, **{case.name: private[case] for case in table}}
        utility = target.state["test"][faces.schema.target]
        found = Reproduction(
            version=VERSION,
            package=code_version(),
            dataset=faces.schema.name,
            fingerprint=faces.fingerprint,
            target=faces.schema.target,
            utility=recorded_accuracy(utility),
            utility_majority=_majority(utility),
            unprotected=tuple(_adversary(pair, known.state["test"]) for pair in adversaries(settings)),
            networks=tuple(reached[case] for case in table),
            sweep=tuple(reached[case] for case in sweep),
            latencies=tuple(_time(name, part, config, settings.repetitions, ranks) for name, part in timed.items()),
            timed_on=_device(config, ranks),
            notes=notes(config, faces.schema.name),
            config=config.to_dict(),
        )
        log_files(tracking, _write(found, output))
    return found


def _unprotected(
    settings: ReproduceConfig, config: Config, faces: Faces, ranks: Ranks, say: Say
) -> tuple[Checkpoint, Checkpoint]:
    """The unprotected network and its adversaries."""
    names = [pair.name for pair in adversaries(settings)]
    attack = replace(config.attack, pairs=names, network="target")
    own = replace(config, attack=attack, protect=replace(config.protect, terms=[{"at": names[0]}]))
    return run_stage("target", own, faces, ranks, say), run_stage("adversary", own, faces, ranks, say)


def _settings_of(case: Case, config: Config) -> Config:
    """Those of one private network and of its unknown adversary."""
    output = Path(config.output)
    protect = replace(
        config.protect,
        terms=[_term(case, config)],
        lambda_=case.lambda_,
        start=str(output / "target" / "final"),
        adversaries=str(output / "known" / "final"),
    )
    attack = replace(config.attack, pairs=[case.pair.name], network="private")
    return replace(config, output=str(output / case.name), attack=attack, protect=protect)


def _term(case: Case, config: Config) -> dict[str, Any]:
    """What a case hides, with the settings of the configuration's first term that its objective has."""
    written = config.protect.specs[0].to_dict()
    options = {name: written[name] for name in option_names(case.objective) if name in written}
    return {"at": case.pair.name, "objective": case.objective, **options}


def _network(case: Case, faces: Faces, private: Test, unknown: Test, reference: Test) -> PrivateNetwork:
    before = _adversary(case.pair, reference).accuracy.value
    known, new = _adversary(case.pair, private), _adversary(case.pair, unknown)
    return PrivateNetwork(
        case.name,
        case.objective,
        case.lambda_,
        recorded_accuracy(private[faces.schema.target]),
        known,
        new,
        robustness(known.accuracy.value, before),
        robustness(new.accuracy.value, before),
    )


def _adversary(pair: Pair, test: Test) -> Adversary:
    score = test[pair.name]
    return Adversary(pair.tap, pair.attribute, recorded_accuracy(score), _majority(score), score["samples"])


def _majority(score: Mapping[str, Any]) -> float:
    samples = int(score["samples"])
    members = round(float(score["majority"]) * samples)
    return members / max(1, samples)


def _time(name: str, part: Checkpoint, config: Config, repetitions: int, ranks: Ranks) -> Latency:
    """Time the network of `part` on one picture that is on the device already."""
    network = load_network(part).to(ranks.device).eval()
    if config.engine.channels_last:
        network.to(memory_format=torch.channels_last)
    size = config.model.image_size
    picture = layout(torch.rand(1, 3, size, size, device=ranks.device), config.engine)
    times = []
    with evaluation_precision(config.engine, ranks.device):
        for turn in range(WARM_UP + repetitions):
            _wait(ranks)
            began = time.perf_counter()
            network(picture)
            _wait(ranks)
            if turn >= WARM_UP:
                times.append(1000 * (time.perf_counter() - began))
    return Latency(name, statistics.fmean(times), statistics.stdev(times), repetitions)


def _wait(ranks: Ranks) -> None:
    """Let the device finish: what is timed is its work, not the handing over of it."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


def _device(config: Config, ranks: Ranks) -> str:
    cuda = ranks.device.type == "cuda"
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name(ranks.device) if cuda else f"CPU, {threads} thread{'s' * (threads > 1)}"
    return f"{where}, {config.engine.precision}, {config.model.image_size} px"


def _write(found: Reproduction, output: Path) -> list[Path]:
    """Write the result as JSON, as Markdown and, where there is a sweep, as a chart; returns the files."""
    files = [output / "reproduction.json", output / "reproduction.md"]
    write_reproduction(found, files[0])
    if found.sweep:
        folder = output / "figures"
        folder.mkdir(exist_ok=True)
        hidden = found.sweep[0].unknown
        name = f"{hidden.attribute} from {hidden.tap}"
        curve = charts.lambda_points(found)
        chart = charts.lambda_curves(name, curve, hidden.majority)
        charts.save(chart, folder, "lambda", name, charts.describe_lambda(name, curve, hidden.majority))
        files += [folder / "lambda.svg", folder / "lambda.png"]
    with replacing(files[1]) as stream:
        stream.write(markdown_page(found).encode())
    return files
