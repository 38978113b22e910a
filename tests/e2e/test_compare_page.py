"""The comparison's page in a browser: quiet, alone, drawn, no wider than a telephone; and the command on a store."""

import csv
import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
from compared import HOSTILE, sweep
from test_audit_page import CHROMIUM, FRAME, POLICY, asked, browse, console, listening

from privatenet.data_shards.uri import Uri
from privatenet.distributed import checkpoint
from privatenet.distributed.tracking.store import connect
from privatenet.launch import cli
from privatenet.models.network import NetworkSpec, build_network
from privatenet.tune.compare.candidates import compare

LATER = "--virtual-time-budget=10000"
"""Charts are drawn after the page is there."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CHROMIUM is None:
        pytest.skip("needs chromium or chromium-browser on PATH")
    folder = tmp_path_factory.mktemp("compare")
    compare(sweep(), folder, uri="sqlite:///mlflow.db")
    return folder / "compare.html"


def test_the_page_speaks_to_the_console_or_to_the_network(page: Path, tmp_path: Path) -> None:
    with listening() as (port, heard):
        seen = browse(page, tmp_path, f"--proxy-server=127.0.0.1:{port}", LATER, "--dump-dom")
    assert console(seen) == []
    assert [line for line in asked(heard) if ".clients.google.com:" not in line] == []  # the browser's own, later ones


def test_a_chart_is_not_drawn_or_a_name_becomes_markup(page: Path, tmp_path: Path) -> None:
    seen = browse(page, tmp_path, LATER, "--dump-dom").stdout
    drawn = {name: len(re.findall(rf'id="chart-{name}".*?<svg class="main-svg"', seen, re.DOTALL)) for name in (
        "front", "parallel", "utility", "leakage")}  # fmt: skip
    assert drawn == dict.fromkeys(("front", "parallel", "utility", "leakage"), 1)
    assert seen.count('class="errorbar"') > 20
    assert HOSTILE not in re.sub(r"<script.*?</script>", "", seen, flags=re.DOTALL)


def test_the_page_offers_to_upload(page: Path, tmp_path: Path) -> None:
    seen = browse(page, tmp_path, LATER, "--dump-dom").stdout
    buttons = set(re.findall(r'class="modebar-btn[^"]*"[^>]*data-title="([^"]*)"', seen))
    assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_scrolls_sideways(page: Path, tmp_path: Path, width: int) -> None:
    framed = tmp_path / "framed.html"
    framed.write_text(FRAME.format(width=width, page=html.escape(POLICY.sub("", page.read_text()))))
    (title,) = re.findall(r"<title>(\[.*?\])</title>", browse(framed, tmp_path, LATER, "--dump-dom").stdout)
    scrolled, inner = json.loads(title)
    assert inner == width
    assert scrolled <= inner


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a sweep as experiment `faces`, of whose networks only trial-000, the knee, is on this machine."""
    folder = tmp_path_factory.mktemp("store")
    spec = NetworkSpec("resnet18", 3, 64, "linear", "none")
    weights = {f"network.{name}": value for name, value in build_network(spec).state_dict().items()}
    kept = checkpoint.save(folder / "kept", {"model": weights}, {"spec": dataclasses.asdict(spec)}).folder
    client = connect(Uri(f"sqlite:///{folder / 'mlflow.db'}"))
    experiment = client.create_experiment("faces", (folder / "files").as_uri())
    for made in sweep():
        tags = made.tags | ({"checkpoint": str(kept)} if made.name == "trial-000" else {})
        run_id = client.create_run(experiment, tags=tags, run_name=made.name).info.run_id
        for key, value in made.params.items():
            client.log_param(run_id, key, value)
        for key, figure in made.metrics.items():
            client.log_metric(run_id, key, figure)
        client.set_terminated(run_id, made.status)
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")
def test_the_chosen_network_is_not_the_one_registered(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "faces", "--uri", store, "--output", str(tmp_path / "out"), "--register", "hidden"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "model    hidden, version 1, alias chosen: trial-000" in said
    assert 'mlflow.pytorch.load_model("models:/hidden@chosen")' in said
    assert connect(Uri(store)).get_model_version_by_alias("hidden", "chosen").version == 1
    kept = csv.DictReader((tmp_path / "out" / "front.csv").read_text().splitlines())
    assert {row["name"]: row["knee"] for row in kept}["trial-000"] == "True"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--register", "m", "--pick", "15"], "there is no '15': accepted are knee and 1 to 14"),
        (["--register", "m", "--pick", "3"], "holds no complete checkpoint"),
        (["--register", "m", "--pick", "1"], "says nothing of a checkpoint"),
        (["--leak", "arm-race"], "accepted are arm-gender, backbone-gender"),
    ],
)
def test_what_cannot_be_done_is_not_said_in_one_line(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert cli.main(["compare", "faces", "--uri", store, "--output", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"privatenet: error: .*\n", error)
    assert said in error
