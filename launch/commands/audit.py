"""`privatenet audit`: attack a trained network and say what leaks, as a page, tables and a model card."""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from privatenet.audit.attack.findings import Findings, read_findings, write_findings
from privatenet.audit.errors import AuditError
from privatenet.audit.paper.reproduction import Reproduction, read_reproduction
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.data_shards.uri import Uri
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import ConfigError, EngineConfig, TrackingConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.progress import WorkProgress
from privatenet.distributed.ranks import join, launched, leave
from privatenet.launch.exits import LEAKS, guarded
from privatenet.launch.launcher import launch

REPORT = "report"


def main(argv: Sequence[str]) -> int:
    """Audit what `argv` names, on the ranks that a launcher made, or makes here; returns the exit code."""
    return guarded(lambda: _main([word for word in argv if not word.startswith("--local_rank")]))


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet audit",
        description="Attack a trained network with every attacker there is and say, with intervals, how much of each "
        "private attribute can be read at each tap. Leaves a page, tables, figures and a model card. An interrupted "
        "audit goes on where it was, and what one audit computed the next one finds.",
        epilog="On several machines: deepspeed --hostfile H --module privatenet.launch.commands.audit CHECKPOINT ...",
        exit_on_error=False,
        allow_abbrev=False,
    )
    built.add_argument("checkpoint", help="Folder of a target or private network, such as runs/demo/private.")
    built.add_argument("--config", action="config", help="YAML file of settings; later flags override it.")
    built.add_class_arguments(AuditConfig, as_group=False)
    help_text = "Folder or URL of the data set; empty: where it was trained, without the name and password of a URL."
    built.add_argument("--shards", default=Uri(), type=Uri, help=help_text)
    built.add_argument("--output", default="", type=str, help="Folder of the report; empty: audit-<part> in the run's.")
    built.add_argument("--faces", default=0, type=int, help="Test pictures to show in the report; none unless asked.")
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
    built.add_argument("--ranks", default=1, type=int, help="Processes that share the work; one per GPU, say.")
    built.add_class_arguments(TrackingConfig, "tracking")
    return built


def _main(argv: list[str]) -> int:
    try:
        values = parser().parse_args(_limits(argv)).as_dict()
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    limits = values["fail_above"]
    fields = AuditConfig.__dataclass_fields__
    config = AuditConfig(**{name: values[name] for name in fields})
    source = _open(Path(values["checkpoint"]))
    trained = source.state["config"]
    beside = {path: read_findings(Path(path)) for path in values["beside"]}
    sweep = read_reproduction(Path(values["sweep"])) if values["sweep"] else None
    if values["ranks"] > 1 and not launched():
        return launch("privatenet.launch.commands.audit", argv, values["ranks"])
    ranks = join()
    # The engine takes seconds to import: not before the settings are known to be good.
    from privatenet.audit.attack.protocol import audit, check, excess_above

    try:
        data = replace(DataConfig(**trained["data"]), **({"shards": values["shards"]} if values["shards"] else {}))
        data = replace(data, cache=data.cache if Path(data.cache).is_dir() else "")
        faces = Faces(data, ranks)
        wanted = check(config, source, faces)
        for attribute in limits:
            if attribute not in wanted.attributes:
                raise AuditError(
                    f"fail-above: {attribute!r} is not audited: accepted are {', '.join(wanted.attributes)}"
                )
        with WorkProgress(ranks.first) as progress:
            findings = audit(config, source, faces, EngineConfig(**trained["engine"]), ranks, progress.step)
    finally:
        leave()
    if findings is None:
        return 0
    folder = (
        Path(values["output"])
        if values["output"]
        else source.folder.parent.parent / f"audit-{source.folder.parent.name}"
    )
    _report(findings, folder, beside, sweep, _faces(faces, values["faces"]))
    _track(findings, folder, TrackingConfig(**values["tracking"]), asdict(wanted))
    broken = excess_above(findings, limits)
    for line in broken:
        print(f"privatenet: too much leaks: {line}", file=sys.stderr)
    return LEAKS if broken else 0


def _open(folder: Path) -> Checkpoint:
    """A part's finished checkpoint, or any checkpoint folder."""
    return checkpoint.load(folder / "final" if (folder / "final").is_dir() else folder)


def _limits(argv: list[str]) -> list[str]:
    """Let `--fail-above gender=0.05` stand for `--fail-above {gender: 0.05}`."""
    out = list(argv)
    for place, word in enumerate(argv):
        if place and argv[place - 1] == "--fail-above" and "=" in word:
            pairs = [pair.partition("=") for pair in word.split(",")]
            out[place] = "{" + ", ".join(f"{name.strip()}: {share.strip()}" for name, _, share in pairs) + "}"
    return out


def _report(
    findings: Findings, folder: Path, beside: Mapping[str, Findings], sweep: Reproduction | None,
    faces: list[tuple[bytes, str]],
) -> None:  # fmt: skip
    from privatenet.audit.paper.comparison import lambda_marks
    from privatenet.audit.report.card import write_card
    from privatenet.audit.report.page import write_report
    from privatenet.audit.report.tables import print_summary
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
    write_report(findings, report, marks, curves, faces)
    write_card(findings, report / "model_card.md")
    print_summary(findings)
    print(f"report   {report / 'report.html'}\ncard     {report / 'model_card.md'}\nfigures  {report / 'audit.json'}")


def _track(findings: Findings, folder: Path, config: TrackingConfig, settings: dict[str, object]) -> None:
    from privatenet.audit.attack.glance import figures
    from privatenet.distributed.tracking.tracker import Tracker

    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    tracker = Tracker(config, folder, "audit", settings, print)
    for leak in findings.audited.leaks:
        best = leak.headline
        measures = {"accuracy": best.accuracy, "auc": best.auc, "bits": best.bits}
        tracker.log({f"test/{leak.tap}-{leak.attribute}/{name}": e.value for name, e in measures.items()}, 0)
    tracker.log(figures(findings.audited.utility, findings.audited.leaks, "test"), 0)
    tracker.artifacts(folder / REPORT)
    tracker.finish(findings.audited.sha256, None, 0)


def _faces(faces: Faces, count: int) -> list[tuple[bytes, str]]:
    """The first `count` test pictures as PNG, with their labels."""
    out = []
    for row in range(min(count, len(faces.test))):
        stream = io.BytesIO()
        decode_stored(faces.test.read(row), faces.test.names[row], faces.test.image_size).save(stream, "PNG")
        labels = zip(faces.schema.attributes, faces.test.labels[row], strict=True)
        names = [attribute.classes[label] if label >= 0 else "unsure" for attribute, label in labels]
        out.append((stream.getvalue(), ", ".join(names)))
    return out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
