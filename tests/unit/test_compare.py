"""Comparing runs: the front and its knee, what is shown of whom, and the table, files and page made of it."""

import csv
import io
import math
import random
import re
from pathlib import Path

import pytest
from compared import HOSTILE, measured, run, sweep
from rich.console import Console

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.pareto import front, knee
from privatenet.distributed.config import ConfigError
from privatenet.launch import cli
from privatenet.tune.compare.candidates import (
    candidates,
    chart_points,
    compare,
    comparison,
    csv_text,
    described,
    pick,
    references,
)
from privatenet.tune.compare.charts import importance


def dominated(one: tuple[float, float], by: tuple[float, float]) -> bool:
    return by != one and by[0] >= one[0] and by[1] <= one[1]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a comparison wrote, and what it printed on a terminal of 80 columns."""
    folder, screen = tmp_path_factory.mktemp("compare") / "new", io.StringIO()
    compare(sweep(), folder, uri="https://me:secret@host:5000", console=Console(file=screen, width=80))
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
        chosen = knee(points)
        assert chosen is not None
        assert front(points)[chosen]


def test_a_run_is_left_out_or_shown_that_should_not_be() -> None:
    found = candidates(sweep())
    finished = [candidate.name for candidate in found if not candidate.reason]
    assert finished == ["unprotected", *(f"trial-{number:03d}" for number in range(13))]
    assert {candidate.name: candidate.reason for candidate in found[14:]} == {
        "trial-diverged": "the loss is not finite",
        HOSTILE: "the run is KILLED",
    }


def test_the_settings_of_a_sweep_are_not_those_it_varies() -> None:
    first, second = candidates(sweep())[:2]
    assert list(first.settings) == ["lambda", "objective", "taps", "prior", "known", "lr"]
    assert set(first.settings.values()) == {"-"}
    assert isinstance(second.settings["lambda"], float)
    assert described(first) == "unprotected"
    assert described(second) == "lambda 0.323, confusion, backbone+arm, prior uniform, known alternating, lr 0.00065"


def test_runs_of_no_sweep_are_not_told_apart_by_what_differs() -> None:
    def private(name: str, **params: str) -> dict[str, str]:
        shared = {"protect.objective": "confusion", "seed": "0", "private.momentum": name}
        return shared | {key.replace("_", "."): value for key, value in params.items()}

    runs = [
        run("one", measured(0.9, 0.2, 0.1), params=private("one", protect_lambda="0.5")),
        run("two", measured(0.8, 0.1, 0.1), params=private("two", protect_lambda="0.7")),
        run("three", measured(0.95, 0.3, 0.1), params=private("t", protect_lambda="0.5"), tags={"stage": "target"}),
    ]
    assert [described(candidate) for candidate in candidates(runs)] == ["lambda 0.5", "lambda 0.7", "unprotected"]
    assert described(candidates(runs[:1])[0]) == "one"


def test_one_pair_is_compared_by_the_worst() -> None:
    runs = [run("one", measured(0.9, 0.3, 0.1)), run("two", measured(0.8, 0.1, 0.2))]
    assert [c.leakage.value for c in candidates(runs)] == [0.3, 0.2]
    assert [c.leakage for c in candidates(runs, "arm-gender")] == [Estimate(e, e - 0.02, e + 0.02) for e in (0.1, 0.2)]
    assert comparison(runs).best == (True, True)
    assert comparison(runs, "arm-gender").best == (True, False)
    with pytest.raises(ConfigError, match="nobody looked at 'arm-race': accepted are arm-gender, backbone-gender"):
        comparison(runs, "arm-race")


def test_test_figures_choose_where_there_are_validation_figures() -> None:
    audits = [run("audit", measured(0.9, 0.3, 0.1, split="test"), tags={"stage": "audit"})]
    found = comparison([*sweep(), *audits])
    assert found.split == "validation"
    assert "audit" not in {candidate.name for candidate in found.candidates}
    assert found.notes == ("1 run with test figures only left out, as others have validation figures.",)
    assert comparison(audits).split == "test"
    assert comparison(audits).candidates[0].tested is None


def test_runs_attacked_at_different_taps_are_compared_in_silence() -> None:
    runs = [run("one", measured(0.9, 0.3, 0.1)), run("two", {"validation/utility": 0.8, "validation/leakage": 0.2})]
    assert any("compare badly" in note for note in comparison(runs).notes)
    assert not comparison(sweep()).notes


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
    runs = [run("one", measured(0.1 + 0.2, 0.123456789, 0.1), params={"space.lambda": "0.123456789"})]
    (row,) = rows(csv_text(comparison(runs)))
    assert (float(row["utility"]), float(row["leakage"]), row["lambda"]) == (0.1 + 0.2, 0.123456789, "0.123456789")
    assert (row["test_utility"], row["reason"]) == ("", "")


def test_the_table_is_out_of_order() -> None:
    found = comparison(sweep())
    on_front = sum(found.best)
    assert found.best == (True,) * on_front + (False,) * (len(found.best) - on_front)
    utilities = [candidate.utility.value for candidate in found.candidates[:on_front]]
    assert utilities == sorted(utilities, reverse=True)
    edge = found.candidates[:on_front]
    behind = [
        c.leakage.value - min(e.leakage.value for e in edge if e.utility.value >= c.utility.value)
        for c in found.candidates[on_front:]
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
    shown = references(comparison(sweep()))
    assert {point.attribute for point in shown} == {"gender"}
    (best,) = [point for point in shown if point.label == "confusion at arm, gender"]
    assert (best.utility.value, best.excess.value) == pytest.approx((0.8947, 0.0596))
    race = {"validation/utility": 0.9, "validation/leakage": 0.2, "validation/arm-race/excess": 0.2}
    assert references(comparison([run("one", race)])) == []


def test_the_chart_numbers_networks_otherwise_than_the_table() -> None:
    found = comparison(sweep())
    assert [(point.label, point.utility) for point in chart_points(found)] == [
        (str(place), candidate.utility) for place, candidate in enumerate(found.candidates, 1)
    ]


def test_importance_is_claimed_of_too_little() -> None:
    few = candidates(sweep(3))[:4]
    assert importance(few) == ({}, "Importance needs more trials: 3 finished, at least 4 are needed.")
    same = candidates([run(str(number), measured(0.9, 0.2, 0.1)) for number in range(6)])
    assert importance(same) == ({}, "Importance needs more trials: over the 6 finished ones nothing varies.")


def test_importance_misses_what_matters() -> None:
    shares, said = importance(comparison(sweep(24)).candidates)
    assert "over 24 finished trials" in said
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
    found = comparison(sweep())
    assert pick(found, "knee") == found.candidates[found.knee]
    assert pick(found, "14") == found.candidates[13]
    for wrong in ("0", "15", "-1", "best", ""):
        with pytest.raises(ConfigError, match="accepted are knee and 1 to 14"):
            pick(found, wrong)


def test_a_comparison_of_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run .* among the 2 found; one failed: out of memory"):
        compare([run("one", {}, "FAILED", tags={"failure": "out of memory"}), run("two", {})], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"among the 0 found$"):
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
