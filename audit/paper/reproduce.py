"""Runs all of the paper on a sharded data set: every network and adversary of its tables and Fig. 2, and timings.

target  known (adversaries of Table 1)                              under the output
<objective>-<tap>-<attribute>/{private, unknown}                    Table 2
lambda-<value>/{private, unknown}                                   Fig. 2, but for the network it shares with Table 2
"""

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.intervals import recorded_accuracy
from privatenet.audit.attack.samples import judged_rows, people_in
from privatenet.audit.paper.comparison import lambda_marks, markdown_page
from privatenet.audit.paper.plan import Case, ReproduceConfig, adversaries, cases, complete
from privatenet.audit.paper.reproduction import (
    VERSION,
    Adversary,
    Latency,
    PrivateNetwork,
    Reproduction,
    notes,
    robustness,
    write_reproduction,
)
from privatenet.audit.report.curves import describe_lambda, lambda_curves
from privatenet.audit.report.style import save
from privatenet.data_shards.files import replacing
from privatenet.distributed import agree
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import channels_last, evaluation_precision, layout, precision
from privatenet.distributed.progress import Say
from privatenet.distributed.provenance import code_version
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.stages.trained import load_network
from privatenet.distributed.tracking.tracker import log_files, parent_run
from privatenet.models.adversary import Pair

WARM_UP = 10

Test = Mapping[str, Mapping[str, Any]]


def reproduce(settings: ReproduceConfig, config: Config, faces: Faces, ranks: Ranks, say: Say) -> Reproduction:
    """Train the networks that are missing, time all, and write the results. All ranks call it together.

    Raises `AuditError` before anything is started where the settings do not fit the data set or the network.
    """
    settings = complete(settings, config, faces.schema)
    table, sweep = cases(settings, config.protect.lambda_)
    output = Path(config.output)
    with ExitStack() as stack:
        opening = parent_run(config.tracking, output, "reproduce")
        config = replace(config, tracking=agree.first(ranks, lambda: stack.enter_context(opening)))
        target, known = _unprotected(settings, config, faces, ranks, say)
        todo = list(dict.fromkeys([*table, *sweep]))
        private, unknown = {}, {}
        for place, case in enumerate(todo):
            say(f"{case.name} ({place + 1} of {len(todo)})")
            stages = [run_stage(stage, _config(case, config), faces, ranks, say) for stage in ("private", "adversary")]
            private[case], unknown[case] = stages
        tests = {case: (private[case].state["test"], unknown[case].state["test"]) for case in todo}
        networks = {case: _network(case, faces, *tests[case], known.state["test"]) for case in todo}
        checkpoints = {"unprotected": target, **{case.name: private[case] for case in table}}

        def conclude() -> Reproduction:
            say(f"timing {settings.repetitions} inferences of one picture")
            latencies = [
                _time(name, source, config, settings.repetitions, ranks) for name, source in checkpoints.items()
            ]
            utility = target.state["test"][faces.schema.target]
            reproduction = Reproduction(
                version=VERSION,
                package=code_version(),
                dataset=faces.schema.name,
                fingerprint=faces.fingerprint,
                target=faces.schema.target,
                utility=_accuracy(utility, faces),
                utility_majority=_majority(utility),
                unprotected=tuple(_adversary(pair, known.state["test"], faces) for pair in adversaries(settings)),
                networks=tuple(networks[case] for case in table),
                sweep=tuple(networks[case] for case in sweep),
                latencies=tuple(latencies),
                timed_on=_device(config, ranks),
                notes=notes(config, faces.schema.name),
                config=config.to_dict(),
            )
            log_files(config.tracking, _write(reproduction, output))
            return reproduction

        return agree.first(ranks, conclude)


def _unprotected(
    settings: ReproduceConfig, config: Config, faces: Faces, ranks: Ranks, say: Say
) -> tuple[Checkpoint, Checkpoint]:
    """The unprotected network and its adversaries."""
    names = [pair.name for pair in adversaries(settings)]
    attack = replace(config.attack, pairs=names, network="target")
    config = replace(config, attack=attack, protect=replace(config.protect, terms=[{"at": names[0]}]))
    return run_stage("target", config, faces, ranks, say), run_stage("adversary", config, faces, ranks, say)


def _config(case: Case, config: Config) -> Config:
    """The configuration of one private network and of its unknown adversary."""
    output = Path(config.output)
    protect = replace(
        config.protect,
        terms=[config.protect.specs[0].rewritten(case.pair, case.objective, weight=1.0)],
        lambda_=case.lambda_,
        start=str(output / "target" / "final"),
        adversaries=str(output / "known" / "final"),
    )
    attack = replace(config.attack, pairs=[case.pair.name], network="private")
    mirror = config.mirror and config.mirror / case.name
    return replace(config, output=str(output / case.name), mirror=mirror, attack=attack, protect=protect)


def _network(case: Case, faces: Faces, private: Test, unknown: Test, reference: Test) -> PrivateNetwork:
    unprotected = _adversary(case.pair, reference, faces).accuracy.value
    trained_against, anew = (_adversary(case.pair, test, faces) for test in (private, unknown))
    return PrivateNetwork(
        case.name,
        case.objective,
        case.lambda_,
        _accuracy(private[faces.schema.target], faces),
        trained_against,
        anew,
        robustness(trained_against.accuracy.value, unprotected),
        robustness(anew.accuracy.value, unprotected),
    )


def _adversary(pair: Pair, test: Test, faces: Faces) -> Adversary:
    score = test[pair.name]
    return Adversary(pair.tap, pair.attribute, _accuracy(score, faces), _majority(score), score["samples"])


def _accuracy(score: Mapping[str, Any], faces: Faces) -> Estimate:
    return recorded_accuracy(score, people_in(faces, judged_rows(faces)))


def _majority(score: Mapping[str, Any]) -> float:
    samples = int(score["samples"])
    members = round(float(score["majority"]) * samples)
    return members / max(1, samples)


def _time(name: str, source: Checkpoint, config: Config, repetitions: int, ranks: Ranks) -> Latency:
    """Time the network of `source` on one picture that is on the device already."""
    network = load_network(source).to(ranks.device).eval()
    if config.engine.channels_last:
        channels_last(network)
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
    return f"{where}, {precision(config.engine, ranks.device)}, {config.model.image_size} px"


def _write(reproduction: Reproduction, output: Path) -> list[Path]:
    """Write the result as JSON, as Markdown and, where there is a sweep, as a chart; returns the files."""
    files = [output / "reproduction.json", output / "reproduction.md"]
    write_reproduction(reproduction, files[0])
    if reproduction.sweep:
        folder = output / "figures"
        folder.mkdir(exist_ok=True)
        adversary = reproduction.sweep[0].unknown
        name, curve = f"{adversary.attribute} from {adversary.tap}", lambda_marks(reproduction)
        text = describe_lambda(name, curve, adversary.majority)
        save(lambda_curves(name, curve, adversary.majority), folder, "lambda", name, text)
        files += [folder / "lambda.svg", folder / "lambda.png"]
    with replacing(files[1]) as stream:
        stream.write(markdown_page(reproduction).encode())
    return files
