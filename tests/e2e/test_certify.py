"""A network that sends noisy numbers, trained, certified and attacked as a person does it."""

import json
from pathlib import Path

from support import TINY, Start

from privatenet.audit.attack.findings import read_findings
from privatenet.launch import cli

PROTECTED = """
channel: {{kind: noise, norm: 8, sigma: 1.0}}
protect: {{start: {start}, terms: [{{at: release-gender, objective: mixture, queue: 100}}]}}
"""
ATTACK = ("--attackers", "[noise]", "--taps", "[release]", "--seeds", "1", "--resamples", "100", "--references", "[]")


def test_nobody_reads_more_of_a_trained_network_than_is_certified(
    finished: tuple[Path, str], shards: Path, tmp_path: Path, start: Start
) -> None:
    """Who knows the noise and the centres of other faces reads less than the bound, and the report shows both."""
    settings = TINY.format(shards=shards, output=tmp_path / "run").split("protect:")[0]
    target = finished[0].parent / "run" / "target" / "final"
    config = tmp_path / "noisy.yaml"
    config.write_text(f"{settings}output: {tmp_path / 'run'}\n{PROTECTED.format(start=target)}")
    trained = start("-m", "privatenet.launch.cli", "train", "private", "--config", str(config))
    assert trained.returncode == 0, trained.stderr[-3000:]
    stage = tmp_path / "run" / "private"

    assert cli.main(["certify", str(stage)]) == 0
    rows = json.loads((tmp_path / "run" / "certify-private" / "certificate.json").read_text())["rows"]
    assert [(row["attribute"], row["deployment"], row["certificate"]["releases"]) for row in rows] == [
        (attribute, *release)
        for attribute in ("gender", "age_group")
        for release in (("split", 1), ("split", 10), ("output", 1))
    ]

    assert cli.main(["audit", str(stage), *ATTACK]) == 0
    report = tmp_path / "run" / "audit-private" / "report"
    findings = read_findings(report / "audit.json")
    bounds = {
        (row.attribute, row.certificate.releases): row.certificate.bound
        for row in findings.certificates
        if row.deployment == "split"
    }
    assert bounds == {
        (row["attribute"], row["certificate"]["releases"]): row["certificate"]["bound"]
        for row in rows
        if row["deployment"] == "split"
    }
    for releases, tap in ((1, "release"), (10, "release_x10")):
        for attribute in ("gender", "age_group"):
            leak = findings.audited.leak(tap, attribute)
            assert leak is not None
            assert {attack.attacker for attack in leak.attacks} == {"noise"}
            assert leak.headline.accuracy.value < bounds[attribute, releases]
    for name in ("report.html", "report.md", "model_card.md"):
        assert "Certified: what any adversary reads at most" in (report / name).read_text(), name
