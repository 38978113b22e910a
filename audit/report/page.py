"""The report: one page that needs nothing but a browser, the same in Markdown, and the charts as files."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from pydantic_core import to_json

from privatenet.audit.attack.findings import Findings, Leak
from privatenet.audit.errors import AuditError
from privatenet.audit.report import charts
from privatenet.audit.report.charts import Chart, LambdaPoint, Point
from privatenet.audit.report.tables import (
    Table,
    attacks_table,
    controls_table,
    leaks_table,
    markdown_table,
    networks_table,
    protocol_table,
)
from privatenet.audit.report.text import DASH, attack_name, interval, markdown, percent, whole
from privatenet.audit.report.verdict import Verdict, comparison, verdicts
from privatenet.data_shards.files import replacing

MOST = 6
"""Attackers drawn of each tap; the tables and the full charts have all."""

READING = (
    ("holds for", "the enclave deployment: an attacker reads the features themselves, of single pictures, one by one."),
    ("best attacker", "the one with the best tuning accuracy; the test samples did not choose it and judge it once."),
    ("majority", "accuracy of always answering the most frequent class; an attacker at this line has learnt nothing."),
    ("excess", "accuracy above the majority, in percentage points: 0 is what an answer without looking gets."),
    ("change", "accuracy minus the best attacker's on the unprotected network at the same tap, in points."),
    ("robustness", "the paper's form of it: the change relative to the accuracy on the unprotected network."),
    (
        "bits",
        "usable information: how much a label's entropy shrinks by the attacker's answer; a lower bound, 0 is none.",
    ),
    (
        "code length",
        "bits a label costs an attacker who learns as it goes, on fitting samples; entropy is that without looking.",
    ),
    ("balanced", "mean share found of each class, so that a rare class counts as much as a frequent one."),
    ("AUC", "chance to rank two faces of different classes rightly, averaged over classes: 0.50 is guessing."),
    (
        "interval",
        "where the figure lies at the protocol's confidence, were other faces drawn; stronger attackers may exceed it.",
    ),
)


@dataclass(frozen=True)
class Group:
    """What belongs to one private attribute."""

    attribute: str
    classes: int
    overview: Chart
    attackers: tuple[Chart, ...]
    confusions: tuple[Chart, ...]
    trade_off: Chart
    details: tuple[tuple[Table, Chart], ...]


def write_report(
    findings: Findings,
    folder: Path,
    points: Sequence[Point] = (),
    lambda_points: Mapping[str, Sequence[LambdaPoint]] | None = None,
    faces: Sequence[tuple[bytes, str]] = (),
) -> None:
    """Write report.html, report.md and figures/ into `folder`: the same bytes for the same findings.

    `points` are other networks for the trade-off; `lambda_points` are curves by attribute or tap-attribute; `faces` are
    PNG pictures with captions, shown only because they were handed over. Raises `AuditError` for a point whose
    attribute is not in the findings, or empty where several are private.
    """
    attributes = tuple(dict.fromkeys(leak.attribute for leak in findings.audited.leaks))
    for point in points:
        if point.attribute not in attributes and (point.attribute or len(attributes) != 1):
            raise AuditError(f"point {point.label!r} is of {point.attribute!r}; accepted: {', '.join(attributes)}")
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    groups = [_group(findings, attribute, points, drawn) for attribute in attributes]
    given = [(name, curve) for name, curve in (lambda_points or {}).items() if curve]
    curves = [_lambda_chart(findings, place, name, curve, drawn) for place, (name, curve) in enumerate(given)]
    training = [
        charts.save(
            charts.training_curves(network),
            drawn,
            f"training-{network.role}",
            f"Training, {network.role} network",
            charts.describe_training(network),
        )
        for network in findings.networks
        if network.curves
    ]
    for place, (picture, _) in enumerate(faces):
        with replacing(drawn / f"face-{place:02d}.png") as stream:
            stream.write(picture)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        title=f"Leakage audit: {findings.dataset}",
        findings=findings,
        facts=_facts(findings),
        verdicts=[(judged, _beside(judged, findings), _track(judged.leak)) for judged in verdicts(findings)],
        leaks=leaks_table(findings),
        controls=controls_table(findings),
        networks=networks_table(findings),
        protocol=protocol_table(findings),
        groups=groups,
        curves=curves,
        training=training,
        reading=READING,
        identity=_identity(findings),
        config=_config(findings),
        faces=[(f"data:image/png;base64,{base64.b64encode(picture).decode()}", caption) for picture, caption in faces],
        figures_json=_embedded(findings),
        exact=_exact,
        dash=DASH,
    )
    with replacing(folder / "report.html") as stream:
        stream.write(text.encode())
    with replacing(folder / "report.md") as stream:
        stream.write(_markdown(findings, groups, curves, training, [caption for _, caption in faces]).encode())


def _group(findings: Findings, attribute: str, others: Sequence[Point], drawn: Path) -> Group:
    """Draw all charts of one attribute."""
    leaks = [(place, leak) for place, leak in enumerate(findings.audited.leaks) if leak.attribute == attribute]
    few, full, answers = [], [], []
    beside = [leak for _, leak in leaks]
    for place, leak in leaks:
        name, title = f"{place:02d}-{_slug(leak.attribute)}-{_slug(leak.tap)}", f"{leak.attribute} from {leak.tap}"
        best, who = leak.headline, attack_name(leak.headline)
        short, said = charts.attackers(leak, MOST, beside), charts.describe_attackers(leak, MOST)
        right = f"Best: {who}, {whole(best.accuracy, percent, ' %')}"
        few.append(charts.save(short, drawn, f"attackers-{name}", f"Attackers, {title}", said, right))
        every, said = charts.attackers(leak, beside=beside), charts.describe_attackers(leak)
        chart = charts.save(every, drawn, f"every-attacker-{name}", f"Every attacker, {title}", said)
        full.append((attacks_table(leak, f"networks.0.leaks.{place}"), chart))
        answer, said = charts.confusion(leak), charts.describe_confusion(leak)
        answers.append(
            charts.save(answer, drawn, f"confusion-{name}", f"Confusion, {title}", said, f"Answers of {who}")
        )
    name = f"{leaks[0][0]:02d}-{_slug(attribute)}"
    spread = _whiskers(findings)
    taps, said = charts.best_of(findings, attribute), charts.describe_best_of(findings, attribute)
    overview = charts.save(taps, drawn, f"best-{name}", f"Best attackers, {attribute}", said, spread)
    trade, said = (
        charts.trade_off(findings, attribute, others),
        charts.describe_trade_off(findings, attribute, others),
    )
    trade_off = charts.save(
        trade,
        drawn,
        f"trade-off-{name}",
        f"Trade-off, {attribute}",
        said,
        f"{spread} Numbers beside points are lambda.",
    )
    return Group(attribute, len(leaks[0][1].classes), overview, tuple(few), tuple(answers), trade_off, tuple(full))


def _lambda_chart(findings: Findings, place: int, name: str, curve: Sequence[LambdaPoint], drawn: Path) -> Chart:
    leaks = [leak for leak in findings.audited.leaks if name in (leak.attribute, f"{leak.tap}-{leak.attribute}")]
    majority = leaks[0].majority if leaks else None
    chart, said = charts.lambda_curves(name, curve, majority), charts.describe_lambda(name, curve, majority)
    drawn_as = f"lambda-{place:02d}-{_slug(name)}"
    return charts.save(chart, drawn, drawn_as, f"Lambda, {name}", said, _whiskers(findings))


def _whiskers(findings: Findings) -> str:
    return f"Whiskers are {100 * findings.protocol.confidence:.3g} % intervals."


def _facts(findings: Findings) -> list[tuple[str, str, str]]:
    """What the head of the page says of the audited network: name, value, and its interval or reference."""
    network, tested = findings.audited, sorted({leak.samples for leak in findings.audited.leaks})
    majority = f"majority {percent(network.utility_majority)} %"
    facts = [
        (
            f"utility: {network.target}",
            f"{percent(network.utility.value)} %",
            f"{interval(network.utility)}; {majority}",
        ),
        ("objective", network.objective or DASH, ""),
        ("lambda", DASH if network.lambda_ is None else f"{network.lambda_:g}", ""),
        ("protected", ", ".join(network.protected) or "nothing", ""),
        ("test faces", " to ".join(f"{size:,}" for size in sorted({*tested[:1], *tested[-1:]})) or DASH, ""),
    ]
    return [fact for fact in facts if fact[1] != DASH]


def _beside(judged: Verdict, findings: Findings) -> str:
    """What to hold a verdict against: the unprotected network, and what the target label alone gives away."""
    floor = next(
        (c for c in findings.controls if (c.kind, c.attribute) == ("target-label", judged.attribute)),
        None,
    )
    told = f"The true {findings.audited.target} alone gives {percent(floor.accuracy.value)} %." if floor else ""
    return " ".join(part for part in (comparison(judged.leak, findings), told) if part)


def _track(leak: Leak) -> dict[str, float] | None:
    """Where a verdict's figures lie on a line from 0 to 100 %; None where one is undefined."""
    accuracy = leak.headline.accuracy
    places = {"majority": leak.majority, "value": accuracy.value, "low": accuracy.low, "high": accuracy.high}
    if any(place != place for place in places.values()):
        return None
    return {name: round(100 * place, 2) for name, place in places.items()}


