"""`privatenet bench`: how close this machine comes to what it can do, figure by figure, each beside its limit."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.launch.bench.figures import Figure

if TYPE_CHECKING:
    from privatenet.distributed.ranks import Ranks

PARTS = ("loader", "step", "stage", "audit", "sweep", "scale", "start")
USUAL = ("loader", "step", "stage", "scale", "start")
"""What is measured where no part is named: minutes. An audit and a sweep take longer."""
OUTSIDE = ("start", "scale", "audit", "sweep")
"""Parts whose work is done by processes of their own: they come first, while this one is nobody's rank."""


def main(argv: list[str]) -> int:
    """Measure the parts that are asked for, print a table, write JSON; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    chosen = PARTS if "all" in arguments.parts else arguments.parts or USUAL
    for option, part in {"traces": "step", "ranks": "scale"}.items():
        if getattr(arguments, option) and part not in chosen:
            parser.error(f"--{option} is of the part {part}, and only {', '.join(chosen)} is to be measured")
    # Torch takes seconds to import: not before the arguments are known to be good.
    from privatenet.distributed.ranks import joined
    from privatenet.launch.bench.report import read_bench, table, write_bench

    before = read_bench(arguments.against) if arguments.against else {}
    figures: list[Figure] = []
    notes: list[str] = []
    ranks: Ranks | None = None
    data = {"shards": arguments.shards.name} if arguments.shards else {"samples": arguments.samples}
    settings = {"parts": chosen, **data, **{name: getattr(arguments, name) for name in ("repeats", "sizes", "ranks")}}
    with _shards(arguments) as folder, ExitStack() as stack:
        for part in sorted(set(chosen), key=lambda name: (name not in OUTSIDE, PARTS.index(name))):
            print(f"privatenet: measuring {part}", file=sys.stderr, flush=True)
            if part in OUTSIDE:
                figures += _by_processes(part, folder, arguments, notes)
            else:
                ranks = ranks or stack.enter_context(joined())
                figures += _here(part, folder, arguments, ranks)
            if arguments.out:  # what was measured stays, whatever comes
                write_bench(arguments.out, settings, figures, notes)
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    console.print(table(figures, before))
    for note in notes:
        console.print(note, soft_wrap=True)
    if arguments.out:
        console.print(f"figures  {arguments.out}", soft_wrap=True)
    return 0


def _by_processes(part: str, folder: Path, arguments: argparse.Namespace, notes: list[str]) -> list[Figure]:
    if part == "start":
        from privatenet.launch.bench.start import start_figures

        return start_figures(folder, arguments.repeats)
    if part == "scale":
        from privatenet.launch.bench.scale import scale_figures

        return scale_figures(arguments.repeats, arguments.ranks or _possible_ranks(), notes)
    if part == "audit":
        from privatenet.launch.bench.audit import audit_figures

        return audit_figures(folder)
    from privatenet.launch.bench.sweep import sweep_figures

    return sweep_figures(folder)


def _possible_ranks() -> list[int]:
    import torch

    return [number for number in (1, 2, 4) if number <= (torch.cuda.device_count() or 4)]


def _here(part: str, folder: Path, arguments: argparse.Namespace, ranks: "Ranks") -> list[Figure]:
    """What this process measures, as the only rank; which it stays, as DeepSpeed does not begin twice in a process."""
    repeats = arguments.repeats
    if part == "loader":
        from privatenet.launch.bench.loader import loader_figures

        return loader_figures(folder, repeats, ranks)
    if part == "step":
        from privatenet.launch.bench.step import step_figures

        return step_figures(ranks, repeats, arguments.sizes, arguments.traces)
    from privatenet.launch.bench.stage import stage_figures

    return stage_figures(folder, ranks, repeats, arguments.sizes)


@contextmanager
def _shards(arguments: argparse.Namespace) -> Iterator[Path]:
    """The shards that were named, or new ones of rendered faces, for as long as the block takes."""
    if arguments.shards:
        load_manifest(arguments.shards)
        yield arguments.shards
        return
    from privatenet.data_shards.shards.writer import build
    from privatenet.data_shards.sources.synthetic import synthetic_source
    from privatenet.distributed.place import num_cores

    with tempfile.TemporaryDirectory() as folder:
        print(f"privatenet: drawing {arguments.samples} faces", file=sys.stderr, flush=True)
        out, source = Path(folder) / "shards", synthetic_source(arguments.samples, arguments.samples // 4)
        build(source, out, samples_per_shard=256, workers=num_cores())
        yield out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="privatenet bench",
        description="Measure how close training, reading, audits and sweeps come to what this machine can do. Each "
        "figure stands beside its limit, measured in turn with it: bare decoding of the same bytes, the same modules "
        "in torch alone, the machine's best matrix product, torch's own data-parallel training, eight single runs. Let "
        "nothing else run meanwhile.",
    )
    parser.add_argument(
        "parts", nargs="*", type=_one_of((*PARTS, "all")), metavar="PART",
        help=f"{', '.join(PARTS)} or all; without any: {', '.join(USUAL)}",
    )  # fmt: skip
    parser.add_argument("--shards", type=Path, metavar="DIR", help="shards to measure on (default: rendered faces)")
    parser.add_argument("--samples", type=_count, default=1152, metavar="N", help="rendered faces (default 1152)")
    parser.add_argument("--repeats", type=_count, default=5, metavar="N", help="repetitions of each (default 5)")
    parser.add_argument(
        "--sizes", type=_size, nargs="+", default=(), metavar="SIDExBATCH",
        help="pictures of steps and stages, such as 112x64 (default: 224x32 112x64 72x32, on a GPU 224x256 112x256)",
    )  # fmt: skip
    parser.add_argument(
        "--ranks",
        type=_count,
        nargs="+",
        default=(),
        metavar="N",
        help="of the part scale (default: 1 2 4, as many of them as there are GPUs, if any)",
    )
    parser.add_argument(
        "--traces", type=Path, metavar="DIR", help="of the part step, write traces for ui.perfetto.dev there"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="set the figures of an earlier --out beside them")
    return parser


def _one_of(accepted: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in accepted:
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted: accepted are {', '.join(accepted)}")
        return text

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: accepted are whole numbers of at least 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    side, _, batch = text.partition("x")
    return _count(side), _count(batch)
