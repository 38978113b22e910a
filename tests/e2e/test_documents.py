"""What the documents tell people to type is understood: every command, as written, gets as far as what is not there;
every file in them is accepted; every message that they explain is one of ours; and the site holds together."""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest
from documents import PAGES, Block, blocks, commands, write_files
from PIL import Image
from support import ROOT

from privatenet.audit.export.settings import ExportConfig
from privatenet.audit.foreign.preprocessing import Preprocessing
from privatenet.audit.foreign.settings import ForeignConfig
from privatenet.audit.paper.plan import ReproduceConfig
from privatenet.audit.settings import AuditConfig, CertifyConfig
from privatenet.data_shards.photographs.crop import CropConfig
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.sources.rafdb import RAFDB_SCHEMA
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.resolve import SECTIONS
from privatenet.launch import cli, train
from privatenet.launch.commands import audit, sweep
from privatenet.launch.ready import with_ready_configs
from privatenet.tune.settings import RayConfig, SearchConfig, SpaceConfig
from privatenet.tune.space import check_search, check_space

MISSING = {
    "predict": "holds no complete checkpoint",
    "budget": "holds no complete checkpoint",
    "export": "holds no complete checkpoint",
    "shards": r"PATH/TO|faces\.csv|no data set here|faces\.yaml|'emotion'",
    "run": r"manifest\.json: no data set here",
    "train": r"manifest\.json: no data set here",
    "audit": r"holds no complete checkpoint|no data set here|faces\.npz: is no file|preprocessing\.yaml",
    "certify": "holds no complete checkpoint",
    "reproduce": r"manifest\.json: no data set here",
    "sweep": r"manifest\.json: no data set here",
    "compare": "runs/sweep_rafdb",
    "send": "there is no mlflow-outbox",
    "bench": r"before\.json: is no bench's file|no data set here",
}
"""What each command says it lacks in an empty folder."""

THEIRS = ("unrecognized arguments", "Group ", "Parser key ")
"""Messages of the library that reads settings."""

LAUNCHERS = ("deepspeed", "torchrun")
PROGRAMS = ("make", "python", "docker", "kubectl", "sbatch", "ray", "mlflow", *LAUNCHERS)

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the source tree")


def ours(command: str) -> bool:
    return command.startswith("privatenet ")


def names_only(command: str) -> bool:
    """Whether a text names a command and gives it nothing."""
    return re.fullmatch(r"privatenet( [a-z]+){1,2}", command) is not None


@pytest.mark.parametrize(("page", "command"), [each for each in commands() if ours(each[1])])
def test_a_command_of_the_documents_is_not_understood(
    page: str, command: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_files(page, tmp_path)
    arguments = shlex.split(command.replace("--train 50000", "--train 40 --test 8"), comments=True)[1:]
    if names_only(command):
        assert arguments[0] in cli.COMMANDS
        return
    if arguments[0] == "sweep":
        config, space, search, _, flags = sweep.read(arguments[1:])
        check_search(search, config)
        check_space(space, search, config, RAFDB_SCHEMA)
        if "s3://" in command or flags["resume"]:
            return
    if arguments[0] == "run" and "--ranks" in arguments:  # here, so that what it says is seen
        place = arguments.index("--ranks")
        assert int(arguments.pop(place + 1)) > 1
        del arguments[place]
    if "build" in arguments and "synthetic" in arguments and "--train" not in arguments:
        arguments += ["--train", "40", "--test", "8"]
    elif arguments[0] == "shards":
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


def test_the_tables_of_speed_are_those_of_the_measurements() -> None:
    text = (ROOT / "docs" / "speed.md").read_text()
    assert _speed().filled(text) == text
    empty = re.sub(r"(<!-- figures: [\w-]+ -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    assert _speed().filled(empty) == text
    assert text.count("| limit |") == len(list((ROOT / "benchmarks" / "results").glob("*.json")))


def _speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed", ROOT / "docs" / "speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", sorted({line for _, line in commands() if not ours(line)}))
def test_another_program_of_the_documents_is_given_what_it_does_not_take(command: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)
    if command.startswith("--"):  # settings of a private network alone
        train.parse(with_ready_configs(["private", "--config", "laptop.yaml", *words]))
        return
    assert words[0] in PROGRAMS
    if words[0] in LAUNCHERS:
        module = words.index("privatenet.launch.train")
        assert words[module - 1] in ("--module", "-m")
        config, stage = train.parse(with_ready_configs(words[module + 1 :]))
        assert (config.output, stage) == ("runs/rafdb", "run")
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "python":
        assert words[1] in {block.title for block in blocks()} or (ROOT / words[1]).is_file()
    elif words[0] in ("mlflow", "ray"):
        entrypoint = words[words.index("--") + 1 :] if "--" in words else []
        if entrypoint:
            sweep.read(entrypoint[2:])
        _accepted_by(_mlflow() if words[0] == "mlflow" else _ray(), words)
    for word in words:
        if word.startswith("launch/"):
            assert (ROOT / word).is_file()


def _mlflow() -> click.Command:
    with warnings.catch_warnings():  # it warns of its own type hints
        warnings.simplefilter("ignore")
        from mlflow.cli import cli

    return cli  # type: ignore[no-any-return]


def _ray() -> click.Command:
    from ray.scripts.scripts import cli

    return cli  # type: ignore[no-any-return]


def _accepted_by(command: click.Command, words: list[str]) -> None:
    """Raise click's error where a program does not take these arguments; nothing is run."""
    name, *arguments = words
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(click.Context(command), arguments)
        assert found is not None
        command = found
    if arguments:
        command.make_context(name, arguments)


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "yaml"], ids=lambda b: b.title)
def test_a_yaml_file_of_the_documents_is_not_accepted(block: Block, tmp_path: Path) -> None:
    file = tmp_path / (block.title or "block.yaml")
    file.write_text(block.text)
    if re.search("^attributes:", block.text, re.MULTILINE):
        Schema.from_yaml(file)
    elif block.title == "preprocessing.yaml":
        audit.parser().parse_args(["--preprocessing", str(file)])
    elif re.search("^space:", block.text, re.MULTILINE):
        sweep.read(["--config", str(file)])
    else:
        train.parse(["run", "--config", str(file)])


