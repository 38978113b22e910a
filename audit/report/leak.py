"""What an audit says that can still be read of faces by a network's onlookers; it says nothing of one person."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from privatenet.audit.attack.findings import Findings, read_findings
from privatenet.audit.errors import AuditError
from privatenet.audit.report.text import DASH, deployment, interval, percent
from privatenet.audit.report.verdict import sharpest
from privatenet.distributed.checkpoint import Checkpoint

ENCLAVE = "enclave"


def newest_audit(source: Checkpoint) -> Findings:
    """The newest audit of these weights, of those beside the stage. Raises `AuditError` where there is none."""
    run = source.folder.parent.parent
    findings = filter(None, map(_readable, run.glob("audit-*/report/audit.json")))
    own = [each for each in findings if each.audited.sha256 == source.hash]
    if not own:
        raise AuditError(
            f"what it still tells is unknown: no audit of it is in {run}; privatenet audit {source.folder} makes one"
        )
    return max(own, key=lambda each: each.created)


def leak_table(findings: Findings) -> Table:
    """Who reads how much: for each attribute and deployment the best attacker, beside the floor and the majority."""
    leaks = findings.audited.leaks
    faces = max((leak.samples for leak in leaks), default=0)
    title = (
        f"Right answers of an audit's best attacker, %, over {faces:,} test faces; of the faces above nothing is said"
    )
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=Text(title), title_justify="left")
    table.add_column("attribute")
    table.add_column("reads")
    for heading in ("right", "interval", "floor", "majority"):
        table.add_column(heading, justify="right", no_wrap=True)
    places = dict.fromkeys((leak.attribute, deployment(leak.tap)) for leak in leaks)
    attributes = list(dict.fromkeys(leak.attribute for leak in leaks))
    for attribute, where in sorted(places, key=lambda place: attributes.index(place[0])):
        group = [leak for leak in leaks if (leak.attribute, deployment(leak.tap)) == (attribute, where)]
        leak = sharpest(group)
        accuracy, floor = leak.headline.accuracy, findings.floor(attribute)
        table.add_row(
            Text(attribute),
            Text(f"{where}, {leak.tap}" if where == ENCLAVE else where),
            percent(accuracy.value),
            interval(accuracy),
            percent(floor.value) if floor else DASH,
            percent(leak.majority),
        )
    return table


def _readable(path: Path) -> Findings | None:
    """An audit; None for one of another version, or that is no audit: whoever asks needs one that is."""
    try:
        return read_findings(path)
    except AuditError:
        return None
