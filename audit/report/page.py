"""The report: one page that needs nothing but a browser, the same in Markdown, and the charts as files."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from pydantic_core import to_json

from privatenet.audit.attack.findings import Findings, Leak
from privatenet.audit.errors import AuditError
from privatenet.audit.report.cells import Table, markdown_table
from privatenet.audit.report.certified import audit_certificates_table, certificate_markdown, certificate_sentences
from privatenet.audit.report.curves import LambdaMark
from privatenet.audit.report.drawings import Drawings, draw
from privatenet.audit.report.frame import render
from privatenet.audit.report.style import Chart
from privatenet.audit.report.tables import (
    controls_table,
    leaks_table,
    measures_table,
    networks_table,
    protocol_table,
)
from privatenet.audit.report.text import (
    DASH,
    count,
    interval,
    markdown,
    over_draws,
    percent,
)
from privatenet.audit.report.trade_off import Mark
from privatenet.audit.report.verdict import Verdict, at_protected, beyond_target, comparison, verdicts
from privatenet.data_shards.files import replacing

READING = (
    (
        "utility",
        "accuracy on the target attribute; where a channel adds noise, the mean over draws of it, as one draw is luck.",
    ),
    (
        "deployment",
        "what an attacker reads of single pictures: enclave, the features themselves; split, what is sent of them, "
        "once or as the mean of several releases; output, the answer's numbers (logits); label, the bare answer.",
    ),
    (
        "best attacker",
        "the one with the lowest cross-entropy in tuning, on the faces where it reads more of the test samples.",
    ),
    (
        "faces",
        "what attackers learn from: training, the network's own; or fresh, which no stage of training learnt from.",
    ),
    ("majority", "accuracy of always answering the most frequent class; an attacker at this line has learnt nothing."),
    (
        "floor",
        "accuracy of who sees only the true target label; a network that always names it right cannot hide this much.",
    ),
    (
        "left",
        "accuracy above the floor, as a share of what is read above it of the unprotected network's backbone; by "
        "chance it may lie below 0: nothing is left then.",
    ),
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
        "where the figure lies at the protocol's confidence, were other people drawn (other faces, where it is unknown "
        "who is in them); stronger attackers may exceed it.",
    ),
)


def write_report(
    findings: Findings,
    folder: Path,
    marks: Sequence[Mark] = (),
    lambda_marks: Mapping[str, Sequence[LambdaMark]] | None = None,
    faces: Sequence[tuple[bytes, str]] = (),
) -> None:
    """Write report.html, report.md and figures/ into `folder`: the same bytes for the same findings.

    `marks` are other networks for the trade-off; `lambda_marks` are curves by attribute or tap-attribute; `faces` are
    PNG pictures with captions. Raises `AuditError` for a mark whose attribute is not in the findings, or empty where
    several are private.
    """
    attributes = tuple(dict.fromkeys(leak.attribute for leak in findings.audited.leaks))
    for mark in marks:
        if mark.attribute not in attributes and (mark.attribute or len(attributes) != 1):
            raise AuditError(f"mark {mark.label!r} is of {mark.attribute!r}; accepted: {', '.join(attributes)}")
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawings = draw(findings, marks, lambda_marks or {}, pictures)
    for place, (picture, _) in enumerate(faces):
        with replacing(pictures / f"face-{place:02d}.png") as stream:
            stream.write(picture)
    with replacing(folder / "report.html") as stream:
        stream.write(_html(findings, drawings, faces).encode())
    with replacing(folder / "report.md") as stream:
        stream.write(_markdown(findings, drawings, [caption for _, caption in faces]).encode())


def _html(findings: Findings, drawings: Drawings, faces: Sequence[tuple[bytes, str]]) -> str:
    return render(
        Path(__file__).with_name("page.html"),
        title=f"Leakage audit: {findings.dataset}",
        kind="Leakage audit",
        package=findings.package,
        findings=findings,
        facts=_facts(findings),
        verdicts=[(verdict, _reference(verdict, findings), _track(verdict.leak)) for verdict in verdicts(findings)],
        certificates=audit_certificates_table(findings),
        sentences=certificate_sentences(findings.audited.certificates),
        taps=len({leak.tap for leak in findings.audited.leaks}),
        leaks=leaks_table(findings),
        measures=measures_table(findings),
        controls=controls_table(findings),
        networks=networks_table(findings),
        protocol=protocol_table(findings),
        groups=drawings.groups,
        curves=drawings.curves,
        training=drawings.training,
        reading=READING,
        identity=_identity(findings),
        config=_config(findings),
        faces=[(f"data:image/png;base64,{base64.b64encode(picture).decode()}", caption) for picture, caption in faces],
        findings_json=_embedded(findings),
        exact=_exact,
        count=count,
    )


def _facts(findings: Findings) -> list[tuple[str, str, str]]:
    """The audited network's facts: name, value, and its interval or reference."""
    network, samples = findings.audited, sorted({leak.samples for leak in findings.audited.leaks})
    beside = [interval(network.utility), f"majority {percent(network.utility_majority)} %", over_draws(network.draws)]
    facts = [
        (
            f"utility: {network.target}",
            f"{percent(network.utility.value)} %",
            "; ".join(filter(None, beside)),
        ),
        ("objective", network.objective or DASH, ""),
        ("lambda", DASH if network.lambda_ is None else f"{network.lambda_:g}", ""),
        ("protected", ", ".join(network.protected) or "nothing", ""),
        ("test faces", " to ".join(f"{size:,}" for size in sorted({*samples[:1], *samples[-1:]})) or DASH, ""),
    ]
    return [fact for fact in facts if fact[1] != DASH]