def test_the_example_with_a_folder_of_faces_makes_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """data.md's script and commands, as written, on pictures that are called as UTKFace's."""
    monkeypatch.chdir(tmp_path)
    write_files("data.md", tmp_path)
    (tmp_path / "UTKFace").mkdir()
    for number in range(60):
        name = f"{number + 1}_{number % 2}_{number % 5}_2017011617{number:07}.jpg.chip.jpg"
        Image.new("RGB", (200, 200), (4 * number, 99, 99)).save(tmp_path / "UTKFace" / name)
    (tmp_path / "UTKFace" / "61_1_20170109142408075.jpg.chip.jpg").touch()
    (example,) = (block for block in blocks() if block.page == "data.md" and block.text.startswith("python utkface.py"))
    script, *built = example.text.splitlines()
    printed = subprocess.run([sys.executable, *script.split()[1:]], check=True, capture_output=True, text=True).stdout
    assert printed == "left out: 61_1_20170109142408075.jpg.chip.jpg\n"
    for line in built:
        assert cli.main(shlex.split(line, comments=True)[1:]) == 0, capsys.readouterr().err
    manifest = load_manifest(tmp_path / "shards/utkface")
    assert sum(map(manifest.num_samples, manifest.splits)) == 60
    assert 3 < manifest.num_samples("test") < 25
    assert "61_1" not in "".join(path.read_text() for path in (tmp_path / "shards/utkface").glob("*.json"))
    config, _ = train.parse(with_ready_configs(["run", "--config", "laptop.yaml", "--config", "utkface.yaml"]))
    assert {pair.partition("-")[2] for pair in config.attack.pairs} == {*manifest.schema.private}


def test_the_example_that_reads_a_network_does_not_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    write_files("api.md", tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(finished[0].parent / "run")
    done = subprocess.run([sys.executable, "read.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 7])" in done.stdout
    assert "'backbone': (2, 512," in done.stdout


@cache
def messages() -> str:
    """All text in the program, a line for each piece between what is filled in."""
    texts = []
    for room in ("data_shards", "models", "distributed", "audit", "tune", "launch"):
        for path in (ROOT / room).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(texts)


def explained() -> list[str]:
    """Messages in the first column of troubleshooting's tables that are our own, not those of a library of ours."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    return [text for row in rows for text in re.findall("`([^`]*…[^`]*)`", row) if not text.startswith(THEIRS)]


@pytest.mark.parametrize("message", explained())
def test_a_message_that_is_explained_is_none_of_the_program_s(message: str) -> None:
    pieces = [piece for piece in message.split("…") if len(piece.strip(" :;,.()'")) > 1]
    assert all(piece in messages() for piece in pieces), [piece for piece in pieces if piece not in messages()]


def test_a_section_of_settings_is_not_on_the_page_of_settings() -> None:
    shown = set(re.findall(r"^::: (\S+)", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    commands = {AuditConfig, ForeignConfig, Preprocessing, CertifyConfig, ExportConfig, CropConfig, ReproduceConfig}
    classes = {*SECTIONS.values(), *commands, SpaceConfig, SearchConfig, RayConfig}
    assert not {f"{each.__module__}.{each.__qualname__}" for each in classes} - shown


def test_the_site_has_dead_links_or_fetches_something(tmp_path: Path) -> None:
    for package in ("material", "mkdocstrings"):
        if not importlib.util.find_spec(package):
            pytest.skip("needs mkdocs-material and mkdocstrings: pip install 'privatenet[docs]'")
    subprocess.run(["make", "--silent", "build/types/privatenet"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert {page.stem for page in PAGES if page.parent == ROOT / "docs"} <= {path.stem for path in pages}
    for path, text in pages.items():
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?(https?:)?//|url\(\"?https?:", text)
        fetched += re.findall(
            r"<link[^>]* (?:rel=\"?(?:stylesheet|preconnect|preload)\"?[^>]*)href=\"?(?:https?:)?//", text
        )
        assert not fetched, path


def test_the_links_of_documents_outside_of_the_site_are_dead() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_documents_name_few_commands() -> None:
    assert len(commands()) > 50
    assert len(explained()) > 40
