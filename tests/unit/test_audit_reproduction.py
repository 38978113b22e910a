"""The paper's tables, and a reproduction beside them: arithmetic, notes, and what is missing."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.errors import AuditError
from privatenet.audit.paper import published
from privatenet.audit.paper.comparison import markdown_page, print_tables, table_2
from privatenet.audit.paper.plan import Case, ReproduceConfig, adversaries, cases, complete
from privatenet.audit.paper.reproduction import (
    VERSION,
    Adversary,
    Latency,
    PrivateNetwork,
    Reproduction,
    notes,
    read_reproduction,
    robustness,
    write_reproduction,
)
from privatenet.audit.report.text import DASH, points
from privatenet.data_shards.sources.schema import Attribute, Schema
from privatenet.distributed.config import Config, EngineConfig, FitConfig, ModelConfig
from privatenet.models.adversary import Pair

RECOMPUTED = {
    ("adversarial", "backbone", "gender"): (-24.68, 18.04),
    ("confusion", "backbone", "gender"): (-31.61, -2.88),
    ("adversarial", "arm", "gender"): (-31.23, 38.77),
    ("confusion", "arm", "gender"): (-21.15, -1.37),
    ("adversarial", "backbone", "age_group"): (-84.28, -8.24),
    ("confusion", "backbone", "age_group"): (-70.41, -13.06),
    ("adversarial", "arm", "age_group"): (-81.26, -5.30),
    ("confusion", "arm", "age_group"): (-62.80, -0.56),
}
"""Robustness worked out by hand from the paper's accuracies, in %: against the known and the unknown adversary."""

YES_NO = {"yes": "yes", "no": "no"}
SCHEMA = Schema(
    "faces", "emotion", tuple(Attribute(name, YES_NO) for name in ("emotion", "gender", "hat")), ("gender", "hat")
)
RECIPE = FitConfig(epochs=200)


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02)


def private(attribute: str, known: float, unknown: float, lambda_: float = 0.5) -> PrivateNetwork:
    seen = [Adversary("backbone", attribute, estimate(value), 0.6, 100) for value in (known, unknown)]
    changes = [robustness(value, 0.8) for value in (known, unknown)]
    return PrivateNetwork(
        f"confusion-backbone-{attribute}", "confusion", lambda_, estimate(0.9), seen[0], seen[1], changes[0], changes[1]
    )


def reproduction() -> Reproduction:
    """Of two attributes, one of which the paper does not have."""
    networks = (private("gender", 0.5, 0.7), private("hat", 0.6, 0.8))
    return Reproduction(
        version=VERSION,
        package="0.1.0",
        dataset="faces",
        fingerprint="5d41" * 16,
        target="emotion",
        utility=estimate(0.91),
        utility_majority=0.4,
        unprotected=tuple(Adversary(tap, "gender", estimate(0.8), 0.6, 100) for tap in ("backbone", "layer3", "image")),
        networks=networks,
        sweep=(private("hat", 0.7, 0.8, 0.0), networks[1]),
        latencies=(Latency("unprotected", 10.0, 0.5, 100), Latency("confusion-backbone-gender", 10.1, 0.4, 100)),
        timed_on="CPU, 2 threads, fp32, 96 px",
        notes=notes(Config(), "faces"),
        config={"seed": 0},
    )


def shown(found: Reproduction) -> list[str]:
    stream = io.StringIO()
    print_tables(found, Console(file=stream, width=80))
    return stream.getvalue().splitlines()


def test_the_papers_robustness_follows_from_its_accuracies() -> None:
    assert published.NETWORKS.keys() == RECOMPUTED.keys()
    for (objective, tap, attribute), (known, unknown) in RECOMPUTED.items():
        row, reference = published.NETWORKS[objective, tap, attribute], published.ADVERSARIES[tap, attribute]
        for accuracy, expected in ((row.known, known), (row.unknown, unknown)):
            change = robustness(accuracy, reference)
            assert change is not None
            assert 100 * change == pytest.approx(expected, abs=0.01)  # the print cuts digits off


def test_robustness_is_relative_and_excess_is_not() -> None:
    assert robustness(0.6, 0.8) == pytest.approx(-0.25)
    assert robustness(None, 0.8) is None
    assert robustness(0.6, None) is None
    assert robustness(0.6, 0.0) is None
    assert Adversary("arm", "gender", estimate(0.7), 0.55, 10).excess == pytest.approx(0.15)


def test_notes_say_what_cannot_be_compared() -> None:
    model = ModelConfig(weights="none", image_size=96)
    ours = replace(Config(), model=model, target=FitConfig(epochs=3, ema=0.9), adversary=FitConfig(epochs=4))
    said = " ".join(notes(ours, "faces"))
    assert "Another data set: faces" in said
    for part in ("model.weights none (paper: imagenet)", "model.image_size 96 (paper: 224)"):
        assert part in said
    assert "target.ema 0.9 (paper: 0.0), target.epochs 3 (paper: 200)" in said
    assert "affinity is ema, in networks and adversaries: every picture is judged alone" in said
    assert "one recipe (adam, lr 0.001, batch 256, epochs 4), and those on pictures start from model.weights" in said
    assert "start from model.weights (none)" in said
    for unknown in ("neither the lambda of its Table 2", "Fig. 2 only as a drawing", "no confusion loss", "1/D"):
        assert unknown in said