def _identity(findings: Findings) -> list[tuple[str, str]]:
    network = findings.audited
    return [
        ("checkpoint", network.checkpoint or DASH),
        ("its sha256", network.sha256 or DASH),
        ("data set", findings.dataset),
        ("its fingerprint", findings.fingerprint),
        ("privatenet", findings.package),
        ("created", findings.created),
        ("format", f"audit.json, version {findings.version}"),
    ]


def _config(findings: Findings) -> str:
    return json.dumps(json.loads(to_json(findings.config)), indent=2, ensure_ascii=False)


def _embedded(findings: Findings) -> Markup:
    """The findings as JSON that cannot end the element it stands in; what is undefined is null."""
    text = to_json(findings, inf_nan_mode="null").decode()
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _exact(figure: float) -> str:
    """A figure in full, as in the JSON."""
    return to_json(figure, inf_nan_mode="null").decode()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:40] or "unnamed"


def _markdown(
    findings: Findings,
    groups: Sequence[Group],
    curves: Sequence[Chart],
    training: Sequence[Chart],
    captions: Sequence[str],
) -> str:
    """The report in Markdown, pictures by relative links."""
    parts = [f"# Leakage audit: {markdown(findings.dataset)}", "## Verdicts"]
    said = [f"- {markdown(f'{judged.sentence} {_beside(judged, findings)}')}" for judged in verdicts(findings)]
    parts.append("\n".join(said))
    parts.append(
        "\n".join(
            f"- {markdown(name)}: {markdown(f'{value} {more}'.strip())}" for name, value, more in _facts(findings)
        )
    )
    parts += ["## What leaks", *_section(leaks_table(findings))]
    parts += [_image(group.overview) for group in groups]
    parts += ["## Attackers", *(_image(chart) for group in groups for chart in group.attackers)]
    parts += ["## Confusion", *(_image(chart) for group in groups for chart in group.confusions)]
    parts += ["## Utility against leakage", *(_image(group.trade_off) for group in groups)]
    parts += ["## Lambda", *map(_image, curves)] if curves else []
    parts += ["## Controls", *_section(controls_table(findings))]
    if captions:
        shown = [f"![{markdown(text)}](figures/face-{place:02d}.png)" for place, text in enumerate(captions)]
        parts += ["## Faces", *shown]
    parts.append("## Every attacker")
    parts += [part for group in groups for table, chart in group.details for part in (*_section(table), _image(chart))]
    parts += ["## Training", *map(_image, training)] if training else []
    parts += ["## How to read this", "\n".join(f"- **{name}**: {meaning}" for name, meaning in READING)]
    parts += ["## Protocol", *_section(protocol_table(findings))]
    parts += ["## Identity", "\n".join(f"- {name}: {markdown(value)}" for name, value in _identity(findings))]
    parts += [*_section(networks_table(findings)), f"```json\n{_config(findings).replace('```', '` ` `')}\n```"]
    return "\n\n".join(parts) + "\n"


def _section(table: Table) -> tuple[str, str]:
    return f"**{markdown(table.caption)}**", markdown_table(table)


def _image(chart: Chart) -> str:
    return f"![{markdown(chart.text)}](figures/{chart.name}.png)"
