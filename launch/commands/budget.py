"""`privatenet budget`: how much of a network has to be trusted, and what is still read then."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from privatenet.audit.errors import AuditError
from privatenet.distributed.arguments import parse_arguments
from privatenet.launch.commands.subject import load_source
from privatenet.models.errors import ModelError


def main(argv: Sequence[str]) -> int:
    """Set the cuts of all networks that `argv` names beside each other; returns the exit code."""
    values = parse_arguments(parser(), list(argv)).as_dict()
    sources = {name: load_source(Path(name)) for name in values["checkpoints"]}
    # Torch and matplotlib take seconds to import: not before the checkpoints are known to be there.
    from privatenet.audit.export.budget import budget, write_budget
    from privatenet.audit.report.budget import budget_chart, budget_tables
    from privatenet.audit.report.leak import newest_audit
    from privatenet.audit.report.style import save
    from privatenet.distributed.stages.trained import load_network
    from privatenet.models.network import NetworkSpec, build_network

    rows = []
    for name, source in sources.items():
        try:
            findings = newest_audit(source)
        except AuditError as error:
            print(f"privatenet: {name}: {error}")
            findings = None
        rows += budget(name, load_network(source).eval(), findings)
    for backbone in values["backbones"]:
        spec = NetworkSpec(backbone, image_size=values["image_size"])
        try:
            rows += budget(backbone, build_network(spec).eval(), None)
        except ModelError as error:
            print(f"privatenet: {backbone}: {error}")
    folder = Path(values["out"])
    folder.mkdir(parents=True, exist_ok=True)
    write_budget(rows, folder / "budget.csv")
    for table in budget_tables(rows):
        Console().print(table)
    if any(row.read for row in rows):
        save(budget_chart(rows), folder, "budget", "What a trusted budget buys", "Memory against what is read.")
        print(f"chart    {folder / 'budget.png'}")
    print(f"table    {folder / 'budget.csv'}")
    return 0


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet budget",
        description="For every way to cut a network in a trusted and an open part: the memory that the trusted part "
        "needs, in single precision and in int8, beside the network's utility, what the best attacker reads of what "
        "an onlooker sees, and what is certified. The figures are of the newest audit beside each checkpoint.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    help_text = "Folders of target or private networks, such as runs/demo/private."
    built.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help=help_text)
    built.add_argument(
        "--backbones", default=[], type=list[str], help="Untrained backbones to set beside them: memory."
    )
    built.add_argument("--image-size", default=112, type=int, help="Side of those backbones' pictures, in pixels.")
    built.add_argument("--out", default="budget", type=str, help="Folder of the table and the chart.")
    return built
