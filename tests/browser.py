"""A page as a browser shows it: measured from within, and as a picture."""

from __future__ import annotations

import html
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any, NamedTuple

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, f"none of {BROWSERS} is installed: the report is for browsers, so install one"
    return found


def shades(screenshot: Path) -> int:
    """How many different rows of pixels a PNG has; a blank page has one."""
    data = screenshot.read_bytes()
    (_, height) = struct.unpack(">II", data[16:24])
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(packed)
    width = len(raw) // height
    return len({raw[n * width : (n + 1) * width] for n in range(height)})


MEASURE = """<script>
const shown = e => e.getBoundingClientRect().width > 0;
const widths = e => e.getBoundingClientRect().width;
const letters = svg => widths(svg) / svg.viewBox.baseVal.width * 9;
const svgs = [...document.querySelectorAll('figure svg')].filter(shown);
const tables = [...document.querySelectorAll('table')].filter(shown);
const seen = {
  headings: [...document.querySelectorAll('h1,h2')].map(h => h.textContent),
  figures: svgs.map(widths), letters: svgs.map(letters),
  stuck: tables.filter(t => !t.closest('.scroll')
    && widths(t) > widths(t.parentElement) + 1).length,
  wide: document.documentElement.scrollWidth, window: window.innerWidth,
  requests: performance.getEntriesByType('resource').length,
};
const told = window.parent === window ? document : window.parent.document;
told.title = JSON.stringify(seen);
</script>"""


class LookedAt(NamedTuple):
    """What was seen."""

    seen: dict[str, Any]
    """As `MEASURE` tells it."""
    shot: Path
    """A PNG."""


def looked_at(page: str, folder: Path, *, width: int, height: int) -> LookedAt:
    """Open a page in a frame: a browser's window cannot be as narrow as a telephone."""
    (folder / "page.html").write_text(page.replace("</body>", f"{MEASURE}</body>"))
    frame = f'<iframe src="page.html" width="{width}" height="{height}"></iframe>'
    (folder / "frame.html").write_text(frame)
    shot = folder / "page.png"
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000",
        f"--user-data-dir={folder}/profile", "--virtual-time-budget=3000",
        "--allow-file-access-from-files",
    ]  # fmt: skip
    address = f"file://{folder}/frame.html"
    dom = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, check=True
    ).stdout
    subprocess.run([*command, f"--screenshot={shot}", address], capture_output=True, check=True)
    told = html.unescape(dom.split("<title>")[1].split("</title>")[0])
    return LookedAt(json.loads(told), shot)
