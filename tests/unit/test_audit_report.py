"""The report says what the findings say, to eyes, ears and parsers, and no more."""

import dataclasses
import io
import math
import re
from pathlib import Path

import pytest
from audited import AGES, GENDER, Page, attack, estimate, findings, leak
from matplotlib import rcParams
from rich.console import Console

from privatenet.audit.attack.findings import Estimate, Findings, Leak
from privatenet.audit.certificate.words import at_most
from privatenet.audit.errors import AuditError
from privatenet.audit.pareto import front
from privatenet.audit.report.card import write_card
from privatenet.audit.report.cells import markdown_table
from privatenet.audit.report.charts import describe_attackers, describe_confusion
from privatenet.audit.report.curves import LambdaMark, lambda_curves
from privatenet.audit.report.page import write_report
from privatenet.audit.report.style import to_svg
from privatenet.audit.report.tables import (
    attacks_table,
    controls_table,
    leaks_table,
    measures_table,
    networks_table,
    protocol_table,
)
from privatenet.audit.report.terminal import print_summary
from privatenet.audit.report.text import in_words, interval, number, percent, points, with_interval
from privatenet.audit.report.trade_off import Mark
from privatenet.audit.report.verdict import at_protected, beyond_target, comparison, verdict, verdicts

NOTHING = Estimate(math.nan, math.nan, math.nan)
HOSTILE = '<script>alert("x")</script> $\\frac{ | `id="y"` \u5973 ../../z'
MARKS = (Mark("hsic 0.3", "hsic", 0.3, estimate(0.85), estimate(0.11), "gender"),)
CURVE = {"backbone-gender": (LambdaMark(0.5, estimate(0.84), None, estimate(0.8)),)}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    write_report(findings(), folder, MARKS, CURVE, [(b"\x89PNG", "the mean face")])
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report without faces in which every name is markup."""
    folder = tmp_path_factory.mktemp("names") / "hostile"
    write_hostile(folder)
    return folder


def write_hostile(folder: Path) -> None:
    counts = {HOSTILE: 60, "other": 80}
    attacks = (attack(HOSTILE, HOSTILE, 0.8, counts, 0.2, 0.8),)
    named = dataclasses.replace(leak(HOSTILE, HOSTILE, counts, 0.2), attacks=attacks, best=0)
    marks = [Mark(HOSTILE, HOSTILE, 0.1, estimate(0.8), estimate(0.1))]
    write_report(with_leaks(named), folder, marks, {HOSTILE: CURVE["backbone-gender"]})


def with_leaks(*leaks: Leak) -> Findings:
    """An audit of one network with these leaks."""
    whole_audit = findings()
    only = dataclasses.replace(whole_audit.audited, leaks=leaks)
    return dataclasses.replace(whole_audit, networks=(only,), controls=())


def undefined(attribute: str = "gender") -> Leak:
    """A leak of which nothing was tested."""
    empty = leak("backbone", attribute, {"male": 3, "female": 4}, 0.1)
    attacks = tuple(
        dataclasses.replace(
            item,
            accuracy=NOTHING,
            excess=NOTHING,
            balanced_accuracy=NOTHING,
            auc=NOTHING,
            bits=NOTHING,
            tuning=math.nan,
            confusion=((0, 0), (0, 0)),
        )
        for item in empty.attacks
    )
    counts = {"class_counts": (0, 0), "majority": math.nan, "entropy": math.nan, "code_length": NOTHING}
    return dataclasses.replace(empty, attacks=attacks, **counts)


def telling_nothing(counts: dict[str, int], half: float) -> Leak:
    """A leak at chance by every measure, with intervals of this half width."""
    bare, chance = leak("backbone", "gender", counts, 0.0), estimate(0.5, half)
    measures = {"excess": estimate(0, half), "bits": estimate(0, half), "balanced_accuracy": chance, "auc": chance}
    return dataclasses.replace(bare, attacks=tuple(dataclasses.replace(item, **measures) for item in bare.attacks))


def test_a_figure_on_the_page_differs_from_the_findings(page: Page) -> None:
    assert len(page.figures) > 300
    assert not page.wrong_figures()


def test_a_figure_of_an_attack_is_missing_from_the_page(page: Page) -> None:
    shown = {cell["data-from"] for cell in page.figures}
    for place, found in enumerate(findings().audited.leaks):
        for index in range(len(found.attacks)):
            for name in ("accuracy", "excess", "balanced_accuracy", "bits", "tuning"):
                assert f"networks.0.leaks.{place}.attacks.{index}.{name}" in shown


def test_a_cell_shows_another_figure_than_it_carries(report: Path) -> None:
    text = (report / "report.html").read_text()
    cells = re.findall(r'data-value="([^"]+)"[^>]*data-from="[^"]*accuracy">([^< ]+)', text)
    assert len(cells) > 100
    assert all(shown == percent(math.nan if value == "null" else float(value)) for value, shown in cells)


def test_the_page_carries_other_findings_than_it_was_made_from(page: Page) -> None:
    assert page.findings["fingerprint"] == findings().fingerprint
    assert page.findings["networks"][0]["leaks"][3]["attacks"][0]["auc"]["value"] is None


def test_the_page_asks_the_network_for_anything(report: Path, page: Page) -> None:
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", (report / "report.html").read_text())
    assert not re.search(r"https?://", text)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_a_chart_has_nothing_to_say_to_those_who_cannot_see_it(page: Page) -> None:
    assert len(page.charts) == page.tags.count("svg") > 20
    assert all(page.charts)
    assert page.tags.count("desc") == len(page.charts)


def test_two_elements_of_the_page_share_an_id(page: Page) -> None:
    assert sorted(set(page.ids)) == sorted(page.ids)


def test_a_link_inside_the_page_leads_nowhere(page: Page) -> None:
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_a_name_from_the_data_set_becomes_markup(hostile: Path) -> None:
    page = Page((hostile / "report.html").read_text())
    assert page.tags.count("script") == 1
    assert page.findings["networks"][0]["leaks"][0]["tap"] == HOSTILE
    assert not page.wrong_figures()
    assert "<script" not in (hostile / "report.md").read_text().split("```json")[0]
    assert {file.parent for file in hostile.parent.rglob("*frac*")} == {hostile / "figures"}


def test_a_markdown_picture_is_not_where_its_link_says(report: Path) -> None:
    text = (report / "report.md").read_text()
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) > 20
    assert all((report / link).is_file() for link in links)


def test_a_row_of_a_markdown_table_has_too_many_or_too_few_cells() -> None:
    audit = findings()
    tables = [
        leaks_table(audit),
        measures_table(audit),
        controls_table(audit),
        networks_table(audit),
        protocol_table(audit),
    ]
    tables.append(attacks_table(audit.audited.leaks[0]))
    tables.append(attacks_table(dataclasses.replace(audit.audited.leaks[0], attribute="a|b")))
    for table in tables:
        lines = markdown_table(table).splitlines()
        assert len(lines) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.columns) + 1}


def test_the_leaks_table_leaves_out_what_is_needed_to_judge_a_figure() -> None:
    columns = ("attribute", "tap", "deployment", "majority %", "floor %", "unprotected %", "this network %")
    assert leaks_table(findings()).columns == (*columns, "left %", "faces")
    measures = {"excess", "change", "robustness %", "bits", "code length", "AUC", "balanced %", "samples"}
    assert measures <= set(measures_table(findings()).columns)


@pytest.mark.parametrize(
    ("tap", "name", "where"),
    [
        ("layer4", "layer4", "enclave"),
        ("release", "1 release", "split"),
        ("release_x10", "10 releases", "split, 10"),
        ("logits", "logits", "output"),
        ("label", "label", "label"),
    ],
)
def test_a_tap_is_shown_by_the_name_that_files_know(tap: str, name: str, where: str) -> None:
    audit = with_leaks(leak(tap, "gender", GENDER, 0.2))
    assert [str(cell) for cell in leaks_table(audit).rows[0][:3]] == ["gender", name, where]
    assert f" at {name} the best of " in verdicts(audit)[0].sentence
    assert f"gender from {name}" in describe_attackers(audit.audited.leaks[0])


def test_the_floor_is_of_another_attribute() -> None:
    rows = [[str(cell) for cell in row] for row in leaks_table(findings()).rows]
    assert {(row[0], row[4]) for row in rows} == {("gender", "63.9"), ("age_group", "53.0")}


def test_one_is_said_as_if_there_were_several(hostile: Path, report: Path) -> None:
    assert "1 tap, 1 private attribute, every" in (hostile / "report.html").read_text()
    assert "4 taps, 2 private attributes, every" in (report / "report.html").read_text()


def test_controls_leave_out_the_network_that_was_never_trained() -> None:
    rows = [[str(cell) for cell in row] for row in controls_table(findings()).rows]
    assert ["gender", "best attacker on a network never trained", "layer4"] in [row[:3] for row in rows]
    assert rows[0][:5] == ["gender", "sees only the true target label", "\N{EN DASH}", "60.8", "63.9 (61.9 to 65.9)"]


def test_a_leak_is_not_said_with_its_attackers_samples_and_majority() -> None:
    audit = findings()
    assert verdict(audit.audited.leaks[1], audit) == (
        "gender leaks at 4 of 4 taps: at backbone the best of 6 attackers (mlp1, whitened) is right for "
        "84.9 % (83.0 to 86.8) of 1,238 test faces; always answering the majority gives 60.8 %."
    )


def test_a_verdict_hides_the_tap_that_leaks_most() -> None:
    first, second = verdicts(findings())
    assert (first.attribute, first.status, first.leak.tap) == ("gender", "leaks", "layer4")
    assert (second.attribute, second.status, second.leak.tap) == ("age_group", "none found", "backbone")


def test_no_leak_found_is_said_as_if_there_were_none() -> None:
    audit = findings()
    assert verdict(audit.audited.leaks[4], audit) == (
        "No leak of age_group was found, which is no proof of none: no attacker did better than the majority class "
        "(53.0 % of 1,239 test faces) at any of 3 taps; the 95 % intervals still allow up to 1.6 points; "
        "too few test faces to say anything of 0-3 (none) and 70+ (4 test faces)."
    )


def test_a_leak_that_accuracy_does_not_show_is_missed() -> None:
    quiet = leak("arm", "gender", {"male": 100, "female": 900}, 0.0)
    best = dataclasses.replace(quiet.headline, bits=estimate(0.12, 0.03))
    audit = with_leaks(dataclasses.replace(quiet, attacks=(best,), best=0))
    assert verdicts(audit)[0].status == "leaks"
    assert verdicts(audit)[0].sentence == (
        "gender leaks, though not in accuracy: at arm the one attacker (mlp1, whitened) is right for "
        "90.0 % (88.1 to 91.9) of 1,000 test faces; always answering the majority gives 90.0 %, but its answers tell "
        "0.12 bits (0.09 to 0.15) of the 0.47 that a label holds."
    )


def test_a_handful_of_faces_is_enough_to_say_that_nothing_leaks() -> None:
    (judged,) = verdicts(with_leaks(telling_nothing({"male": 18, "female": 24}, 0.04)))
    assert judged.status == "undecided"
    assert judged.sentence.startswith("gender is undecided: ")
    assert "few to judge by (only 42 test faces)" in judged.sentence


def test_a_wide_interval_is_enough_to_say_that_nothing_leaks() -> None:
    (judged,) = verdicts(with_leaks(telling_nothing(GENDER, 0.08)))
    assert judged.status == "undecided"
    assert "the 95 % interval still allows up to 8.0 points" in judged.sentence


def test_a_leak_on_few_faces_does_not_say_so() -> None:
    (judged,) = verdicts(with_leaks(leak("backbone", "gender", {"male": 9, "female": 33}, 0.2)))
    assert judged.status == "leaks"
    assert "only 42 test faces" in judged.sentence
    assert "too few test faces to say anything of male (9 test faces)" in judged.sentence


@pytest.mark.parametrize("counts", [{"male": 0, "female": 240}])
def test_an_attribute_with_one_class_in_the_test_gets_a_verdict(counts: dict[str, int]) -> None:
    (judged,) = verdicts(with_leaks(leak("backbone", "gender", counts, 0.0)))
    assert judged.status == "undecided"
    assert judged.sentence == "gender cannot be judged: all 240 test faces are of class female."


def test_undefined_figures_stop_the_report(tmp_path: Path) -> None:
    audit = with_leaks(undefined())
    write_report(audit, tmp_path)
    write_card(audit, tmp_path / "card.md")
    print_summary(audit, Console(file=io.StringIO()))
    assert verdicts(audit)[0].sentence == "gender cannot be judged: no test face has a label for it."
    assert not Page((tmp_path / "report.html").read_text()).wrong_figures()
    for file in ("report.html", "report.md", "card.md"):
        shown = re.sub(r"<(style|script).*?</\1>|null", "", (tmp_path / file).read_text(), flags=re.DOTALL)
        assert not re.search(r"\bnan\b", shown, re.IGNORECASE), file


def test_an_undefined_figure_is_written_as_a_number() -> None:
    assert (number(math.nan), percent(math.inf), points(math.nan), interval(NOTHING), with_interval(NOTHING)) == (
        "\u2013",
    ) * 5
    assert (points(-0.0001), points(-0.018), percent(0.875)) == ("+0.0", "\u22121.8", "87.5")
    assert (in_words([]), in_words(["a"]), in_words(["a", "b", "c"])) == ("", "a", "a, b and c")


def test_the_comparison_is_made_with_another_tap() -> None:
    audit = findings()
    said = comparison(audit.audited.leaks[1], audit)
    assert said == (
        "On the unprotected network it is 89.9 %: a change of \u22125.0 points (\u22127.4 to \u22122.6). "
        "Of what its backbone gives away above the floor, 120 % is left (106 to 136)."
    )
    hidden = dataclasses.replace(audit.audited.leaks[1], left=estimate(-0.02, 0.15))
    assert comparison(hidden, audit).endswith("above the floor, nothing is left (\u221217 to 13 %).")
    assert "left" not in comparison(dataclasses.replace(hidden, left=None), audit)
    assert comparison(audit.audited.leaks[1], with_leaks(*audit.audited.leaks)) == ""


def test_taps_that_tell_more_than_the_target_are_others_than_their_figures_say() -> None:
    audit = findings()
    alone = "The true emotion alone gives 63.9 %; surely more is read at"
    assert beyond_target("gender", audit) == f"{alone} layer4 and backbone."

    def said(above: Estimate | None) -> str:
        leaks = tuple(dataclasses.replace(leak, above=above) for leak in audit.audited.leaks)
        networks = (dataclasses.replace(audit.audited, leaks=leaks),)
        return beyond_target("gender", dataclasses.replace(audit, networks=networks))

    assert said(estimate(0.02, 0.02)) == f"{alone} none of 4 taps."
    assert said(None) == ""
    assert beyond_target("gender", dataclasses.replace(audit, controls=())) == ""


def test_what_is_read_where_nothing_is_protected_is_said() -> None:
    audit = findings()
    layer4, backbone = (
        leak
        for leak in audit.audited.leaks
        if leak.attribute == "gender" and leak.tap != "logits" and leak.tap != "label"
    )
    read = percent(backbone.headline.accuracy.value)
    said = at_protected(layer4, audit)
    assert said.startswith(f"Where it is protected, the best attacker is right for {read} % (")
    assert said.endswith(") at backbone.")
    assert at_protected(backbone, audit) == ""
    nothing = dataclasses.replace(audit.audited, protected=("backbone-age_group",))
    assert at_protected(layer4, dataclasses.replace(audit, networks=(nothing,))) == ""


def test_the_front_holds_a_dominated_network_or_lacks_one_that_is_not() -> None:
    candidates = [(0.8, 0.1), (0.9, 0.1), (0.9, 0.3), (0.95, 0.3), (0.7, 0.0), (0.9, 0.1), (math.nan, 0.0)]
    assert front(candidates) == (False, True, False, True, True, True, False)
    assert front([]) == ()


def test_a_mark_whose_attribute_is_unclear_is_drawn_somewhere(tmp_path: Path) -> None:
    mark = Mark("x", "x", None, estimate(0.8), estimate(0.1))
    for wrong in (mark, dataclasses.replace(mark, attribute="race")):
        with pytest.raises(AuditError, match="accepted: gender, age_group"):
            write_report(findings(), tmp_path, [wrong])
    assert not list(tmp_path.iterdir())


def test_the_same_findings_give_other_bytes(hostile: Path, tmp_path: Path) -> None:
    write_hostile(tmp_path)
    first, again = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (hostile, tmp_path)
    )
    assert sorted(first) == sorted(again)
    kinds = {file.stem.partition("-")[0] for file in first if file.suffix == ".svg"}
    assert kinds == {"attackers", "best", "confusion", "every", "lambda", "trade", "training"}
    assert [name for name in first if first[name] != again[name]] == []


def test_a_chart_alters_matplotlibs_settings() -> None:
    before = {name: value for name, value in dict.items(rcParams) if name != "backend"}
    assert "</svg>" in to_svg(lambda_curves("arm-gender", CURVE["backbone-gender"], 0.6))
    assert before == {name: value for name, value in dict.items(rcParams) if name != "backend"}


def test_a_class_without_samples_divides_by_zero() -> None:
    assert "0-3 not tested" in describe_confusion(leak("arm", "age_group", AGES, 0.1))


def test_faces_are_shown_that_nobody_handed_over(page: Page, hostile: Path) -> None:
    assert (page.tags.count("img"), [link for link in page.links if link.startswith("data:image")]) == (
        1,
        ["data:image/png;base64,iVBORw=="],
    )
    assert Page((hostile / "report.html").read_text()).tags.count("img") == 0


def test_the_summary_does_not_fit_a_terminal_of_80_columns() -> None:
    stream = io.StringIO()
    audit = findings()
    several = leak("release_x10", "age_group", AGES, -0.004, -0.05)
    audited = dataclasses.replace(audit.audited, leaks=(*audit.audited.leaks, several))
    print_summary(dataclasses.replace(audit, networks=(audited, *audit.networks[1:])), Console(file=stream, width=80))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert "emotion, this network: 84.2 % right (82.3 to 86.1; mean over 20 draws of the " in stream.getvalue()
    assert "gender, %: floor 63.9, majority 60.8" in lines
    known, label = (next(line for line in lines if line.startswith(name)) for name in ("enclave, backbone", "label"))
    bound, dash = at_most(audited.certificates[0].certificate.bound), "\N{EN DASH}"
    assert " ".join(known.split()) == (
        f"enclave, backbone {dash} 89.9 51.3 84.9 (83.0 to 86.8) 120 (106 to 136) {dash}"
    )
    assert " ".join(label.split()) == (
        f"label {dash} 66.2 {dash} 61.2 (59.3 to 63.1) 2 (\N{MINUS SIGN}13 to 17) {bound}"
    )
    assert any(line.startswith("split, 10 ") for line in lines)


def test_the_card_invents_what_the_findings_do_not_say(tmp_path: Path) -> None:
    write_card(findings(), tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert re.findall(r"^## (.+)", text, re.MULTILINE) == [
        "Model details",
        "Intended use",
        "Out-of-scope use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    ]
    assert "- licence: not recorded" in text
    assert "- network: not recorded" in text
    assert f"- sha256: {findings().audited.sha256}" in text
    assert verdicts(findings())[0].sentence in text