def test_notes_on_the_papers_own_settings_keep_to_what_the_paper_itself_does() -> None:
    same = replace(
        Config(),
        model=ModelConfig(affinity="batch"),
        engine=EngineConfig(precision="fp16"),
        target=RECIPE,
        private=RECIPE,
    )
    said = " ".join(notes(same, "rafdb"))
    assert "Another data set" not in said
    assert "Other settings" not in said
    assert "57 % of its training rows get another face's emotion" in said
    assert "each picture's answer depends on which others share its batch" in said
    assert "here the faces are shuffled" in said


def test_what_is_left_open_is_all_that_the_data_set_and_the_network_have() -> None:
    settings = complete(ReproduceConfig(), Config(), SCHEMA)
    assert (settings.attributes, settings.taps) == (["gender", "hat"], ["backbone", "arm"])
    assert [pair.name for pair in adversaries(settings)[:3]] == ["backbone-gender", "arm-gender", "image-gender"]
    linear = complete(ReproduceConfig(), replace(Config(), model=ModelConfig(head="linear")), SCHEMA)
    assert linear.taps == ["backbone"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attributes": ["race"]}, "reproduce.attributes: 'race' is unknown here: accepted are gender, hat"),
        ({"taps": ["arm"]}, "reproduce.taps: 'arm' is unknown here: accepted are layer1"),
        ({"taps": ["image"]}, "reproduce.taps: 'image'"),
        ({"objectives": ["secrecy"]}, "reproduce.objectives: 'secrecy'"),
        ({"lambdas": [0.5, 1.5]}, "reproduce.lambdas: 1.5"),
        ({"lambdas": [math.nan]}, "reproduce.lambdas: nan"),
        ({"repetitions": 1}, "reproduce.repetitions is 1"),
    ],
)
def test_what_the_data_set_or_the_network_has_not_is_refused(asked: dict[str, list[str]], message: str) -> None:
    linear = replace(Config(), model=ModelConfig(head="linear"))
    with pytest.raises(AuditError, match=message):
        complete(replace(ReproduceConfig(), **asked), linear, SCHEMA)  # type: ignore[arg-type]


def test_the_sweep_reuses_the_network_of_table_2_and_trains_the_others_once() -> None:
    settings = complete(ReproduceConfig(lambdas=[1, 0.5, 0.5]), Config(), SCHEMA)
    table, sweep = cases(settings, 0.5)
    assert len({case.name for case in table}) == len(table) == 8
    pair = Pair("backbone", "hat")
    assert sweep == [
        Case("confusion-backbone-hat", "confusion", pair, 0.5), Case("lambda-1", "confusion", pair, 1.0)
    ]  # fmt: skip
    assert sweep[0] in table


def test_without_confusion_in_table_2_the_sweep_has_its_own_networks() -> None:
    settings = complete(ReproduceConfig(objectives=["adversarial"], lambdas=[0.5]), Config(), SCHEMA)
    assert [case.name for case in cases(settings, 0.5)[1]] == ["lambda-0.5"]


def test_figures_stand_beside_the_papers_where_it_has_them() -> None:
    rows = {(str(row[0]), str(row[1])): [str(cell) for cell in row[2:]] for row in table_2(reproduction()).rows}
    known = rows["confusion-backbone-gender", "known"]
    assert known == ["50.0 (48.0 to 52.0)", "60.0", points(-0.1), points(-0.375), "51.27", points(-0.316)]
    assert rows["confusion-backbone-gender", "utility"][-2:] == [DASH, DASH], "this cell of the paper cannot be read"
    assert rows["confusion-backbone-hat", "unknown"] == ["80.0 (78.0 to 82.0)", "60.0", "+20.0", "+0.0", DASH, DASH]


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    lines = shown(reproduction())
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    for title in ("Table 1", "Table 2", "Fig. 2", "Table 3"):
        assert any(line.startswith(title) for line in lines)


def test_markdown_holds_every_table_and_every_note() -> None:
    found = reproduction()
    text = markdown_page(found)
    assert text.count("\n| --- |") == 4
    assert "| gender | image | 80.0 (78.0 to 82.0) | 60.0 | +20.0 | 88.22 | 56.47 |" in text
    assert "(figures/lambda.svg)" in text
    assert "## Fig. 2" not in markdown_page(replace(found, sweep=()))


def test_an_attribute_without_test_samples_and_a_paper_without_figures_break_nothing(tmp_path: Path) -> None:
    nothing = Estimate(math.nan, math.nan, math.nan)
    empty = Adversary("backbone", "hat", nothing, 0.0, 0)
    network = PrivateNetwork("n", "confusion", 1.0, nothing, empty, empty, None, None)
    found = replace(reproduction(), unprotected=(empty,), networks=(network,), sweep=(network,))
    assert shown(found)
    assert markdown_page(found)
    write_reproduction(found, tmp_path / "reproduction.json")
    back = read_reproduction(tmp_path / "reproduction.json")
    assert math.isnan(back.unprotected[0].accuracy.value)
    assert back.notes == found.notes


def test_what_was_written_is_read_back_and_anything_else_refused(tmp_path: Path) -> None:
    path = tmp_path / "reproduction.json"
    with pytest.raises(AuditError, match="cannot be read"):
        read_reproduction(path)
    write_reproduction(reproduction(), path)
    assert read_reproduction(path) == reproduction()
    path.write_text("{}")
    with pytest.raises(AuditError, match="is no reproduction"):
        read_reproduction(path)
