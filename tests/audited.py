"""A small audit as tests want it, and a reader of the report's page."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from privatenet.audit.attack.findings import (
    VERSION,
    Attack,
    Control,
    Estimate,
    Findings,
    Leak,
    NetworkFindings,
    Protocol,
)
from privatenet.audit.certificate.bound import certify_codes
from privatenet.audit.certificate.rows import CertificateRow

FLEET = (
    ("paper_linear", "raw"),
    ("logistic", "whitened"),
    ("mlp1", "whitened"),
    ("mlp2", "raw"),
    ("rbf_svm", "components"),
    ("boosted_trees", "components"),
)
GENDER = {"male": 485, "female": 753}
AGES = {"0-3": 0, "4-19": 42, "20-39": 657, "40-69": 536, "70+": 4}


def estimate(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value, value - half, value + half, value - 1.5 * half)


def attack(name: str, representation: str, accuracy: float, counts: dict[str, int], bits: float, auc: float) -> Attack:
    """An attacker that is right equally often in every class and else answers the next one."""
    majority, size = max(counts.values()) / max(1, sum(counts.values())), len(counts)
    rows = []
    for row, samples in enumerate(counts.values()):
        right = round(accuracy * samples)
        rows.append(tuple({row: right, (row + 1) % size: samples - right}.get(column, 0) for column in range(size)))
    return Attack(
        attacker=name,
        representation=representation,
        faces="training",
        numbers=512,
        note="",
        seeds=3,
        tuning=1.004 - accuracy,
        accuracy=estimate(accuracy, 0.019),
        excess=estimate(accuracy - majority),
        balanced_accuracy=estimate(accuracy * sum(map(bool, counts.values())) / size, 0.025),
        auc=estimate(auc) if math.isfinite(auc) else Estimate(auc, auc, auc),
        bits=estimate(bits, 0.03),
        spread=0.0061,
        seconds=4.25,
        confusion=tuple(rows),
    )


def leak(tap: str, attribute: str, counts: dict[str, int], gain: float, change: float | None = None) -> Leak:
    """A leak whose best attacker is `gain` above the majority; the others fall behind."""
    total = sum(counts.values())
    majority = max(counts.values()) / max(1, total)
    shares = [count / total for count in counts.values() if count]
    entropy = -sum(share * math.log2(share) for share in shares)
    auc = math.nan if 0 in counts.values() else 0.5 + max(0.0, gain)
    attacks = tuple(
        attack(name, representation, majority + gain - 0.011 * ((place + 4) % 6), counts, max(-0.02, gain), auc)
        for place, (name, representation) in enumerate(FLEET)
    )
    return Leak(
        tap=tap,
        attribute=attribute,
        classes=tuple(counts),
        class_counts=tuple(counts.values()),
        majority=majority,
        entropy=entropy,
        attacks=attacks,
        best=2,
        code_length=estimate(max(0.05, entropy - max(0.0, gain)), 0.03),
        change=None if change is None else estimate(change, 0.024),
        robustness=None if change is None else change / (majority + gain - change),
        left=None if change is None else estimate(5 * gain, 0.15),
        above=None if change is None else replace(estimate(gain - 0.01), bound=gain - 0.03),
    )


def network(role: str, gains: dict[tuple[str, str], float], change: float | None = None) -> NetworkFindings:
    counts = {"gender": GENDER, "age_group": AGES}
    private = role == "audited"
    label = certify_codes(np.arange(90) % 7, np.arange(90) % 2, np.arange(90) // 3, 0.95)
    epochs = range(1, 9)
    curves = {
        "train/loss": tuple((float(epoch), 1.6 * 0.8**epoch) for epoch in epochs),
        "train/confusion/backbone-gender": tuple((float(epoch), 0.3 * 0.7**epoch) for epoch in epochs),
        "validation/emotion/accuracy": tuple((float(epoch), 0.86 - 0.5 * 0.7**epoch) for epoch in epochs),
        "validation/emotion/balanced_accuracy": tuple((float(epoch), 0.78 - 0.5 * 0.7**epoch) for epoch in epochs),
    }
    return NetworkFindings(
        role=role,
        stage="private" if private else "target",
        checkpoint=f"runs/demo/{'private' if private else 'target'}/final",
        sha256=("9c1f" if private else "04be") * 16,
        target="emotion",
        utility=estimate(0.842 if private else 0.8627 if role == "unprotected" else 0.35, 0.019),
        utility_majority=0.552,
        draws=20 if private else 1,
        objective="confusion" if private else "",
        lambda_=0.5 if private else None,
        protected=("backbone-gender", "backbone-age_group") if private else (),
        affinity="ema",
        leaks=tuple(leak(tap, name, counts[name], gain, change) for (tap, name), gain in gains.items()),
        curves=curves if private else {},
        certificates=() if role == "random" else (CertificateRow("gender", "label", 0.62, 1, label),),
    )


def findings() -> Findings:
    """Two networks and one never trained, three taps, two attributes; of one class there is no test sample."""
    audited = {
        ("layer4", "gender"): 0.267,
        ("backbone", "gender"): 0.241,
        ("logits", "gender"): 0.012,
        ("layer4", "age_group"): -0.009,
        ("backbone", "age_group"): -0.004,
        ("logits", "age_group"): -0.013,
        ("label", "gender"): 0.004,
    }
    unprotected = {key: gain + (0.05 if key[1] == "gender" else 0.12) for key, gain in audited.items()}
    random = {key: 0.11 if key[1] == "gender" else 0.03 for key in audited}
    return Findings(
        version=VERSION,
        package="0.1.0",
        created="2026-01-31T12:00:00+00:00",
        dataset="rafdb",
        fingerprint="5d41" * 16,
        protocol=Protocol("training", 4800, 1600, 1239, 3, 0.95, 2000, 256, "fp32", "cpu", 412.7, 1.93),
        networks=(
            network("audited", audited, -0.05),
            network("unprotected", unprotected),
            network("random", random),
        ),
        controls=(
            Control("target-label", "", "gender", estimate(0.6389), estimate(0.5602)),
            Control("target-label", "", "age_group", estimate(0.5302), estimate(0.25)),
            Control("image-adversary", "", "gender", estimate(0.8822), estimate(0.8721)),
            Control("known-adversary", "backbone", "gender", estimate(0.5127), Estimate(math.nan, math.nan, math.nan)),
        ),
        config={"shards": "shards/rafdb", "attack": {"seeds": 3, "taps": ["layer4", "backbone", "logits"]}},
    )


class Page(HTMLParser):
    """What tests ask of a page: its figures, charts, links, ids and the findings it carries."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[dict[str, str]] = []
        self.charts: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.json = ""
        self._inside = ""
        self.feed(text)
        self.findings: Any = json.loads(self.json)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self._inside = values.get("id", "") if tag == "script" else tag
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("src", "href", "xlink:href", "action", "data") if name in values]
        if tag == "svg":
            self.charts.append("")
        if "data-value" in values:
            self.figures.append(values)

    def handle_data(self, data: str) -> None:
        if self._inside == "findings":
            self.json += data
        elif self._inside == "title" and self.charts:
            self.charts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def wrong_figures(self) -> list[str]:
        """Places of cells that do not hold, in full, what the findings hold at the same place."""
        return [cell["data-from"] for cell in self.figures if not _same(cell, _at(self.findings, cell["data-from"]))]


def _at(tree: Any, where: str) -> Any:
    for step in where.split("."):
        tree = tree[int(step)] if isinstance(tree, list) else tree[step]
    return tree


def _same(cell: dict[str, str], value: Any) -> bool:
    if isinstance(value, dict):
        return all(json.loads(cell[f"data-{end}"]) == value[end] for end in ("value", "low", "high"))
    return bool(json.loads(cell["data-value"]) == (sum(value) if isinstance(value, list) else value))
