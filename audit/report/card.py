"""A model card (Mitchell et al., "Model Cards for Model Reporting", 2019), filled from the findings alone."""

from pathlib import Path

from privatenet.audit.attack.findings import Findings
from privatenet.audit.report.cells import Table, markdown_table
from privatenet.audit.report.certified import certificate_markdown
from privatenet.audit.report.tables import controls_table, leaks_table, measures_table, networks_table, protocol_table
from privatenet.audit.report.text import in_words, markdown, over_draws, percent, points, tap_name, with_interval
from privatenet.audit.report.verdict import in_full, verdicts
from privatenet.data_shards.files import replacing

UNKNOWN = "not recorded"


def write_card(findings: Findings, path: Path) -> None:
    """Write the card in Markdown, the same bytes for the same findings; what they do not say is "not recorded"."""
    sections = {
        "Model details": _details(findings),
        "Intended use": _intended(findings),
        "Out-of-scope use": _out_of_scope(findings),
        "Factors": _factors(findings),
        "Metrics": _metrics(findings),
        "Evaluation data": _evaluation(findings),
        "Training data": _training(findings),
        "Quantitative analyses": _analyses(findings),
        "Ethical considerations": _ethics(findings),
        "Caveats and recommendations": _caveats(findings),
    }
    head = f"# Model card: {markdown(findings.audited.target)} network, {markdown(findings.dataset)}"
    body = [part for heading, text in sections.items() for part in (f"## {heading}", text)]
    with replacing(path) as stream:
        stream.write(("\n\n".join([head, *body]) + "\n").encode())


def _details(findings: Findings) -> str:
    network = findings.audited
    lambda_ = "" if network.lambda_ is None else f"{network.lambda_:g}"
    return _list(
        ("predicts", network.target),
        ("stage", network.stage),
        ("objective", network.objective),
        ("lambda", lambda_),
        ("protected", ", ".join(network.protected)),
        ("affinity", network.affinity),
        ("checkpoint", network.checkpoint),
        ("sha256", network.sha256),
        ("made with", f"privatenet {findings.package}" if findings.package else ""),
        ("audited", findings.created),
        ("developed by", ""),
        ("licence", ""),
        ("contact", ""),
    )


def _intended(findings: Findings) -> str:
    network = findings.audited
    pairs = f", with {markdown(in_words(list(network.protected)))} protected" if network.protected else ""
    return f"The network was trained to predict {markdown(network.target)}{pairs}. Intended users and uses: {UNKNOWN}."


def _out_of_scope(findings: Findings) -> str:
    leaking = [verdict.attribute for verdict in verdicts(findings) if verdict.status == "leaks"]
    leaks = f" What can be read from them: {markdown(in_words(leaking))}." if leaking else ""
    return (
        f"The figures hold for features of single pictures, and say nothing of other faces than the data set's.{leaks}"
    )


def _factors(findings: Findings) -> str:
    lines = []
    for leak in {leak.attribute: leak for leak in findings.audited.leaks}.values():
        sizes = zip(leak.classes, leak.class_counts, strict=True)
        lines.append(
            f"- {markdown(leak.attribute)}: " + markdown(", ".join(f"{name} {size:,}" for name, size in sizes))
        )
    groups = "\n".join(lines) or UNKNOWN
    return f"Private attributes and their test samples:\n\n{groups}\n\nUtility by group: {UNKNOWN}."


def _metrics(findings: Findings) -> str:
    protocol = findings.protocol
    return (
        "Utility is accuracy on the target attribute, with a noisy channel the mean over draws of the noise. Leakage "
        "is the accuracy of the best attacker, chosen by tuning, on training faces or fresh ones, where it reads more, "
        "beside the majority class; excess is the difference. "
        "Bits, balanced accuracy and AUC stand beside them. "
        f"Intervals have a confidence of {100 * protocol.confidence:.3g} %, from {protocol.resamples:,} resamples."
    )


def _evaluation(findings: Findings) -> str:
    tested = sorted({leak.samples for leak in findings.audited.leaks})
    ends = " to ".join(f"{size:,}" for size in sorted({*tested[:1], *tested[-1:]}))
    rest = f"; attributes are judged on {ends} of them"
    return _list(
        ("data set", findings.dataset),
        ("fingerprint", findings.fingerprint),
        ("split", f"test, {findings.protocol.testing:,} samples{rest if tested else ''}"),
        ("origin and consent", ""),
    )


def _training(findings: Findings) -> str:
    protocol = findings.protocol
    return _list(
        ("network", ""),
        ("attackers", f"{protocol.fitting:,} samples fitted on, {protocol.tuning:,} chosen on, {protocol.seeds} seeds"),
    )


def _analyses(findings: Findings) -> str:
    network = findings.audited
    noise = f", {words}" if (words := over_draws(network.draws)) else ""
    utility = (
        f"Utility: {markdown(network.target)} {with_interval(network.utility, percent, ' %')}{noise}, majority class "
    )
    sentences = "\n".join(f"- {markdown(in_full(verdict, findings))}" for verdict in verdicts(findings))
    tables: list[Table] = [
        leaks_table(findings),
        measures_table(findings),
        controls_table(findings),
        networks_table(findings),
    ]
    sections = [f"**{markdown(table.caption)}**\n\n{markdown_table(table)}" for table in tables if table.rows]
    sections += certificate_markdown(findings) if findings.audited.certificates else []
    return "\n\n".join([f"{utility}{percent(network.utility_majority)} %.", sentences, *sections])


def _ethics(findings: Findings) -> str:
    lines = [
        f"- {markdown(item.attribute)}: {item.status}; the best attacker's excess at "
        f"{markdown(tap_name(item.leak.tap))} is {with_interval(item.leak.headline.excess, points, ' points')}."
        for item in verdicts(findings)
    ]
    risk = "Who can read the features can try to learn private attributes from them"
    return "\n\n".join([f"{risk}:", "\n".join(lines), f"Review: {UNKNOWN}."])


def _caveats(findings: Findings) -> str:
    affinity = findings.audited.affinity
    batch = "\n- Affinity is batch: a picture's answer depends on its batch." if affinity == "batch" else ""
    return (
        "- An attacker that failed proves nothing: a stronger one may succeed.\n"
        "- A figure holds for its own deployment: enclave (the features themselves are read), split (what is sent), "
        "output (logits) or label (the bare answer).\n"
        "- They hold for single pictures; several pictures of one face may tell more."
        f"{batch}\n\n{markdown_table(protocol_table(findings))}"
    )


def _list(*items: tuple[str, str]) -> str:
    return "\n".join(f"- {name}: {markdown(value) or UNKNOWN}" for name, value in items)
