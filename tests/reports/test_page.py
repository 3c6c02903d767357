from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moa.dispatch.outcome import REASONS
from moa.intervals import Interval
from moa.reports.detours import OUTAGES
from moa.reports.drawing import MODELS, readable_on
from moa.reports.page import REMEDIES, render_html
from moa.reports.wording import (
    amounts,
    answers,
    cents,
    cheaper,
    cheaper_bounds,
    duration,
    extra,
    gain,
    money,
    points,
    price,
    right_answers,
    share,
)
from tests.browser import looked_at, shades
from tests.reports.test_cost_report import grade, outcome, report_of


@pytest.mark.browser
@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_whole_in_a_browser(tmp_path: Path, width: int) -> None:
    outcomes = [outcome(n, ("v/dear", "v/cheap")[n % 2], lost_answers=n % 2) for n in range(300)]
    for row in outcomes[:40]:
        row["first_model"] = "v/cheap"
    outcomes += [outcome(n, None) for n in range(300, 310)]
    graded = [grade(n, m, (n % 3) / 2) for n in range(300) for m in ("v/dear", "v/cheap")]
    page = render_html(report_of(outcomes, graded=graded), title="A run in a browser")

    seen, shot = looked_at(page, tmp_path, width=width, height=3000)

    assert seen["headings"][0] == "A run in a browser"
    assert "What each single model would have cost" in seen["headings"]
    assert "What outages, fallbacks and redrives cost" in seen["headings"]
    assert len(seen["figures"]) == 5
    assert all(size > 0.5 * (width - 60) or size > 400 for size in seen["figures"])
    assert all(size > 8.5 for size in seen["letters"])
    assert seen["stuck"] == 0
    assert seen["wide"] <= seen["window"] <= width
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


def test_money_in_a_column_has_equal_digits() -> None:
    column = [Decimal("1.0808"), Decimal("0.0025"), Decimal(0), Decimal("-3")]

    assert amounts(column) == ["$1.0808", "$0.0025", "$0.0000", "\N{MINUS SIGN}$3.0000"]
    assert amounts([Decimal("1234.5"), Decimal("0.25")]) == ["$1,234.50", "$0.25"]
    assert amounts([]) == []
    assert amounts([Decimal(1), Decimal(0), Decimal(-2)], signed=True) == [
        "+$1.00", "$0.00", "\N{MINUS SIGN}$2.00",
    ]  # fmt: skip


def test_figures_are_written_for_people() -> None:
    assert cents(Decimal("0.004")) == "below $0.01"
    assert share(0.1234) == "12.3 %"
    assert points(-0.0184) == "\N{MINUS SIGN}0.018"
    assert gain(-1.5) == "\N{MINUS SIGN}$1.50"
    assert price(Decimal("0.050")) == "$0.05"
    assert extra(Decimal("-0.26")) == "$0.2600 less"
    assert right_answers(-4.25) == "4.2 fewer right answers"
    assert answers(-4.25) == "\N{MINUS SIGN}4.2"
    assert [duration(s) for s in (0.25, 90, 600, 40_000)] == [
        "250 ms", "90.0 s", "10 min 0 s", "11 h 6 min",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("saving", "said", "bounds"),
    [
        (Interval(0.35, 0.3, 0.4), "35.0 % cheaper", "30.0 to 40.0 %"),
        (Interval(-0.79, -0.9, -0.7), "79.0 % dearer", "70.0 to 90.0 %"),
        (Interval(-1.5, -2, -1.2), "2.5 times as dear", "2.2 to 3.0 times"),
        (Interval(0.01, -0.02, 0.03), "1.0 % cheaper", "2.0 % dearer to 3.0 % cheaper"),
    ],
)
def test_a_loss_is_said_without_a_minus_sign(saving: Interval, said: str, bounds: str) -> None:
    assert cheaper(saving.value) == said
    assert cheaper_bounds(saving) == bounds


def test_every_reason_of_a_dead_letter_has_its_remedy() -> None:
    assert set(REMEDIES) == set(REASONS)
    assert set(OUTAGES) <= set(REASONS)


def test_letters_on_a_bar_stand_out_from_it() -> None:
    assert [readable_on(tint) for tint in MODELS[:3]] == ["#ffffff", "#111111", "#111111"]


def test_the_demos_tables_have_their_licences_beside_them() -> None:
    folder = Path(__file__).parents[2] / "moa/recordings"

    readme = (folder / "README.md").read_text()

    sources = pq.read_table(folder / "queries.parquet", columns=["source"])["source"].unique()
    assert all(source in readme for source in sources.to_pylist())
