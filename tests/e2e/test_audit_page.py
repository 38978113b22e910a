"""The report's page as a browser sees it: quiet, alone, and no wider than a telephone."""

import html
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from audited import Page, estimate, findings

from privatenet.audit.report.curves import LambdaMark
from privatenet.audit.report.page import write_report
from privatenet.audit.report.trade_off import Mark

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')

OWN = re.compile(r"[ /](accounts|www|update|clients\d*|[\w-]+-pa|redirector)\.(google|googleapis|gvt1)\.com[:/]")
"""Hosts that Chromium itself asks, whatever the page: its clock, its accounts, its updates."""
FRAMES = """<!doctype html><title></title>{frames}<script>addEventListener("load", () => {{
  const frames = [...document.querySelectorAll("iframe")];
  const widths = it => [it.contentWindow.innerWidth, it.contentDocument.documentElement.scrollWidth];
  document.title = JSON.stringify(frames.map(widths));
}})</script>"""
"""A window cannot be made as narrow as a telephone, but a frame can."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or chromium-browser on PATH")


@dataclass(frozen=True)
class Visit:
    """A page that a browser has opened: its elements then, its console, and what it asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    steps = (0.1, 0.3, 0.5, 0.7, 0.9)
    marks = [
        Mark(f"hsic {step}", "hsic", step, estimate(0.87 - step / 10), estimate(0.3 - step / 4), "gender")
        for step in steps
    ]
    curve = [LambdaMark(step, estimate(0.87 - step / 10), estimate(0.8 - step / 2), estimate(0.86)) for step in steps]
    write_report(findings(), folder, marks, {"backbone-gender": curve})
    return folder / "report.html"


@pytest.fixture(scope="module")
def visit(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visited(report, tmp_path_factory.mktemp("visit"))


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A port that answers nothing, and the first line of everything that was sent to it."""
    heard: list[str] = []

    def hear() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                heard.append(connection.recv(4096).decode(errors="replace").split("\r\n")[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hear, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser of its own; stdout is what a flag asks for, stderr its console."""
    assert CHROMIUM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    quieter = ("--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *quiet, *quieter, profile, "--enable-logging=stderr", "--v=0", *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def visited(page: Path, folder: Path, *flags: str) -> Visit:
    with listening() as (port, heard):
        browser = browse(page, folder, f"--proxy-server=127.0.0.1:{port}", *flags, "--dump-dom")
    lines = [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
    return Visit(browser.stdout, lines, [line for line in heard if not OWN.search(line)])


def widths(page: Path, folder: Path, asked: tuple[int, ...], *flags: str) -> dict[int, int]:
    """How wide a page lays itself out in frames of the widths `asked`, with all that can be opened open."""
    text = html.escape(POLICY.sub("", page.read_text()).replace("<details>", "<details open>"))
    frame = '<iframe srcdoc="{page}" style="border: 0; width: {width}px; height: 800px"></iframe>'
    framed = folder / "framed.html"
    framed.write_text(FRAMES.format(frames="".join(frame.format(page=text, width=width) for width in asked)))
    (title,) = re.findall(r"<title>(\[.*?\])</title>", browse(framed, folder, *flags, "--dump-dom").stdout)
    return dict(json.loads(title))


def test_the_page_in_a_browser_differs_from_its_findings(visit: Visit) -> None:
    page = Page(visit.dom)
    assert len(page.figures) > 300
    assert not page.wrong_figures()
    assert page.findings["fingerprint"] == findings().fingerprint


def test_the_page_speaks_to_the_console_or_to_the_network(visit: Visit) -> None:
    assert (visit.console, visit.requests) == ([], [])


def test_a_page_that_does_would_not_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text('<!doctype html><script>console.error("loud")</script><img src="http://privatenet.test/x.png">')
    visit = visited(page, tmp_path)
    assert any("loud" in line for line in visit.console)
    assert visit.requests == ["GET http://privatenet.test/x.png HTTP/1.1"]


def test_the_page_lets_a_script_in(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "broken-into.html"
    page.write_text(report.read_text().replace("</body>", '<script>document.title = "in"</script></body>'))
    assert "<title>in</title>" not in browse(page, tmp_path, "--dump-dom").stdout


def test_the_page_scrolls_sideways(report: Path, tmp_path: Path) -> None:
    assert widths(report, tmp_path, (360, 768, 1280)) == {360: 360, 768: 768, 1280: 1280}


def test_the_page_is_blank_on_a_screen(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(report, tmp_path, f"--screenshot={shot}", "--window-size=1280,1600")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, 1600)
    assert shot.stat().st_size > 100_000


def test_the_page_does_not_print(report: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper.pdf"
    browse(report, tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert paper.read_bytes().count(b"/Type /Page\n") > 3
