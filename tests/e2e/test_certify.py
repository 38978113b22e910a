"""A network that sends noisy numbers, trained, certified and attacked as a person does it."""

import json
from dataclasses import asdict
from pathlib import Path

from support import TINY, Start

from privatenet.audit.attack.findings import read_findings
from privatenet.launch import cli

PROTECTED = """
channel: {{kind: noise, norm: 8, sigma: 1.0}}
protect: {{start: {start}, terms: [{{at: release-gender, objective: mixture, queue: 100}}]}}
"""
GENDER = ("--attributes", "[gender]")
ATTACK = ("--attackers", "[logistic, noise]", "--taps", "[backbone, release]", "--seeds", "1", "--references", "[]")


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

    assert cli.main(["certify", str(stage), *GENDER]) == 0
    rows = json.loads((tmp_path / "run" / "certify-private" / "certificate.json").read_text())["rows"]
    assert cli.main(["audit", str(stage), *GENDER, *ATTACK]) == 0
    report = tmp_path / "run" / "audit-private" / "report"
    findings = read_findings(report / "audit.json")
    assert [asdict(row) for row in findings.audited.certificates] == rows
    assert [row["deployment"] for row in rows] == ["split", "split", "label"]
    for row, tap in zip(rows, ("release", "release_x10", "label"), strict=True):
        leak = findings.audited.leak(tap, "gender")
        assert leak is not None
        attackers = {attack.attacker for attack in leak.attacks}
        assert attackers == ({"table"} if tap == "label" else {"logistic", "noise"})
        assert leak.headline.accuracy.value < row["certificate"]["bound"]
    known = [(control.tap, control.attribute) for control in findings.controls if control.kind == "known-adversary"]
    assert known == [("backbone", "gender")], "the one on the unprotected network was not asked"
    for name in ("report.html", "report.md", "model_card.md"):
        assert "Certified: what any adversary reads at most" in (report / name).read_text(), name
