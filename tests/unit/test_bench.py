"""What a bench says of its figures, and how it takes turns."""

import json
import os
from pathlib import Path

import pytest
import torch
from support import Start

from privatenet.distributed.config import to_yaml
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.ranks import ALONE
from privatenet.launch import cli
from privatenet.launch.bench import timing
from privatenet.launch.bench.figures import Figure, Spread
from privatenet.launch.bench.first_step import FIRST_STEP
from privatenet.launch.bench.report import against, read_bench, write_bench
from privatenet.launch.bench.scale import bytes_sent, projection
from privatenet.launch.bench.settings import stage_config
from privatenet.launch.bench.step import private_task, random_inputs, step_operations
from privatenet.launch.bench.timing import Case, in_another_unit, measure, one_core, write_trace
from privatenet.models.objectives.term import known_cross_entropy, mean_of_known, on_known

CPU = torch.device("cpu")


def test_a_share_is_of_the_limit_of_the_same_repetition_and_more_is_better() -> None:
    rate = Figure("loop", "images/s", (90.0, 50.0, 80.0), "bare", (100.0, 50.0, 100.0))
    assert rate.share == Spread(0.9, pytest.approx(0.85), pytest.approx(0.95))
    seconds = Figure("start", "s", (8.0, 8.0, 8.0), "imports", (4.0, 2.0, 6.0))
    assert seconds.share is not None
    assert seconds.share.median == 0.5
    assert Figure("alone", "s", (1.0,)).share is None


def test_figures_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    figures = [Figure("a", "images/s", (1.0, 2.5), "b", (2.0, 4.0), 12.0), Figure("b", "images/s", (2.0, 4.0))]
    write_bench(tmp_path / "new" / "bench.json", {"repeats": 2}, figures, ["a note"])
    assert list(read_bench(tmp_path / "new" / "bench.json").values()) == figures
    values = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert values["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert (values["settings"], values["notes"]) == ({"repeats": 2}, ["a note"])
    assert values["figures"][0]["share_of_limit"] == pytest.approx(0.5625)


@pytest.mark.parametrize("content", ["", "[]", '{"figures": [{"name": "a"}]}'])
def test_a_file_that_is_no_bench_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(ConfigError, match="accepted: what `privatenet bench --out FILE` wrote"):
        read_bench(tmp_path / "bench.json")


def test_what_lies_within_the_spread_is_said_in_brackets() -> None:
    before = Figure("a", "images/s", (90.0, 100.0, 110.0))
    assert against(Figure("a", "images/s", (98.0, 105.0, 112.0)), before) == "(1.05x)"
    assert against(Figure("a", "images/s", (199.0, 200.0, 201.0)), before) == "2.00x"
    assert against(Figure("a", "s", (50.0,)), Figure("a", "s", (100.0,))) == "2.00x"


def test_cases_take_turns_and_each_stands_beside_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(timing, "LEAST_S", 0.0)
    cases = [
        Case("slow", lambda: order.append("slow"), 1, limit="fast"),
        Case("fast", lambda: order.append("fast"), 1),
    ]
    slow, fast = measure(cases, 3, ALONE)
    assert order[4:] == ["slow", "fast", "fast", "slow", "slow", "fast"], "after a call and a timed call of each"
    assert len(slow.values) == 3
    assert (slow.limits, fast.limits) == (fast.values, ())
    doubled = in_another_unit(slow, "doubled", "things/s", 2, fast)
    assert doubled.values == tuple(2 * value for value in slow.values)


def test_one_core_is_what_threads_get_within_the_block_and_all_are_there_again() -> None:
    cores = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == cores


def test_a_steps_operations_are_three_times_those_of_its_forward_pass() -> None:
    """Of ResNet-18 at 224 px that is 1.8 billion multiplications; the first layer's pictures need no gradient."""
    operations = step_operations(private_task(224), random_inputs(224, 2, CPU)) / 2
    assert operations == pytest.approx(3 * 2 * 1.82e9, rel=0.05)


def test_a_projection_says_what_it_assumes() -> None:
    assert bytes_sent(1_000_000, 2) == 4e6
    eight, many = projection(10_000, 64, 11_000_000)
    assert eight.startswith("8 GPUs: ")
    assert "300 GB/s" in eight
    assert "25 GB/s" in many


def test_means_over_known_samples_are_those_of_the_known_ones_alone() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for labels in (torch.tensor([0, 2, -1, 1, -1, 0]), torch.tensor([-1] * 6), torch.tensor([-1, 1, -1, -1, -1, -1])):
        fast = known_cross_entropy(logits, labels)
        plain = on_known(torch.nn.functional.cross_entropy, labels >= 0, logits, labels)
        torch.testing.assert_close(fast, plain)
        for ours, theirs in zip(torch.autograd.grad(fast, logits), torch.autograd.grad(plain, logits), strict=True):
            torch.testing.assert_close(ours, theirs)
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])
    assert mean_of_known(values, torch.tensor([True, True, False])).tolist() == [2.0, 3.0]


def test_a_bench_prints_a_table_and_writes_figures(start: Start, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_bench(before, {}, [Figure("loader, one core: streaming", "images/s", (1.0,))], [])
    small = ("--samples", "64", "--repeats", "1", "--out", str(after), "--against", str(before))
    done = start("-m", "privatenet.launch.cli", "bench", "loader", *small)
    assert done.returncode == 0, done.stderr[-3000:]
    streaming = read_bench(after)["loader, one core: streaming"]
    assert streaming.limit == "loader, one core: bare decoding"
    assert streaming.peak_mib > 0
    assert read_bench(after)["sharding, one core: build"].limit == "sharding, one core: bare reading and writing"
    assert "against before" in done.stdout
    assert str(after) in done.stdout


def test_a_trace_says_what_was_computed(tmp_path: Path) -> None:
    case = Case("step 8 px: engine", lambda: torch.ones(8, 8) @ torch.ones(8, 8), 1)
    path = write_trace(case, tmp_path / "traces", CPU)
    assert path.name == "step-8-px-engine.json"
    names = [event["name"] for event in json.loads(path.read_text())["traceEvents"]]
    assert names.count("aten::mm") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["everything"], "accepted are loader, step, stage"),
        (["stage", "--traces", "t"], "--traces is of the part step, and only stage is to be measured"),
    ],
)
def test_a_part_that_does_not_exist_or_is_not_measured_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", *arguments])
    assert message in capsys.readouterr().err


def test_training_opens_a_store_of_runs_before_its_first_step(start: Start, shards: Path, tmp_path: Path) -> None:
    """It takes seconds, which nobody should wait for who wants to see whether training goes."""
    config = stage_config(shards, tmp_path / "run", 64, 8)
    (tmp_path / "bench.yaml").write_text(to_yaml(config))
    done = start("-m", "privatenet.launch.bench.first_step", "target", "--config", str(tmp_path / "bench.yaml"))
    assert FIRST_STEP in done.stderr
    assert (tmp_path / "run" / "target" / "config.yaml").is_file()
    assert not list((tmp_path / "run").rglob("mlflow.db"))
