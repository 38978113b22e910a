"""The comparison's page in a browser: quiet, alone, drawn, no wider than a telephone; and the command on a store."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest
from compared import HOSTILE, networks, sweep
from support import FINISHED_STATE
from test_audit_page import CHROMIUM, Visit, visited, widths

from privatenet.data_shards.uri import Uri
from privatenet.distributed import checkpoint
from privatenet.distributed.tracking.store import connect
from privatenet.launch import cli
from privatenet.models.network import NetworkSpec, build_network
from privatenet.tune.compare.report import compare

Metric, Param = (getattr(pytest.importorskip("mlflow.entities"), name) for name in ("Metric", "Param"))

LATER = "--virtual-time-budget=10000"
"""Charts are drawn after the page is there."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CHROMIUM is None:
        pytest.skip("needs chromium or chromium-browser on PATH")
    folder = tmp_path_factory.mktemp("compare")
    compare(networks(), folder, uri="sqlite:///mlflow.db")
    return folder / "compare.html"


@pytest.fixture(scope="module")
def visit(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visited(page, tmp_path_factory.mktemp("visit"), LATER)


def test_the_page_speaks_to_the_console_or_to_the_network(visit: Visit) -> None:
    assert visit.console == []
    assert [
        line for line in visit.requests if ".clients.google.com:" not in line
    ] == []  # the browser's own, later ones


def test_a_chart_is_not_drawn_or_a_name_becomes_markup(visit: Visit) -> None:
    charts = {name: len(re.findall(rf'id="chart-{name}".*?<svg class="main-svg"', visit.dom, re.DOTALL)) for name in (
        "front", "parallel", "utility", "leakage")}  # fmt: skip
    assert charts == dict.fromkeys(("front", "parallel", "utility", "leakage"), 1)
    assert visit.dom.count('class="errorbar"') > 20
    assert HOSTILE not in re.sub(r"<script.*?</script>", "", visit.dom, flags=re.DOTALL)


def test_the_page_offers_to_upload(visit: Visit) -> None:
    buttons = set(re.findall(r'class="modebar-btn[^"]*"[^>]*data-title="([^"]*)"', visit.dom))
    assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


def test_the_page_scrolls_sideways(page: Path, tmp_path: Path) -> None:
    assert widths(page, tmp_path, (390, 1280), LATER) == {390: 390, 1280: 1280}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A store with a sweep as experiment `faces`, of whose networks only trial-000, the knee, is on this machine.

    Its URI, and the ids of runs by name.
    """
    folder = tmp_path_factory.mktemp("store")
    spec = NetworkSpec("resnet18", 3, 64, "linear", "none")
    weights = {f"network.{name}": value for name, value in build_network(spec).state_dict().items()}
    kept = checkpoint.save(
        folder / "kept", {"model": weights}, FINISHED_STATE | {"spec": dataclasses.asdict(spec)}
    ).folder
    client = connect(Uri(f"sqlite:///{folder / 'mlflow.db'}"))
    experiment = client.create_experiment("faces", (folder / "files").as_uri())
    ids = {}
    for run in sweep():
        tags = run.tags | ({"checkpoint": str(kept)} if run.name == "trial-000" else {})
        run_id = ids[run.name] = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        metrics = [Metric(key, value, 0, 0) for key, value in run.metrics.items()]
        client.log_batch(run_id, metrics, [Param(key, value) for key, value in run.params.items()])
        client.set_terminated(run_id, run.status)
    return f"sqlite:///{folder / 'mlflow.db'}", ids


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")
def test_the_chosen_network_is_not_the_one_registered(
    store: tuple[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, ids = store
    arguments = ["compare", "faces", "--uri", uri, "--output", str(tmp_path / "out"), "--register", "hidden"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "model    hidden, version 1, alias chosen: trial-000" in said
    assert 'mlflow.pytorch.load_model("models:/hidden@chosen")' in said
    version = connect(Uri(uri)).get_model_version_by_alias("hidden", "chosen")
    assert (version.version, version.run_id) == (1, ids["trial-000"])
    rows = csv.DictReader((tmp_path / "out" / "front.csv").read_text().splitlines())
    assert {row["name"]: row["knee"] for row in rows}["trial-000"] == "True"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("trial-004", [], "holds no complete checkpoint"),
        ("unprotected", [], "No private network is on the front, so that it has no knee to choose. Give the number"),
        ("unprotected", ["--pick", "1"], "says nothing of a checkpoint"),
        ("unprotected", ["--pick", "2"], "there is no '2': accepted are knee and 1 to 1"),
        ("unprotected", ["--leak", "arm-race"], "accepted are arm-gender, backbone-gender"),
    ],
)
def test_what_cannot_be_done_is_not_said_in_one_line(
    store: tuple[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: list[str],
    said: str,
) -> None:  # fmt: skip
    uri, ids = store
    assert cli.main(["compare", ids[name], "--uri", uri, "--output", str(tmp_path), "--register", "m", *more]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"privatenet: error: .*\n", error)
    assert said in error