def _reference(verdict: Verdict, findings: Findings) -> str:
    """What to read a verdict against: the unprotected network, where the attribute is protected, and what the target
    label alone gives away."""
    leak = verdict.leak
    sentences = comparison(leak, findings), at_protected(leak, findings), beyond_target(leak.attribute, findings)
    return " ".join(filter(None, sentences))


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
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


def _exact(figure: float) -> str:
    """A figure in full, as in the JSON."""
    return to_json(figure, inf_nan_mode="null").decode()


def _markdown(findings: Findings, drawings: Drawings, captions: Sequence[str]) -> str:
    """The report in Markdown, pictures by relative links."""
    groups = drawings.groups
    parts = [f"# Leakage audit: {markdown(findings.dataset)}", "## Verdicts"]
    sentences = [f"{verdict.sentence} {_reference(verdict, findings)}" for verdict in verdicts(findings)]
    parts.append("\n".join(f"- {markdown(sentence)}" for sentence in sentences))
    facts = [(name, f"{value} {more}".strip()) for name, value, more in _facts(findings)]
    parts.append("\n".join(f"- {markdown(name)}: {markdown(value)}" for name, value in facts))
    if findings.audited.certificates:
        parts += ["## Certificate", *certificate_markdown(findings)]
    parts += ["## What leaks", *_section(leaks_table(findings)), *_section(measures_table(findings))]
    parts += [_image(group.overview) for group in groups]
    parts += ["## Attackers", *(_image(chart) for group in groups for chart in group.attackers)]
    parts += ["## Confusion", *(_image(chart) for group in groups for chart in group.confusions)]
    parts += ["## Utility against leakage", *(_image(group.trade_off) for group in groups)]
    parts += ["## Lambda", *map(_image, drawings.curves)] if drawings.curves else []
    parts += ["## Controls", *_section(controls_table(findings))]
    if captions:
        faces = [f"![{markdown(text)}](figures/face-{place:02d}.png)" for place, text in enumerate(captions)]
        parts += ["## Faces", *faces]
    parts.append("## Every attacker")
    parts += [part for group in groups for table, chart in group.details for part in (*_section(table), _image(chart))]
    parts += ["## Training", *map(_image, drawings.training)] if drawings.training else []
    parts += ["## How to read this", "\n".join(f"- **{name}**: {meaning}" for name, meaning in READING)]
    parts += ["## Protocol", *_section(protocol_table(findings))]
    parts += ["## Identity", "\n".join(f"- {name}: {markdown(value)}" for name, value in _identity(findings))]
    parts += [*_section(networks_table(findings)), f"```json\n{_config(findings).replace('```', '` ` `')}\n```"]
    return "\n\n".join(parts) + "\n"


def _section(table: Table) -> tuple[str, str]:
    return f"**{markdown(table.caption)}**", markdown_table(table)


def _image(chart: Chart) -> str:
    return f"![{markdown(chart.text)}](figures/{chart.name}.png)"
