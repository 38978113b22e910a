"""`privatenet audit`: attack a network, ours or any other, and say what leaks, as a page, tables and a model card."""

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from privatenet.audit.attack.findings import Findings, read_findings, write_findings
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.settings import ForeignConfig
from privatenet.audit.paper.reproduction import Reproduction, read_reproduction
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.data_shards.uri import Uri
from privatenet.distributed import agree
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.config import TrackingConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.faces import Faces
from privatenet.distributed.held import held
from privatenet.distributed.place import launched, memory_limit, num_cores
from privatenet.distributed.progress import WorkProgress
from privatenet.distributed.ranks import join, leave
from privatenet.launch.commands.subject import choose_subject, load_source
from privatenet.launch.exits import LEAKS
from privatenet.launch.launcher import launch, run_on_ranks

REPORT = "report"

RANK_BYTES = 3 * 2**30
"""What a rank of an audit may come to need: itself, and some thousand samples of a large tap."""
MOST_RANKS = 16
"""More of them on one machine were not tried."""


def main(argv: Sequence[str]) -> int:
    """Audit what `argv` names, on the ranks that a launcher made, or makes here; returns the exit code."""
    return run_on_ranks(_main, argv)


def parser() -> ArgumentParser:
    built = network_parser(
        "audit",
        "Attack a trained network with every attacker there is and say, with intervals, how much of each "
        "private attribute can be read at each tap. Leaves a page, tables, figures and a model card. An interrupted "
        "audit goes on where it was, and what one audit computed the next one finds.",
        "Folder or URL of the data set; empty: where it was trained, without the name and password of a URL.",
        "On several machines: deepspeed --hostfile H --module privatenet.launch.commands.audit CHECKPOINT ...",
        usual_ranks(),
    )
    built.add_class_arguments(ForeignConfig, as_group=False)
    built.add_class_arguments(AuditConfig, as_group=False)
    built.add_argument("--output", default="", type=str, help="Folder of the report; empty: audit-STAGE in the run's.")
    built.add_argument("--pictures", default=0, type=int, help="Test pictures in the report; none unless asked.")
    built.add_argument(
        "--beside",
        default=[],
        type=list[str],
        help="audit.json files of other networks, to stand beside this one where utility is set against leakage.",
    )
    built.add_argument("--sweep", default="", type=str, help="A reproduction.json whose curves over lambda to show.")
    built.add_argument(
        "--fail-above",
        default={},
        type=dict[str, float],
        help="Exit with code 3 where the best attacker of an attribute is further above the majority class than this "
        "share, such as gender=0.05 or {gender: 0.05, age_group: 0.1}.",
    )
    built.add_class_arguments(TrackingConfig, "tracking")
    return built


def network_parser(command: str, description: str, shards: str, epilog: str = "", ranks: int = 1) -> ArgumentParser:
    """A parser for a command on a trained network, with what all of them ask: which network, settings, data set (with
    `shards` as its help), and ranks, as many as `ranks` unless they are named."""
    built = ArgumentParser(
        prog=f"privatenet {command}", description=description, epilog=epilog, exit_on_error=False, allow_abbrev=False
    )
    help_text = "Folder of a target or private network, such as runs/demo/private."
    if command == "audit":
        built.add_argument("checkpoint", nargs="?", default="", help=f"{help_text} Or see --network, --features.")
    else:
        built.add_argument("checkpoint", help=help_text)
    built.add_argument("--config", action="config", help="YAML file of settings; later flags override it.")
    built.add_argument("--shards", default=Uri(), type=Uri, help=shards)
    built.add_argument("--ranks", default=ranks, type=PositiveInt, help="Processes that share the work.")
    return built


def usual_ranks() -> int:
    """One per GPU; without any one per core, as an attack has one thread, where there is memory for as many."""
    free = psutil.virtual_memory().available
    room = min(free, memory_limit() or free) // RANK_BYTES
    return torch.cuda.device_count() or max(1, min(num_cores(), room, MOST_RANKS))


def _main(argv: list[str]) -> int:
    values = parse_arguments(parser(), _limits(argv)).as_dict()
    config = AuditConfig(**{name: values[name] for name in AuditConfig.__dataclass_fields__})
    if values["ranks"] > 1 and not launched():
        _read_inputs(values)  # what is wrong with them is said before ranks are started
        return launch("privatenet.launch.commands.audit", argv, values["ranks"])
    ranks = join()
    try:
        beside, sweep = agree.first(ranks, lambda: _read_inputs(values))
        subject = choose_subject(values, config, ranks)
        _check_limits(values["fail_above"], subject.config)
        with held(subject.folder, ranks):
            with WorkProgress(ranks.first) as progress:
                findings = subject.audit(progress.step)
            if not ranks.first:
                return 0
            pictures = _pictures(subject.faces, values["pictures"]) if subject.faces else []
            _report(findings, subject.folder, beside, sweep, pictures)
            _track(findings, subject.folder, TrackingConfig(**values["tracking"]), asdict(subject.config))
    finally:
        leave()
    excesses = _excesses(findings, values["fail_above"])
    for line in excesses:
        print(f"privatenet: too much leaks: {line}", file=sys.stderr)
    return LEAKS if excesses else 0


