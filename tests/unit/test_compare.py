"""Comparing runs: the front and its knee, what is shown of whom, and the table, files and page made of it."""

import csv
import dataclasses
import io
import math
import random
import re
from pathlib import Path

import pytest
from compared import HOSTILE, measured, network, networks, run
from rich.console import Console

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.pareto import front, knee
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.launch import cli
from privatenet.tune.compare.candidates import Candidate, Measures
from privatenet.tune.compare.charts import front_marks, paper_marks
from privatenet.tune.compare.front import compare_networks, pick
from privatenet.tune.compare.importance import importance
from privatenet.tune.compare.report import compare
from privatenet.tune.compare.table import csv_text
from privatenet.tune.compare.tracked import candidates


def dominated(one: tuple[float, float], by: tuple[float, float]) -> bool:
    return by != one and by[0] >= one[0] and by[1] <= one[1]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a comparison wrote, and what it printed on a terminal of 80 columns."""
    folder, screen = tmp_path_factory.mktemp("compare") / "new", io.StringIO()
    compare(networks(), folder, uri="https://me:secret@host:5000", console=Console(file=screen, width=80))
    return folder, screen.getvalue()


def test_the_knee_is_not_the_farthest_point_of_the_front() -> None:
    bent = [(0.60, 0.0), (0.70, 0.02), (0.80, 0.04), (0.85, 0.20), (0.90, 0.40), (0.5, 0.3), (math.nan, 0.0)]
    assert knee(bent) == 2
    assert knee([(100 * utility, excess / 7) for utility, excess in bent]) == 2


def test_the_knee_of_a_front_without_one_is_a_bad_compromise() -> None:
    bulging = [(0.6, 0.0), (0.65, 0.3), (0.9, 0.35)]
    assert knee(bulging) == 0
    assert knee([(0.6, 0.0), (0.9, 0.1)]) == 1
    assert knee([(0.9, 0.5)]) == 0
    assert knee([(0.9, 0.5), (0.9, 0.5)]) == 0


def test_nothing_finite_has_a_knee() -> None:
    assert knee([]) is None
    assert knee([(math.nan, 0.1), (0.9, math.inf)]) is None


def test_the_knee_is_not_on_the_front() -> None:
    chance = random.Random(0)
    for _ in range(200):
        points = [(chance.randrange(9) / 9, chance.randrange(9) / 9) for _ in range(chance.randrange(1, 12))]
        best = knee(points)
        assert best is not None
        assert front(points)[best]
        choices = [place != best for place in range(len(points))]
        other = knee(points, choices)
        assert other is None or (front(points)[other] and other != best)


def test_a_run_is_left_out_or_shown_that_should_not_be() -> None:
    every = networks()
    finished = [candidate.name for candidate in every if not candidate.reason]
    assert finished == ["unprotected", *(f"trial-{number:03d}" for number in range(13))]
    assert {candidate.name: candidate.reason for candidate in every[14:]} == {
        "trial-diverged": "the loss is not finite",
        HOSTILE: "the run is KILLED",
    }


def test_the_settings_of_a_sweep_are_not_those_it_varies() -> None:
    first, second = networks()[:2]
    comparison = compare_networks(networks())
    assert comparison.settings == ("lambda", "objective", "taps", "prior", "known", "lr")
    assert {comparison.setting(first, name) for name in comparison.settings} == {"-"}
    assert isinstance(second.settings["lambda"], float)
    assert first.label == "unprotected"
    assert second.label == "lambda 0.323, confusion, backbone+arm, prior uniform, known alternating, lr 0.00065"


def test_runs_of_no_sweep_are_not_told_apart_by_what_differs() -> None:
    def private(name: str, **params: str) -> dict[str, str]:
        shared = {"protect.objective": "confusion", "seed": "0", "private.momentum": name}
        return shared | {key.replace("_", "."): value for key, value in params.items()}

    runs = [
        run("one", measured(0.9, 0.2, 0.1), params=private("one", protect_lambda="0.5")),
        run("two", measured(0.8, 0.1, 0.1), params=private("two", protect_lambda="0.7")),
        run("three", measured(0.95, 0.3, 0.1), params=private("t", protect_lambda="0.5"), tags={"stage": "target"}),
    ]
    assert [network.label for network in candidates(runs)] == ["lambda 0.5", "lambda 0.7", "unprotected"]
    assert candidates(runs[:1])[0].label == "one"


def test_the_networks_of_a_sweep_differ_from_what_the_tracking_store_says_of_them() -> None:
    from privatenet.tune.phases import TrialResult
    from privatenet.tune.sweep import candidate

    point = {"lambda": 0.1 + 0.2, "seed": 3, "lr": 1e-3, "objective": "confusion", "taps": "backbone+arm"}
    audit = TrialResult("audit", {"trial": "t1"}, measured(0.8, 0.3, 0.2, split="test"), None)
    trial = TrialResult("t1", point, measured(0.9, 0.2, 0.1), None)
    direct = candidate(True, "t1", trial, {"t1": audit}, Config())
    assert (direct.settings, direct.group, direct.private) == (point, "confusion", True)
    assert (direct.validation, direct.test) == (
        Measures.of(measured(0.9, 0.2, 0.1), "validation"), Measures.of(measured(0.8, 0.3, 0.2, split="test"), "test")
    )  # fmt: skip
    stored = run("t1", measured(0.9, 0.2, 0.1), params={f"space.{key}": str(value) for key, value in point.items()})
    assert candidates([stored])[0].label == direct.label == "lambda 0.3, confusion, backbone+arm, lr 0.001, seed 3"
    failed = candidate(False, "unprotected", TrialResult("x", {}, {}, None, "no memory"), {}, Config())
    assert (failed.private, failed.status, failed.reason) == (False, "FAILED", "no memory")


def test_one_pair_is_compared_by_the_worst() -> None:
    pair = [network("one", measured(0.9, 0.3, 0.1)), network("two", measured(0.8, 0.1, 0.2))]
    assert [row.leakage.value for row in compare_networks(pair).rows] == [0.3, 0.2]
    by_arm = compare_networks(pair, "arm-gender")
    assert [row.leakage for row in by_arm.rows] == [Estimate(e, e - 0.02, e + 0.02) for e in (0.1, 0.2)]
    assert [row.on_front for row in compare_networks(pair).rows] == [True, True]
    assert [row.on_front for row in by_arm.rows] == [True, False]
    with pytest.raises(
        ConfigError, match="no network was attacked at 'arm-race': accepted are arm-gender, backbone-gender"
    ):
        compare_networks(pair, "arm-race")


def test_test_figures_choose_where_there_are_validation_figures() -> None:
    audit = network("audit", measured(0.9, 0.3, 0.1, split="test"), tags={"stage": "audit"})
    comparison = compare_networks([*networks(), audit])
    assert comparison.split == "validation"
    assert "audit" not in {row.candidate.name for row in comparison.rows}
    assert comparison.notes == ("1 run with test figures only left out, as others have validation figures.",)
    assert compare_networks([audit]).split == "test"
    assert compare_networks([audit]).rows[0].test is None


def test_networks_attacked_at_different_taps_are_compared_in_silence() -> None:
    metrics = {"validation/utility": 0.8, "validation/leakage": 0.2}
    mixed = [network("one", measured(0.9, 0.3, 0.1)), network("two", metrics)]
    assert any("compare badly" in note for note in compare_networks(mixed).notes)
    assert not compare_networks(networks()).notes


def test_the_floor_is_missing_beside_leakage_above_the_majority() -> None:
    floors = {"validation/gender/floor": 0.012, "validation/age_group/floor": -0.004, "test/gender/floor": 0.5}
    told = "The floor, what the true target label alone gives away, in points: age_group \u22120.4 and gender +1.2."
    assert compare_networks([network("one", measured(0.9, 0.3, 0.1) | floors)]).notes[0] == told


def test_a_network_in_training_is_missing_in_silence() -> None:
    runs = [run("one", measured(0.9, 0.3, 0.1)), run("two", {}, "RUNNING")]
    assert compare_networks(candidates(runs)).notes == ("1 run still going and not shown.",)


def bent_front() -> list[Candidate]:
    """Three networks on the front, at whose knee is the unprotected one."""
    unprotected = network("unprotected", measured(0.88, 0.05, 0.0), tags={"stage": "target"})
    return [network("useful", measured(0.89, 0.3, 0.1)), unprotected, network("safe", measured(0.5, 0.04, 0.0))]


def test_the_knee_is_an_unprotected_network() -> None:
    comparison = compare_networks(bent_front())
    assert [row.candidate.name for row in comparison.rows if row.on_front] == ["useful", "unprotected", "safe"]
    assert knee([(row.utility.value, row.leakage.value) for row in comparison.rows]) == 1
    assert [row.mark for row in comparison.rows] == ["*K", "*", "*"]
    assert pick(comparison, "knee").name == "useful"
    assert pick(comparison, "2").name == "unprotected"


def test_an_unprotected_network_is_picked_where_no_private_one_is_on_the_front(tmp_path: Path) -> None:
    _, unprotected, safe = bent_front()
    worse = dataclasses.replace(safe, validation=Measures.of(measured(0.4, 0.3, 0.3), "validation"))
    screen = io.StringIO()
    comparison = compare([unprotected, worse], tmp_path, console=Console(file=screen, width=80))
    assert comparison.knee is None
    assert "No private network is on the front" in screen.getvalue()
    assert "No private network is on the front" in (tmp_path / "compare.html").read_text()
    with pytest.raises(ConfigError, match=r"No private network is on the front.* number of a network: 1 to 2"):
        pick(comparison, "knee")
    assert pick(comparison, "1") == unprotected


def test_the_csv_differs_from_the_front_by_brute_force(written: tuple[Path, str]) -> None:
    table = rows((written[0] / "front.csv").read_text())
    finished = [row for row in table if row["index"]]
    figures = [(float(row["utility"]), float(row["leakage"])) for row in finished]
    brute = [not any(dominated(one, other) for other in figures) for one in figures]
    assert [row["on_front"] == "True" for row in finished] == brute
    assert [row["knee"] for row in finished].count("True") == 1
    assert [row["index"] for row in table] == [*map(str, range(1, 15)), "", ""]
    assert all(float(row["utility_low"]) < float(row["utility"]) < float(row["utility_high"]) for row in finished)


def test_the_csv_loses_digits_or_settings() -> None:
    one = network("one", measured(0.1 + 0.2, 0.123456789, 0.1), params={"space.lambda": "0.123456789"})
    (row,) = rows(csv_text(compare_networks([one])))
    assert (float(row["utility"]), float(row["leakage"]), row["lambda"]) == (0.1 + 0.2, 0.123456789, "0.123456789")
    assert (row["test_utility"], row["reason"]) == ("", "")


def test_the_table_is_out_of_order() -> None:
    table = compare_networks(networks()).rows
    edge = [row for row in table if row.on_front]
    assert list(table[: len(edge)]) == edge
    utilities = [row.utility.value for row in edge]
    assert utilities == sorted(utilities, reverse=True)
    behind = [
        row.leakage.value - min(e.leakage.value for e in edge if e.utility.value >= row.utility.value)
        for row in table[len(edge) :]
    ]
    assert behind == sorted(behind)
    assert min(behind) >= 0


def test_the_printed_table_does_not_fit_or_hides_failures(written: tuple[Path, str]) -> None:
    said = written[1]
    assert max(map(len, said.splitlines())) <= 80
    assert "without figures: trial-diverged (lr 0.1): the loss is not finite" in said
    assert "…" not in said
    assert re.search(r"^ *2 +\*K +lambda 0.323", said, re.MULTILINE)
    assert "86.3 to 90.3   +18.9 to +22.9" in said


def test_the_paper_is_shown_where_it_says_nothing() -> None:
    marks = paper_marks(compare_networks(networks()))
    assert {mark.attribute for mark in marks} == {"gender"}
    (best,) = [mark for mark in marks if mark.label == "confusion at arm, gender"]
    assert (best.utility.value, best.excess.value) == pytest.approx((0.8947, 0.0596))
    race = {"validation/utility": 0.9, "validation/leakage": 0.2, "validation/arm-race/excess": 0.2}
    assert paper_marks(compare_networks([network("one", race)])) == []


def test_the_chart_numbers_networks_otherwise_than_the_table() -> None:
    comparison = compare_networks(networks())
    assert [(mark.label, mark.utility) for mark in front_marks(comparison)] == [
        (str(place), row.utility) for place, row in enumerate(comparison.rows, 1)
    ]


def test_importance_is_claimed_of_too_little() -> None:
    few = compare_networks(networks(3))
    assert importance(few) == ({}, "Importance needs more trials: 3 finished, at least 4 are needed.")
    same = compare_networks([network(str(number), measured(0.9, 0.2, 0.1)) for number in range(6)])
    assert importance(same) == ({}, "Importance needs more trials: over the 6 finished ones nothing varies.")


def test_importance_misses_what_matters() -> None:
    shares, sentence = importance(compare_networks(networks(24)))
    assert "over 24 finished trials" in sentence
    for figure in ("utility", "leakage"):
        assert next(iter(shares[figure])) == "lambda"
        assert math.isclose(sum(share.value for share in shares[figure].values()), 1)
        assert all(0 <= share.low <= share.high <= 1 for share in shares[figure].values())


def test_the_page_loads_something_or_runs_what_a_name_says(written: tuple[Path, str]) -> None:
    page = (written[0] / "compare.html").read_text()
    own = re.sub(r"<script>/\*\*.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert len(own) < len(page) / 10
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|@import|url\(""", own)
    assert "default-src 'none'" in own
    assert HOSTILE not in own
    assert "&lt;script&gt;alert" in own
    assert "secret" not in page
    assert "https://host:5000" in own
    assert all((written[0] / name).stat().st_size > 1000 for name in ("front.png", "front.svg", "front.csv"))


def test_what_nobody_has_is_picked() -> None:
    comparison = compare_networks(networks())
    assert pick(comparison, "knee") == comparison.rows[1].candidate
    assert pick(comparison, "14") == comparison.rows[13].candidate
    for wrong in ("0", "15", "-1", "best", ""):
        with pytest.raises(ConfigError, match="accepted are knee and 1 to 14"):
            pick(comparison, wrong)


def test_a_comparison_of_nothing_is_written(tmp_path: Path) -> None:
    runs = [run("one", {}, "FAILED", tags={"failure": "out of memory"}), run("two", {})]
    with pytest.raises(ConfigError, match=r"no network .* was found; one failed: out of memory"):
        compare(candidates(runs), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"was found$"):
        compare([], tmp_path / "out")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "runs"),
        (["x", "--sort", "up"], "--sort"),
        (["x", "--pick", "2"], "--register"),
        (["x"], "tracking.uri"),
        (["x", "--output", __file__], "no folder"),
    ],
)
def test_wrong_arguments_are_not_one_line(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *argv]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"privatenet: error: .*\n", error)
    assert said in error
