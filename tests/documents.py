"""The documents as tests read them: their fenced blocks, the commands in them, and the messages that they explain.

A block without a language holds commands, `text` what a command prints; a block with a `title` is a file of that name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))

INLINE = re.compile(r"`((?:privatenet|deepspeed|torchrun|mlflow) [a-z][^`\n]*)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, empty for commands, the file that it stands for, if any, and its text."""

    page: str
    language: str
    title: str
    text: str


def blocks() -> list[Block]:
    """Of all pages, in order."""
    fence = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
    return [Block(page.name, *found) for page in PAGES for found in fence.findall(page.read_text())]


def commands() -> list[tuple[str, str]]:
    """Page and command line, without its comment: of blocks, and of the text where more than a command's name is."""
    lines = [
        (block.page, line.split("   #")[0].strip())
        for block in blocks()
        if not block.language
        for line in block.text.splitlines()
    ]
    lines += [(page.name, line) for page in PAGES for line in INLINE.findall(page.read_text())]
    return list(dict.fromkeys((page, line) for page, line in lines if line))


def write_files(page: str, folder: Path) -> None:
    """The files that a page's blocks stand for."""
    for block in blocks():
        if block.page == page and block.title:
            (folder / block.title).write_text(block.text)
