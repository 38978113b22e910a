"""A picture, or one frame of a video, read from outside: what there is to see, or one line that says why nothing."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from privatenet.data_shards.files import read_whole
from privatenet.data_shards.shards.picture import PictureError, decode_source

LARGEST = 2**28
"""Bytes of a picture's file."""


@dataclass(frozen=True)
class Frame:
    """`image` is upright RGB, or None where `error` says what is wrong; of a video's frame there are its number, from
    0, and its time in seconds, where the video says it."""

    path: Path
    image: Image.Image | None
    number: int | None = None
    seconds: float | None = None
    error: str = ""


def read_picture(path: Path) -> Frame:
    """The picture in a file: JPEG, PNG or WebP by its content, turned as its EXIF data say."""
    try:
        return Frame(path, decode_source(read_whole(path, LARGEST, "picture", PictureError), str(path)))
    except PictureError as error:
        return Frame(path, None, error=str(error))
