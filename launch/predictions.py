"""Predictions as a person or a program wants them: a table, a JSON object a line, or copies of the pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import replacing, writing
from privatenet.data_shards.photographs.frame import Frame
from privatenet.distributed.prediction import Prediction
from privatenet.launch.exits import printable

NO_FACE = "no face"
_INK, _PAPER = "#ffffff", "#1d2433"
_SMALLEST = 240
"""Side to which smaller pictures are enlarged, so that words fit."""


class Output(Protocol):
    """Takes each prediction in its order; `finish` is called once, after the last one."""

    def add(self, prediction: Prediction) -> None: ...

    def finish(self) -> None: ...


class JsonLines:
    """One object a face on stdout, as soon as it is known; of a frame without a face, or that does not decode, one."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def add(self, prediction: Prediction) -> None:
        for face in objects(prediction, self.classes):
            print(json.dumps(face), flush=True)  # all but ASCII is escaped, so that no terminal acts upon a name

    def finish(self) -> None:
        """All is printed."""


def objects(prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    """What `jsonl` says of a frame: `predicted` and `probabilities` are null where there is no face."""
    frame = prediction.of.frame
    where: dict[str, Any] = {"path": str(frame.path)}
    if frame.number is not None:
        where |= {"frame": frame.number, "seconds": None if frame.seconds is None else round(frame.seconds, 3)}
    nobody = where | {"predicted": None, "probabilities": None}
    if frame.error:
        return [nobody | {"error": frame.error}]
    faces = []
    for box, shares in zip(prediction.of.boxes, prediction.probabilities, strict=True):
        place = {"box": [round(side, 1) for side in box]} if box else {}
        by_class = {name: round(share, 6) for name, share in zip(classes, shares.tolist(), strict=True)}
        faces.append(where | place | {"predicted": classes[int(shares.argmax())], "probabilities": by_class})
    return faces or [nobody]


class TableOutput:
    """A table on stdout, once all is known: the likeliest class and the next one."""

    def __init__(self, target: str, classes: Sequence[str]) -> None:
        self.classes = classes
        self.table = Table(box=SIMPLE_HEAD, show_edge=False)
        self.table.add_column("picture", overflow="fold")
        self.table.add_column(target)
        for heading, justify in (("%", "right"), ("or", "left"), ("%", "right")):
            self.table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)

    def add(self, prediction: Prediction) -> None:
        frame, several = prediction.of.frame, len(prediction.probabilities) > 1
        name = place(frame)
        if not len(prediction.probabilities):
            self.table.add_row(Text(name), Text("not read" if frame.error else NO_FACE, style="dim"), "", "", "")
        for number, shares in enumerate(prediction.probabilities, start=1):
            first, second = (
                (Text(printable(self.classes[at])), percent(share))
                for share, at in zip(*(values.tolist() for values in shares.topk(2)), strict=True)
            )
            self.table.add_row(Text(f"{name}, face {number}" if several else name), *first, *second)

    def finish(self) -> None:
        Console().print(self.table)


class Copies:
    """Copies of the pictures in a new folder, with each face's box and class. DataError where it holds something."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"out: {folder} is there and not empty, accepted: a new folder")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.classes, self.count = folder, classes, 0

    def add(self, prediction: Prediction) -> None:
        frame = prediction.of.frame
        if frame.image is None:
            return
        words = [
            f"{printable(self.classes[int(shares.argmax())])} {percent(float(shares.max()))} %"
            for shares in prediction.probabilities
        ]
        # By number, as pictures of several folders may be called alike, and the names are anybody's.
        with replacing(self.folder / f"{self.count:06d}.jpg") as stream:
            annotated(frame.image, prediction.of.boxes, words).save(stream, "JPEG", quality=92)
        print(f"{self.folder / f'{self.count:06d}.jpg'}  {place(frame)}")
        self.count += 1

    def finish(self) -> None:
        """All is written."""


def annotated(image: Image.Image, boxes: Sequence[tuple[float, ...] | None], words: Sequence[str]) -> Image.Image:
    """A copy of the picture with each face's words at its box; of the whole picture, or where there is no face, below.

    Small pictures are enlarged.
    """
    scale = max(1.0, _SMALLEST / min(image.size))
    image = image.resize((round(scale * image.width), round(scale * image.height))) if scale > 1 else image.copy()
    font = ImageFont.load_default(max(14, min(image.size) // 30))
    line = int(1.5 * font.size)  # type: ignore[union-attr]
    whole = [word for word, box in zip(words, boxes, strict=True) if box is None] or ([] if words else [NO_FACE])
    sheet = Image.new("RGB", (image.width, image.height + line * len(whole)), _PAPER)
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for number, word in enumerate(whole):
        draw.text((4, image.height + line * number), word, _INK, font)
    for word, box in zip(words, boxes, strict=True):
        if box:
            left, top, right, bottom = (scale * side for side in box)
            draw.rectangle((left, top, right, bottom), outline=_PAPER, width=max(2, line // 8))
            width = draw.textlength(word, font) + 8
            left, top = max(0.0, min(left, sheet.width - width)), max(0.0, top - line)
            draw.rectangle((left, top, left + width, top + line), fill=_PAPER)
            draw.text((left + 4, top), word, _INK, font)
    return sheet


def percent(share: float) -> str:
    """A share of 1 in percent, without the sign."""
    return f"{100 * share:.1f}"


def place(frame: Frame) -> str:
    """Where a frame comes from, as a terminal bears it: `talk.mp4, 3.20 s`."""
    time = f", {frame.seconds:.2f} s" if frame.seconds is not None else ""
    number = f", frame {frame.number}" if frame.number is not None and not time else ""
    return printable(f"{frame.path}{time or number}")
