"""A data set at a glance: a table of its classes, its people, and a sheet of its faces by target class."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table
from rich.text import Text

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import replacing
from privatenet.data_shards.shards.manifest import Manifest
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.data_shards.shards.split import Split, open_split

_COLUMNS = 12
_CELL = 96  # a face's side
_GAP = 6
_MARGIN = 28
_BAND = 26  # between two classes
_TITLE = 56
_TITLE_FONT, _CLASS_FONT, _COUNT_FONT = (ImageFont.load_default(size) for size in (24, 22, 16))
_INK, _FAINT, _PAPER = "#1d2433", "#6b7386", "#ffffff"


def class_table(manifest: Manifest) -> Table:
    """Per attribute and class the number of samples in each split and their share of the split."""
    table = Table(title=f"{manifest.schema.name}, {manifest.image_size[1]}x{manifest.image_size[0]} pixels")
    table.add_column("attribute")
    table.add_column("class")
    for split in manifest.splits:
        table.add_column(split, justify="right")
        table.add_column("%", justify="right", style="dim")
    counts = {split: manifest.class_counts(split) for split in manifest.splits}
    for attribute in manifest.schema.attributes:
        classes = next(iter(counts.values()))[attribute.name]
        role = " (target)" if attribute.name == manifest.schema.target else ""
        role = " (private)" if attribute.name in manifest.schema.private else role
        for row, name in enumerate(classes):
            cells = []
            for split in manifest.splits:
                count = counts[split][attribute.name][name]
                cells += [f"{count:,}", f"{100 * count / max(1, manifest.num_samples(split)):.1f}"]
            table.add_row(attribute.name + role if row == 0 else "", Text(name), *cells)
        table.add_section()
    table.add_row(
        "samples", "", *(cell for split in manifest.splits for cell in (f"{manifest.num_samples(split):,}", ""))
    )
    return table


def people_summary(directory: Path, manifest: Manifest) -> str:
    """How many people are in each split and in more than one, and how many pictures show somebody unknown."""
    known: dict[str, list[int]] = {}
    for split in manifest.splits:
        persons = open_split(directory, split).persons
        known[split] = [] if persons is None else persons[persons >= 0].tolist()
    counts = ", ".join(f"{len(set(persons)):,} {split}" for split, persons in known.items())
    num_splits = Counter(person for persons in known.values() for person in set(persons))
    shared = sum(num > 1 for num in num_splits.values())
    unknown = sum(manifest.num_samples(split) - len(persons) for split, persons in known.items())
    return f"{counts}; in several splits: {shared:,}" + (
        f"; pictures of unknown people: {unknown:,}" if unknown else ""
    )


def contact_sheet(directory: Path, split: str, out_png: Path, rows: int = 2, seed: int = 0) -> None:
    """Write a PNG with up to `rows` rows of faces of each target class, drawn at random from `split` by `seed`."""
    if rows < 1:
        raise DataError(f"rows of faces is {rows}, accepted: 1 or more")
    if not out_png.parent.is_dir():
        raise DataError(f"{out_png.parent}: no such folder for the sheet")
    samples = open_split(directory, split)
    schema = samples.schema
    classes = schema.attribute(schema.target).classes
    labels = samples.labels[:, schema.names.index(schema.target)]
    members = [np.flatnonzero(labels == label) for label in range(len(classes))]
    generator = np.random.default_rng(seed)
    faces = [generator.permutation(of_class)[: rows * _COLUMNS] for of_class in members]

    caption = _GAP * 4 + int(max(_CLASS_FONT.getlength(name) for name in classes))
    heights = [max(1, -(-len(of_class) // _COLUMNS)) * (_CELL + _GAP) + _BAND for of_class in faces]
    width = 2 * _MARGIN + caption + _COLUMNS * (_CELL + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _TITLE + sum(heights) - _BAND - _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{schema.name}, {split}: {len(samples):,} samples by {schema.target}"
    draw.text((_MARGIN, _MARGIN), title, _INK, _TITLE_FONT)
    top = _MARGIN + _TITLE
    for name, of_class, sample_rows, height in zip(classes, members, faces, heights, strict=True):
        share = 100 * len(of_class) / len(samples)
        draw.text((_MARGIN, top + 4), name, _INK, _CLASS_FONT)
        draw.text((_MARGIN, top + 34), f"{len(of_class):,}, {share:.1f} %", _FAINT, _COUNT_FONT)
        _paste_faces(sheet, samples, sample_rows, left=_MARGIN + caption, top=top)
        top += height
    with replacing(out_png) as stream:
        sheet.save(stream, "PNG")


def _paste_faces(sheet: Image.Image, samples: Split, sample_rows: npt.NDArray[np.int64], left: int, top: int) -> None:
    for place, sample in enumerate(sample_rows.tolist()):
        row, column = divmod(place, _COLUMNS)
        face = decode_stored(samples.read(sample), f"sample '{samples.names[sample]}'", samples.image_size)
        face.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
        x = left + column * (_CELL + _GAP) + (_CELL - face.width) // 2
        y = top + row * (_CELL + _GAP) + (_CELL - face.height) // 2
        sheet.paste(face, (x, y))
