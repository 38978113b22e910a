"""`privatenet predict`: what a trained network says of faces in pictures, photographs and videos."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from privatenet.audit.errors import AuditError
from privatenet.data_shards.photographs.crop import CropConfig
from privatenet.data_shards.photographs.detect import Detector
from privatenet.data_shards.photographs.faces import FaceReader
from privatenet.data_shards.photographs.paths import is_video, listed_paths, named_paths
from privatenet.data_shards.photographs.video import video_library
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.prediction import Prediction, Predictor
from privatenet.launch.commands.subject import load_source
from privatenet.launch.exits import printable
from privatenet.launch.predictions import Copies, JsonLines, Output, TableOutput

UNREADABLE = 1
LISTED = "-"


def main(argv: list[str]) -> int:
    """Predict what `argv` names; 0, or 1 where a picture or video could not be read, which stops no other."""
    try:
        return _main(argv)
    except BrokenPipeError:  # whoever read has enough; Python would try once more to write, at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet predict",
        description="Say what a trained network sees on faces: its target's class, with the probability of each. A "
        "picture is taken for one aligned face, as in the data set; with --detect true faces are found and aligned in "
        "photographs and video frames. Pictures are JPEG, PNG or WebP. What cannot be read is named and counted, the "
        "rest goes on, and the exit code is then 1. No face is kept anywhere but in --out. A network with a noisy "
        "channel answers with the mean over 20 draws of its noise, the same ones for every face.",
        epilog="find photos -name '*.jpg' | privatenet predict runs/demo/private - --format jsonl",
        exit_on_error=False,
        allow_abbrev=False,
    )
    built.add_argument("checkpoint", help="Folder of a target or private network, such as runs/demo/private.")
    built.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="Pictures, videos, folders with all below them, patterns in quotes ('photos/**/*.jpg'), or - for a list "
        "on stdin, one a line.",
    )
    built.add_argument("--config", action="config", help="YAML file of settings; later flags override it.")
    built.add_argument(
        "--detect", default=False, type=bool, help="Find and align faces; needs pip install 'privatenet[detect]'."
    )
    built.add_class_arguments(CropConfig, "crop")
    built.add_argument(
        "--every",
        default=10,
        type=PositiveInt,
        help="Of a video each so many-th frame is looked at; videos need pip install 'privatenet[video]'.",
    )
    built.add_argument(
        "--format",
        default="",
        type=Literal["", "table", "jsonl", "pictures"],
        help="table; jsonl (an object a face); pictures (copies with boxes and classes, in --out). Empty: a table on "
        "a terminal, else jsonl.",
    )
    built.add_argument("--out", default="", type=str, help="New folder of the copies of --format pictures.")
    built.add_argument("--batch-size", default=64, type=PositiveInt, help="Faces in one forward pass.")
    built.add_argument("--threads", default=2, type=PositiveInt, help="Threads that read, decode and detect.")
    built.add_argument(
        "--show-leak",
        action="store_true",
        help="Also say, from the newest audit of this network, what can still be read of such faces by whom.",
    )
    return built


def _main(argv: list[str]) -> int:
    values = parse_arguments(parser(), argv).as_dict()
    kind = values["format"] or ("table" if sys.stdout.isatty() else "jsonl")
    if (kind == "pictures") != bool(values["out"]):
        raise ConfigError(f"out is {values['out']!r} and format {kind}, accepted: --format pictures with --out DIR")
    source = load_source(Path(values["checkpoint"]))
    paths = _paths(values["paths"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detector = Detector(device) if values["detect"] else None
    crop = CropConfig(**values["crop"])
    predictor = Predictor(source, device)
    reader = FaceReader(predictor.size, values["every"], detector, crop, kind == "pictures", values["threads"])
    output = _output(kind, values["out"], predictor)
    with _progress(kind == "jsonl" and sys.stdout.isatty()) as progress:
        unread = _run(predictor.predict(reader.read(paths), values["batch_size"]), output, progress)
    output.finish()
    if values["show_leak"]:
        _show_leak(source, Console(stderr=kind == "jsonl"))
    return UNREADABLE if unread else 0


def _paths(words: list[str]) -> Iterable[Path]:
    """The files that are meant; those of a list as it comes."""
    if LISTED not in words:
        paths = named_paths(words)
        if any(map(is_video, paths)):
            video_library()
        return paths
    if words != [LISTED]:
        raise ConfigError(f"paths are {' '.join(words)!r}, accepted beside {LISTED}: nothing")
    return listed_paths(sys.stdin)


def _output(kind: str, out: str, predictor: Predictor) -> Output:
    if kind == "pictures":
        return Copies(Path(out), predictor.classes)
    return JsonLines(predictor.classes) if kind == "jsonl" else TableOutput(predictor.target, predictor.classes)


def _run(predictions: Iterable[Prediction], output: Output, progress: Progress) -> int:
    """Hand all predictions to the output, name what could not be read, and return how many that were."""
    task = progress.add_task("pictures and frames", total=None)
    read = unread = 0
    for prediction in predictions:
        output.add(prediction)
        if error := prediction.of.frame.error:
            unread += 1
            progress.console.print(Text(printable(f"privatenet: {error}")))
        read += not error
        progress.advance(task)
    if unread:
        progress.console.print(f"privatenet: {unread:,} could not be read, {read:,} pictures and frames could")
    return unread


@contextmanager
def _progress(hidden: bool) -> Iterator[Progress]:
    """A count on stderr where that is a terminal; its console takes lines anywhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as progress:
        yield progress


def _show_leak(source: Checkpoint, console: Console) -> None:
    from privatenet.audit.report.leak import leak_table, newest_audit

    try:
        console.print(leak_table(newest_audit(source)))
    except AuditError as error:
        console.print(Text(printable(str(error))), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
