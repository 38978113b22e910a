"""Which pictures and videos a person means: files, folders with all that is in them, and patterns such as `*.jpg`."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from privatenet.data_shards.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


def named_paths(words: Iterable[str]) -> list[Path]:
    """The files that the words name, in their order. DataError for a word that names none."""
    return [path for word in words for path in _named(word)]


def listed_paths(lines: Iterable[str]) -> Iterator[Path]:
    """The files that a list names, one or a folder a line, as it comes; a file that is not there is not looked for."""
    for line in lines:
        path = Path(line.rstrip("\n"))
        yield from within(path) if path.is_dir() else [path]


def within(folder: Path) -> list[Path]:
    """The pictures and videos in `folder` and below it, by their endings, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES + VIDEOS and path.is_file())


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video; anything else is taken for a picture."""
    return path.suffix.lower() in VIDEOS


def _named(word: str) -> list[Path]:
    path = Path(word)
    if path.is_file():
        return [path]
    matches = [path] if path.is_dir() else [Path(match) for match in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207 - it takes absolute ones
    files = [file for match in matches for file in (within(match) if match.is_dir() else [match])]
    if not files:
        kinds = ", ".join(ending.removeprefix(".") for ending in PICTURES + VIDEOS)
        what = "no picture or video is in that folder" if path.is_dir() else "there is no such file, folder or match"
        raise DataError(f"{word}: {what}, accepted: {kinds}, folders of them, patterns in quotes, and - for a list")
    return list(dict.fromkeys(files))
