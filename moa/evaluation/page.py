"""The evaluation as one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from markupsafe import Markup, escape

from moa.evaluation import charts
from moa.evaluation.evaluation import Evaluation
from moa.intervals import Interval
from moa.reports.drawing import both, colour
from moa.reports.page import environment
from moa.reports.wording import MINUS, cheaper, cheaper_bounds, money

NONE = "\N{EN DASH}"
"""In place of a figure that is not defined."""


def render_html(evaluation: Evaluation) -> str:
    """The page."""
    pools = [*(one.pool for one in evaluation.pools), *(one.pool for one in evaluation.traffic)]
    models = list(dict.fromkeys(name for pool in pools for name in pool))
    made = environment("moa.evaluation")
    made.filters.update(
        number=partial(cell, form=number),
        change=partial(cell, form=change),
        part=partial(cell, form=part),
        usd=partial(cell, form=usd),
        plain=number,
        plain_part=part,
        plain_change=change,
        plain_usd=usd,
        saved=saved,
        saved_bounds=saved_bounds,
    )
    return made.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        basis=evaluation.basis,
        frontiers={
            pool.name: both(partial(charts.frontier, pool, models)) for pool in evaluation.pools
        },
        reliability=both(partial(charts.reliability, evaluation.calibration, models)),
        tint=lambda model: colour(models, model),
        short=lambda model: model.split("/")[-1],
        judged=judged,
    )


def cell(found: Interval | None, form: Callable[[float], str]) -> Markup:
    """A figure with its interval below it, for a cell of a table."""
    if found is None or math.isnan(found.value):
        return Markup(NONE)
    low, high = form(found.low), form(found.high)
    bounds = f"{low.removesuffix(' %') if high.endswith(' %') else low} to {high}"
    return Markup("{}<br><small>{}</small>").format(escape(form(found.value)), bounds)


def number(value: float) -> str:
    """`0.812`."""
    return NONE if math.isnan(value) else f"{value:.3f}".replace("-", MINUS)


def change(value: float) -> str:
    """`+0.012`."""
    return NONE if math.isnan(value) else f"{value:+.3f}".replace("-", MINUS)


def part(value: float) -> str:
    """`12.3 %`."""
    return NONE if math.isnan(value) else f"{value * 100:.1f} %".replace("-", MINUS)


def usd(value: float) -> str:
    """`$1.23`; what is below ten cents with two digits that matter."""
    if math.isnan(value):
        return NONE
    if 0 < abs(value) < 0.1:
        return money(round(value, 4))
    return f"{MINUS if value < 0 else ''}${abs(value):,.2f}"


def saved(value: float) -> str:
    """`35.4 % cheaper`."""
    return NONE if math.isnan(value) else cheaper(value)


def saved_bounds(found: Interval) -> str:
    """`31.2 to 39.5 %`."""
    return "" if math.isnan(found.value) else cheaper_bounds(found)


def judged(found: Interval | None) -> str:
    """The class of a figure: proven good, proven bad, or neither."""
    if found is None:
        return ""
    return "good" if found.low > 0 else "bad" if found.high < 0 else ""
