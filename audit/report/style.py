"""What all charts share: colours, matplotlib's settings, text that fits, and reproducible SVG and PNG files.

Colours are Okabe and Ito's, told apart by the colour-blind; markers and hatches say the same again. Charts are narrow,
so that their text can still be read on a telephone, and drawn without pyplot, so that no state outlives them.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Estimate
from privatenet.data_shards.files import replacing

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, QUIET = "#1b1f24", "#8a8f98"
GROUP_COLOURS = (GREEN, PURPLE, RED)
"""Of objectives, in turn; unprotected and audited networks have their own."""
MARKERS = "DvP*Xhp<>"
DASHES = (0, (4, 3))
"""Line style of references: the majority class, and zero."""
DOTS = (0, (1, 2))
"""Of the floor, what the true target alone tells."""

WIDTH = 4.3
"""Of a chart, in inches."""
RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": QUIET,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "figure.autolayout": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "privatenet",
    "text.parse_math": False,  # class names are names, also those with a dollar sign
}

rc = rc_context(RC)
"""Decorator: the function draws with these settings, and matplotlib's own are as before afterwards."""


@dataclass(frozen=True)
class Chart:
    """A saved chart: file name without ending, title, text alternative, caption, and `<svg>` for a page."""

    name: str
    title: str
    text: str
    caption: str
    svg: str


def save(figure: Figure, folder: Path, name: str, title: str, text: str, caption: str = "") -> Chart:
    """Write `name`.svg and `name`.png, on white, into an existing folder; freezes the figure's layout."""
    with _drawing():
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # or it would be worked out again for each file
    svg = to_svg(figure, title, text)
    white = re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)
    with replacing(folder / f"{name}.svg") as stream:
        stream.write(f'<?xml version="1.0" encoding="utf-8"?>\n{white}\n'.encode())
    with _drawing(), replacing(folder / f"{name}.png") as stream:
        figure.savefig(stream, format="png", dpi=160, facecolor="#ffffff", metadata={"Software": None})
    return Chart(name, title, text, caption or title, _for_page(svg, name))


def to_svg(figure: Figure, title: str = "", text: str = "") -> str:
    """An `<svg>` element with `title` and `text` for screen readers; the same bytes for the same figure."""
    stream = io.StringIO()
    with _drawing():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    labels = f"<title>{_xml(title)}</title><desc>{_xml(text)}</desc>" if title else ""
    return re.sub(r"<svg([^>]*)>", lambda match: f'<svg role="img"{match[1]}>{labels}', svg, count=1).strip()


def set_title(figure: Figure, text: str) -> None:
    figure.suptitle(shorten(text, 52), x=0.008, ha="left", fontsize=10, fontweight="bold")


def shorten(text: str, most: int = 24) -> str:
    """Text for a chart: one line of at most `most` characters, without those that no chart can draw."""
    line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return line if len(line) <= most else line[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def error_bar(estimate: Estimate) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Lengths [2, 1] below and above the value, in percent; zero where the interval is undefined."""
    sides = np.array([[estimate.value - estimate.low], [estimate.high - estimate.value]])
    lengths: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.nan_to_num(sides, posinf=0.0, neginf=0.0).clip(0.0)
    return 100 * lengths


@contextmanager
def _drawing() -> Iterator[None]:
    """Our settings but for the layout's, which a figure has from when it was made, and no warning about glyphs: the
    page's own font has what the one used for measuring may lack."""
    with rc_context({**RC, "figure.constrained_layout.use": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _for_page(svg: str, name: str) -> str:
    """An svg with ids unique on the page and the page's colours, also in the dark; its text stays as it is."""

    def adapt(tag: re.Match[str]) -> str:
        unique = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", tag[0])
        return unique.replace(INK, "currentColor").replace(BLUE.lower(), f"var(--blue, {BLUE.lower()})")

    return re.sub(r"<[^>]*>", adapt, svg)


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
