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
from pathlib import Path

import pytest
from audited import Page, estimate, findings

from privatenet.audit.report.charts import LambdaPoint, Point
from privatenet.audit.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')

OWN = re.compile(r"[ /](accounts|www|update|clients\d*|[\w-]+-pa|redirector)\.(google|googleapis|gvt1)\.com[:/]")
"""Hosts that Chromium itself asks, whatever the page: its clock, its accounts, its updates."""
FRAME = """<!doctype html><iframe srcdoc="{page}" style="border: 0; width: {width}px; height: 800px" onload="
document.title = JSON.stringify([this.contentDocument.documentElement.scrollWidth, this.contentWindow.innerWidth])
"></iframe>"""
"""A window cannot be made as narrow as a telephone, but a frame can."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or chromium-browser on PATH")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    steps = (0.1, 0.3, 0.5, 0.7, 0.9)
    points = [
        Point(f"hsic {step}", "hsic", step, estimate(0.87 - step / 10), estimate(0.3 - step / 4), "gender")
        for step in steps
    ]
    curve = [LambdaPoint(step, estimate(0.87 - step / 10), estimate(0.8 - step / 2), estimate(0.86)) for step in steps]
    write_report(findings(), folder, points, {"backbone-gender": curve})
    return folder / "report.html"


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


def console(browser: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in browser.stderr.splitlines() if "CONSOLE" in line]


def asked(heard: list[str]) -> list[str]:
    """What was asked for by a page, not by the browser for its own sake."""
    return [line for line in heard if not OWN.search(line)]


def test_the_page_in_a_browser_differs_from_its_findings(report: Path, tmp_path: Path) -> None:
    page = Page(browse(report, tmp_path, "--dump-dom").stdout)
    assert len(page.figures) > 300
    assert not page.wrong_figures()
    assert page.findings["fingerprint"] == findings().fingerprint


def test_the_page_speaks_to_the_console_or_to_the_network(report: Path, tmp_path: Path) -> None:
    with listening() as (port, heard):
        seen = browse(report, tmp_path, f"--proxy-server=127.0.0.1:{port}", "--dump-dom")
    assert console(seen) == []
    assert asked(heard) == []


def test_a_page_that_does_would_not_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text('<!doctype html><script>console.error("loud")</script><img src="http://privatenet.test/x.png">')
    with listening() as (port, heard):
        seen = browse(page, tmp_path, f"--proxy-server=127.0.0.1:{port}", "--dump-dom")
    assert any("loud" in line for line in console(seen))
    assert asked(heard) == ["GET http://privatenet.test/x.png HTTP/1.1"]


def test_the_page_lets_a_script_in(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "broken-into.html"
    page.write_text(report.read_text().replace("</body>", '<script>document.title = "in"</script></body>'))
    assert "<title>in</title>" not in browse(page, tmp_path, "--dump-dom").stdout


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_scrolls_sideways(report: Path, tmp_path: Path, width: int) -> None:
    opened = POLICY.sub("", report.read_text()).replace("<details>", "<details open>")
    page = tmp_path / "framed.html"
    page.write_text(FRAME.format(width=width, page=html.escape(opened)))
    seen = browse(page, tmp_path, "--dump-dom").stdout
    (title,) = re.findall(r"<title>(\[.*?\])</title>", seen)
    scrolled, inner = json.loads(title)
    assert inner == width
    assert scrolled <= inner


def test_the_page_is_blank_on_a_screen(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(report, tmp_path, f"--screenshot={shot}", "--window-size=1280,1600")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, 1600)
    assert shot.stat().st_size > 100_000


def test_the_page_does_not_print(report: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper.pdf"
    browse(report, tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert paper.read_bytes().count(b"/Type /Page\n") > 3
