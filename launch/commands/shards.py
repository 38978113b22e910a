"""`privatenet shards`: make a data set into shards, check them, look at them."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from privatenet.data_shards.shards.manifest import MANIFEST, Manifest, load_manifest
from privatenet.data_shards.shards.preview import class_table, contact_sheet, people_summary
from privatenet.data_shards.shards.verify import verify
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.rafdb import rafdb_source
from privatenet.data_shards.sources.record import Source
from privatenet.data_shards.sources.table import table_source


def main(argv: list[str]) -> int:
    """Run one subcommand and return the exit status: 0, or 1 where `verify` found something; DataError on bad input."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="privatenet shards", description="Make a data set into shards and look at them."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    build_command = commands.add_parser(
        "build",
        help="make shards from labelled pictures",
        description="Make shards from labelled pictures. A build that was stopped goes on where it was when run again.",
    )
    sources = build_command.add_subparsers(title="where the pictures come from", required=True, metavar="SOURCE")
    _add_rafdb_options(
        sources.add_parser(
            "rafdb", help="RAF-DB's `basic` folder", description="Make shards from RAF-DB's `basic` folder."
        )
    )
    _add_table_options(
        sources.add_parser(
            "table",
            help="a CSV file, one row a picture",
            description="Make shards from the pictures in a CSV file with columns path, split and one per attribute, "
            "and person where it is known who is in them.",
        )
    )
    _add_synthetic_options(
        sources.add_parser(
            "synthetic", help="drawn faces, to try things with", description="Make shards from faces that are drawn."
        )
    )

    verify_command = commands.add_parser(
        "verify",
        help="read everything and say what is wrong",
        description="Read every shard and say what is wrong with it.",
    )
    verify_command.add_argument("directory", type=Path, metavar="DIR", help="the shards")
    verify_command.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes to check with (default 1)"
    )
    verify_command.set_defaults(run=_verify)

    show_command = commands.add_parser(
        "show", help="count the classes and look at the faces", description="Count the classes and look at the faces."
    )
    show_command.add_argument("directory", type=Path, metavar="DIR", help="the shards")
    show_command.add_argument("--sheet", type=Path, metavar="PNG", help="also draw faces of each target class here")
    show_command.add_argument("--split", metavar="NAME", help="the split to draw from (default: the first)")
    show_command.add_argument("--rows", type=int, default=2, metavar="N", help="rows of faces per class (default 2)")
    show_command.add_argument("--seed", type=int, default=0, metavar="N", help="which faces are drawn (default 0)")
    show_command.set_defaults(run=_show)
    return parser


def _add_rafdb_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder with EmoLabel and Image/aligned in it")
    _add_build_options(parser, lambda arguments: rafdb_source(arguments.root))


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="CSV", help="the list of pictures")
    parser.add_argument("--schema", type=Path, required=True, metavar="YAML", help="what the labels mean")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the paths start (default: the CSV's folder)")
    _add_build_options(parser, lambda arguments: table_source(arguments.table, arguments.schema, arguments.root))


def _add_synthetic_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", type=int, default=1664, metavar="N", help="training pictures (default 1664)")
    parser.add_argument("--test", type=int, default=512, metavar="N", help="test pictures (default 512)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which faces are drawn (default 0)")
    parser.add_argument(
        "--correlation",
        type=float,
        default=0.2,
        metavar="C",
        help="how far labels go together, 0 to 1 (default 0.2)",
    )
    _add_build_options(parser, _synthetic_source)


def _synthetic_source(arguments: argparse.Namespace) -> Source:
    from privatenet.data_shards.sources.synthetic import synthetic_source  # the one source that draws

    return synthetic_source(arguments.train, arguments.test, arguments.seed, arguments.correlation)


def _add_build_options(parser: argparse.ArgumentParser, source: Callable[[argparse.Namespace], Source]) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go: a new folder")
    parser.add_argument("--size", type=int, metavar="N", help="make every picture NxN (default: as they are)")
    parser.add_argument(
        "--shard-samples", type=int, default=1024, metavar="N", help="samples in one shard (default 1024)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes to use (default 1)")
    parser.add_argument(
        "--on-corrupt",
        choices=("error", "skip"),
        default="error",
        help="stop at a picture that does not decode, or leave it out (default error)",
    )
    parser.set_defaults(run=_build, source=source)


def _build(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    source: Source = arguments.source(arguments)
    console = Console()
    was_complete = (out / MANIFEST).is_file()
    with _progress(console, f"Writing shards to {out}") as progress:
        manifest = build(
            source,
            out,
            samples_per_shard=arguments.shard_samples,
            workers=arguments.workers,
            image_size=arguments.size,
            on_corrupt=arguments.on_corrupt,
            progress=progress,
        )
    if was_complete:
        print("The shards were there already; they were compared with their sums.")
    _describe(console, out, manifest)
    print(f"next         privatenet shards show {out} --sheet faces.png")
    return 0


def _describe(console: Console, directory: Path, manifest: Manifest) -> None:
    console.print(class_table(manifest))
    if manifest.persons:
        print(f"people       {people_summary(directory, manifest)}")
    for skipped in manifest.skipped:
        print(f"left out     {skipped.name} ({skipped.split}): {skipped.reason}")
    print(f"fingerprint  {manifest.fingerprint}")


@contextmanager
def _progress(console: Console, task: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal; elsewhere, in a log, one line."""
    if not console.is_terminal:
        print(task)
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        bar_task = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(bar_task, completed=done, total=total)


def _verify(arguments: argparse.Namespace) -> int:
    problems = verify(arguments.directory, arguments.workers)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} problems in {arguments.directory}; build the shards again")
        return 1
    manifest = load_manifest(arguments.directory)
    counts = ", ".join(f"{manifest.num_samples(split):,} {split}" for split in manifest.splits)
    print(f"{arguments.directory} is whole: {counts}, fingerprint {manifest.fingerprint[:12]}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    manifest = load_manifest(arguments.directory)
    console = Console()
    _describe(console, arguments.directory, manifest)
    if arguments.sheet is not None:
        split = arguments.split or next(iter(manifest.splits))
        contact_sheet(arguments.directory, split, arguments.sheet, arguments.rows, arguments.seed)
        print(f"sheet        {arguments.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