def _read_inputs(values: Mapping[str, Any]) -> tuple[dict[str, Findings], Reproduction | None]:
    """Audits to set beside this one, and a sweep over lambda. What is audited is looked at, too, so far as that is
    quick."""
    subjects = [name for name in ("checkpoint", "network", "features") if values[name]]
    if len(subjects) != 1:
        raise ConfigError(
            f"audit of {' and '.join(subjects) or 'nothing'}: accepted is one of CHECKPOINT, --network and --features"
        )
    if values["network"] and not values["shards"]:
        raise ConfigError("network: say by --shards DIR on which faces it is to be audited")
    if values["checkpoint"]:
        load_source(Path(values["checkpoint"]))
    beside = {path: read_findings(Path(path)) for path in values["beside"]}
    return beside, read_reproduction(Path(values["sweep"])) if values["sweep"] else None


def _limits(argv: list[str]) -> list[str]:
    """Let `--fail-above gender=0.05` stand for `--fail-above {gender: 0.05}`."""
    words = list(argv)
    for place, word in enumerate(argv):
        if place and argv[place - 1] == "--fail-above" and "=" in word:
            pairs = [pair.partition("=") for pair in word.split(",")]
            words[place] = "{" + ", ".join(f"{name.strip()}: {share.strip()}" for name, _, share in pairs) + "}"
    return words


def _check_limits(limits: Mapping[str, float], config: AuditConfig) -> None:
    for attribute in limits:
        if attribute not in config.attributes:
            raise AuditError(f"fail-above: {attribute!r} is not audited: accepted are {', '.join(config.attributes)}")


def _excesses(findings: Findings, limits: Mapping[str, float]) -> list[str]:
    """One line for every leak of the audited network whose excess is above its attribute's limit, a share."""
    return [
        f"{leak.attribute} at {leak.tap}: {100 * leak.headline.excess.value:.1f} points above the majority class, "
        f"allowed are {100 * limits[leak.attribute]:.1f}"
        for leak in findings.audited.leaks
        if leak.headline.excess.value > limits.get(leak.attribute, math.inf)
    ]


def _report(
    findings: Findings, folder: Path, beside: Mapping[str, Findings], sweep: Reproduction | None,
    pictures: list[tuple[bytes, str]],
) -> None:  # fmt: skip
    from privatenet.audit.paper.comparison import lambda_marks
    from privatenet.audit.report.card import write_card
    from privatenet.audit.report.page import write_report
    from privatenet.audit.report.terminal import print_summary
    from privatenet.audit.report.trade_off import network_marks

    report = folder / REPORT
    report.mkdir(parents=True, exist_ok=True)
    write_findings(findings, report / "audit.json")
    audited = {leak.attribute for leak in findings.audited.leaks}
    marks = [
        mark
        for path, other in beside.items()
        for mark in network_marks(other, Path(path).parent.parent.name)
        if mark.attribute in audited
    ]
    hidden = sweep.sweep[0].unknown if sweep and sweep.sweep else None
    curves = {f"{hidden.tap}-{hidden.attribute}": lambda_marks(sweep)} if sweep and hidden else {}
    write_report(findings, report, marks, curves, pictures)
    write_card(findings, report / "model_card.md")
    print_summary(findings)
    print(f"report   {report / 'report.html'}\ncard     {report / 'model_card.md'}\nfigures  {report / 'audit.json'}")


def _track(findings: Findings, folder: Path, config: TrackingConfig, settings: dict[str, object]) -> None:
    from privatenet.audit.attack.quick import leak_metrics
    from privatenet.distributed.tracking.tracker import Tracker

    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    tracker = Tracker(config, folder, "audit", settings, print)
    for leak in findings.audited.leaks:
        best = leak.headline
        measures = {"accuracy": best.accuracy, "auc": best.auc, "bits": best.bits}
        tracker.log({f"test/{leak.tap}-{leak.attribute}/{name}": e.value for name, e in measures.items()}, 0)
    tracker.log(leak_metrics(findings.audited.utility, findings.audited.leaks, "test"), 0)
    tracker.artifacts(folder / REPORT)
    tracker.finish(findings.audited.sha256, None, 0)


def _pictures(faces: Faces, count: int) -> list[tuple[bytes, str]]:
    """The first `count` test pictures as PNG, with their labels."""
    pictures = []
    for row in range(min(count, len(faces.test))):
        stream = io.BytesIO()
        decode_stored(faces.test.read(row), faces.test.names[row], faces.test.image_size).save(stream, "PNG")
        labels = zip(faces.schema.attributes, faces.test.labels[row], strict=True)
        names = [attribute.classes[label] if label >= 0 else "unsure" for attribute, label in labels]
        pictures.append((stream.getvalue(), ", ".join(names)))
    return pictures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
