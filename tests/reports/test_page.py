from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moa.bootstrap import Interval
from moa.reports.page import against, render_html
from moa.reports.wording import cents, duration, money, points, share
from tests.reports.test_cost_report import grade, outcome, report_of

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
const seen = {
  headings: [...document.querySelectorAll('h1,h2')].map(h => h.textContent),
  figures: [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().width),
  wide: document.documentElement.scrollWidth, window: window.innerWidth,
  requests: performance.getEntriesByType('resource').length,
};
document.title = JSON.stringify(seen);
</script>"""


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_the_page_is_whole_in_a_browser(tmp_path: Path) -> None:
    outcomes = [outcome(n, ("v/dear", "v/cheap")[n % 2]) for n in range(300)]
    graded = [grade(n, m, (n % 3) / 2) for n in range(300) for m in ("v/dear", "v/cheap")]
    page = render_html(report_of(outcomes, graded=graded), title="A run in a browser")
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", f"{MEASURE}</body>"))
    shot = tmp_path / "report.png"
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000",
        f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000",
    ]  # fmt: skip

    dom = subprocess.run(
        [*command, "--dump-dom", f"file://{path}"], capture_output=True, text=True, check=True
    ).stdout
    subprocess.run(
        [*command, f"--screenshot={shot}", f"file://{path}"], capture_output=True, check=True
    )

    seen = json.loads(dom.split("<title>")[1].split("</title>")[0].replace("&amp;", "&"))
    assert seen["headings"][0] == "A run in a browser"
    assert "What each single model would have cost" in seen["headings"]
    assert len(seen["figures"]) == 5
    assert all(width > 200 for width in seen["figures"])
    assert seen["wide"] <= seen["window"]
    assert seen["requests"] == 0
    assert shades(shot) > 100


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        ("0", "$0"),
        ("1234567.891", "$1,234,567.89"),
        ("3.14159", "$3.1416"),
        ("0.00012345", "$0.0001234"),
        ("-12", "\N{MINUS SIGN}$12.00"),
    ],
)
def test_money_has_the_digits_that_matter(usd: str, shown: str) -> None:
    assert money(Decimal(usd)) == shown


def test_figures_are_written_for_people() -> None:
    assert cents(Decimal("0.004")) == "below $0.01"
    assert share(0.1234) == "12.3 %"
    assert points(-0.0184) == "\N{MINUS SIGN}0.018"
    assert [duration(s) for s in (0.25, 90, 600, 40_000)] == [
        "250 ms", "90.0 s", "10 min 0 s", "11 h 6 min",
    ]  # fmt: skip
    assert "35.0 % cheaper" in against(Interval(0.35, 0.3, 0.4))
    assert "2.50 times as dear" in against(Interval(-1.5, -2, -1))


def test_the_demos_tables_have_their_licences_beside_them() -> None:
    folder = Path(__file__).parents[2] / "moa/recordings"

    readme = (folder / "README.md").read_text()

    sources = pq.read_table(folder / "queries.parquet", columns=["source"])["source"].unique()
    assert all(source in readme for source in sources.to_pylist())
