"""What README tells people to type is understood: every command, as written, gets as far as what is not there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support import ROOT

from privatenet.launch import cli, train

MISSING = {
    "shards": r"PATH/TO/basic|faces\.yaml",
    "run": r"manifest\.json: no data set here",
    "train": r"manifest\.json: no data set here",
    "audit": "holds no complete checkpoint",
    "predict": "holds no complete checkpoint",
    "certify": "holds no complete checkpoint",
    "reproduce": r"manifest\.json: no data set here",
    "sweep": r"manifest\.json: no data set here",
    "compare": "runs/sweep_rafdb",
    "send": "there is no mlflow-outbox",
}
"""What each command says it lacks in an empty folder."""


def commands() -> list[str]:
    """Of README's blocks and of its text, without comments."""
    text = (ROOT / "README.md").read_text()
    blocks = [body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if not kind]
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    found = [*lines, *re.findall(r"`([^`\n]+)`", text)]
    return list(dict.fromkeys(line for line in found if re.match(r"(privatenet|deepspeed|torchrun) \w*-*\w", line)))


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("privatenet ")])
def test_a_command_of_the_readme_is_not_understood(
    command: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command.replace("--train 50000", "--train 40 --test 8"))[1:]
    if arguments[0] == "shards":
        shutil.copytree(shards, "shards/demo")
    try:
        code = cli.main(arguments)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    output, error = capsys.readouterr()
    if code == 0:
        assert output
    else:
        assert (code, error.count("\n")) == (2, 1), error
        assert re.search(MISSING[arguments[0]], error), error


@pytest.mark.parametrize("command", [line for line in commands() if not line.startswith("privatenet ")])
def test_a_launcher_of_the_readme_starts_what_is_not_understood(command: str) -> None:
    words = shlex.split(command)
    module = words.index("privatenet.launch.train")
    assert words[module - 1] in ("--module", "-m")
    config, stage = train.parse(train.with_ready_configs(words[module + 1 :]))
    assert (config.output, stage) == ("runs/rafdb", "run")


def test_the_readme_names_few_commands() -> None:
    assert len(commands()) > 15
