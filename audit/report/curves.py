"""Curves: utility and adversaries against lambda, and metrics of training against epochs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Estimate, NetworkFindings
from privatenet.audit.report import style
from privatenet.audit.report.text import number, percent


@dataclass(frozen=True)
class LambdaMark:
    """The networks of one lambda: utility, and the accuracies of the known and of an unknown adversary."""

    lambda_: float
    utility: Estimate
    known: Estimate | None
    unknown: Estimate | None


@style.rc
def lambda_curves(name: str, curve: Sequence[LambdaMark], majority: float | None = None) -> Figure:
    """Utility and the known and unknown adversary's accuracy against lambda; `name` is the tap and attribute."""
    ordered = sorted(curve, key=lambda mark: mark.lambda_)
    figure = Figure(figsize=(style.WIDTH, 3.3))
    axes = figure.add_subplot()
    lines = (
        ("utility", style.GREEN, "s", "-", [mark.utility for mark in ordered]),
        ("known adversary", style.ORANGE, "v", ":", [mark.known for mark in ordered]),
        ("unknown adversary", style.BLUE, "o", "-", [mark.unknown for mark in ordered]),
    )
    for label, colour, marker, line, estimates in lines:
        pairs = [(mark.lambda_, e) for mark, e in zip(ordered, estimates, strict=True) if e is not None]
        if pairs:
            ends = np.concatenate([style.error_bar(estimate) for _, estimate in pairs], axis=1)
            values = [100 * estimate.value for _, estimate in pairs]
            steps = [lambda_ for lambda_, _ in pairs]
            axes.errorbar(steps, values, yerr=ends, color=colour, fmt=marker + line, markersize=5, label=label)
    if majority is not None:
        axes.axhline(100 * majority, color=style.INK, linewidth=1, linestyle=style.DASHES, label="majority")
    axes.set_xlabel("lambda")
    axes.set_ylabel("accuracy, %")
    style.set_title(figure, name)
    axes.grid(axis="y")
    figure.legend(loc="outside lower left", ncols=2, columnspacing=1.2, borderpad=0)
    return figure


def describe_lambda(name: str, curve: Sequence[LambdaMark], majority: float | None = None) -> str:
    ordered = sorted(curve, key=lambda mark: mark.lambda_)
    sentences = []
    for mark in (ordered[0], ordered[-1])[: len(ordered)]:
        adversaries = {"known adversary": mark.known, "unknown adversary": mark.unknown}
        values = [f"{who} {percent(estimate.value)} %" for who, estimate in adversaries.items() if estimate is not None]
        values.insert(0, f"utility {percent(mark.utility.value)} %")
        sentences.append(f"at lambda {mark.lambda_:g} {', '.join(values)}")
    line = "" if majority is None else f" Majority class {percent(majority)} %."
    return f"{name}: {'; '.join(sentences)}.{line}"


@style.rc
def training_curves(network: NetworkFindings) -> Figure:
    """Training curves, one panel for each kind of metric."""
    panels: dict[str, list[str]] = {}
    for metric in network.curves:
        panels.setdefault(_panel(metric), []).append(metric)
    figure = Figure(figsize=(style.WIDTH, 0.4 + sum(1.75 + 0.1 * len(metrics) for metrics in panels.values())))
    grid = figure.subplots(max(1, len(panels)), 1, squeeze=False, sharex=True)[:, 0]
    palette = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE)
    for axes, (panel, metrics) in zip(grid, panels.items(), strict=False):
        for place, metric in enumerate(metrics):
            steps = [epoch for epoch, _ in network.curves[metric]]
            values = [value for _, value in network.curves[metric]]
            look = {"color": palette[place % len(palette)], "marker": style.MARKERS[place % len(style.MARKERS)]}
            axes.plot(steps, values, **look, markersize=3.5, linewidth=1.2, label=style.shorten(metric, 44))
        axes.set_title(panel)
        axes.grid(axis="y")
        axes.legend(loc="best", fontsize=8, framealpha=0.5)
    grid[-1].set_xlabel("epoch")
    return figure


def describe_training(network: NetworkFindings) -> str:
    ends = [f"{metric} {number(curve[-1][1], 3)}" for metric, curve in network.curves.items() if curve]
    return f"Training curves of the {network.role} network; at the end {', '.join(ends)}."


def _panel(metric: str) -> str:
    """Which panel a metric is drawn in."""
    last = metric.rsplit("/", 1)[-1]
    if last in ("accuracy", "balanced_accuracy", "majority"):
        return "accuracy"
    return "training loss" if metric.startswith("train/") else last
