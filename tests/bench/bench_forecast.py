"""How often a forecast's 90 % intervals hold what was recorded: over drawn backlogs and many plans.

    python -m tests.bench.bench_forecast

Each backlog is drawn with replacement from recorded queries, planned under several objectives and
budgets, and its bill and mean grade are those that were recorded of the chosen models.

- `demo`: the demo's queries, by the embedded router, which was not fitted on them;
- `demo, one kind`: likewise, 120 queries of one source a backlog;
- `held out`: training queries, by routers that were fitted on other folds, mostly of one source;
- `one kind`: of these, 250 queries of one source a backlog: what a customer's backlog is like;
- `left out`: one source, by a router that was taught all others. An interval cannot know it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Model, load_catalog
from moa.config import load_config
from moa.plan_config import PlanConfig
from moa.planning.capacities import BUDGET, Situation
from moa.planning.capacity import Backlog, Capacity, Objective
from moa.planning.forecast import Forecast, forecast
from moa.planning.planner import Plan, plan
from moa.planning.totals import Totals
from moa.prices import PriceTable
from moa.router.predictor import Predictor
from moa.router.router import Router, Scores, scores_of
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import fit
from tests.bench.heads.cross_validation import FOLDS, Recordings, train
from tests.bench.results import record

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

DEMO = "jobs/configs/demo.toml"
ROWS, FEW = 1158, 250
OBJECTIVES = {
    "worth": Objective(0.05),
    "grade": Objective(1.0, usd_weight=0.0),
    "target": Objective(0.0, target_grade=0.8),
}
BUDGETS = (0.15, 0.3, 0.6, None)
"""Shares of the way from the cheapest to the dearest plan; `None` is without a budget."""


class Case(NamedTuple):
    """A forecast and what came of it."""

    objective: str
    budget: float | None
    told: Forecast
    usd: float
    grade: float

    @property
    def cost_held(self) -> bool:
        """Whether the bill was within its interval."""
        return self.told.cost_usd.low <= self.usd <= self.told.cost_usd.high

    @property
    def grade_held(self) -> bool:
        """Whether the mean grade was."""
        return self.told.grade.low <= self.grade <= self.told.grade.high


@dataclass(frozen=True, slots=True)
class Known:
    """n queries of which is known what every model that may be asked made of them."""

    models: tuple[Model, ...]
    backlog: Backlog
    most_output_tokens: Floats
    usd_per_output_token: Floats
    grade: Floats
    """As recorded; NaN where a model may not be asked; shape (n, m), as `usd`."""
    usd: Floats
    sources: tuple[str, ...]

    @classmethod
    def of(
        cls, data: Dataset, scores: Scores, models: Sequence[Model], prices: PriceTable
    ) -> Known:
        """Queries and what a router expects of them."""
        usd = _usd(prices, data.models, data.input_tokens, data.output_tokens)
        expected = _usd(
            prices, data.models, scores.expected_input_tokens, scores.expected_output_tokens
        )
        may = np.isfinite(usd + data.grade)
        backlog = Backlog(
            scores.expected_grade,
            np.where(may, expected, np.inf).astype(np.float32)[:, :, None],
            np.ascontiguousarray(scores.expected_input_tokens),
            scores.expected_output_tokens,
        )
        one = np.ones((1, len(models)))
        per_token = _usd(prices, data.models, 0 * one, one)
        most = scores.most_output_tokens.astype(np.float64)
        return cls(
            tuple(models), backlog, most, per_token.T, data.grade, usd, data.sources
        )  # fmt: skip

    def only(self, rows: Ints) -> Known:
        """Some of its queries, perhaps more than once."""
        return Known(
            self.models,
            self.backlog.take(rows),
            self.most_output_tokens[rows],
            self.usd_per_output_token,
            self.grade[rows],
            self.usd[rows],
            tuple(self.sources[row] for row in rows.tolist()),
        )

    def cases(self, objectives: Sequence[str], budgets: Sequence[float | None]) -> Iterator[Case]:
        """All plans of these queries that there are."""
        cost = self.backlog.cost_usd
        least = float(cost.min(axis=(1, 2)).sum())
        most = float(np.where(np.isfinite(cost), cost, 0).max(axis=(1, 2)).sum())
        for name in objectives:
            for share in budgets:
                usd = None if share is None else least + share * (most - least)
                found = plan(self.backlog, _budget(self.backlog, usd), OBJECTIVES[name])
                if isinstance(found, Plan):
                    yield self._case(name, share, found)

    def _case(self, objective: str, budget: float | None, found: Plan) -> Case:
        totals = Totals(*self.backlog.shape)
        totals.add(self.backlog, found.choice, self.most_output_tokens, self.usd_per_output_token)
        # Without the budget as a bound: a run keeps it, but an interval should not need that.
        told = forecast(
            totals, self.models, ("live",), Situation(self.backlog.rows), PlanConfig(),
            router_usd=Decimal(0),
        )  # fmt: skip
        rows = np.arange(self.backlog.rows)
        grade, usd = self.grade[rows, found.choice], self.usd[rows, found.choice]
        return Case(objective, budget, told, float(usd.sum()), float(grade.mean()))


def _usd(
    prices: PriceTable,
    models: Sequence[str],
    tokens_in: NDArray[np.floating[Any]],
    tokens_out: NDArray[np.floating[Any]],
) -> Floats:
    found = prices.expected_cost_usd(
        models, "live", np.nan_to_num(np.asarray(tokens_in, np.float64)),
        np.nan_to_num(np.asarray(tokens_out, np.float64)),
    )  # fmt: skip
    unknown = np.isnan(np.asarray(tokens_in, np.float64) + np.asarray(tokens_out, np.float64))
    return np.where(unknown, np.nan, found)


def _budget(backlog: Backlog, usd: float | None) -> list[Capacity]:
    if usd is None:
        return []
    return [Capacity(BUDGET, "usd", np.ones(backlog.shape, np.bool_), usd)]


def demo() -> Known:
    """The demo's queries."""
    config = load_config(DEMO)
    catalog = load_catalog(config.catalog)
    models = [catalog.models[name] for name in config.pool]
    data = read_dataset(Path("moa/recordings"), config.pool, split="demo")
    scores = Router.load(config.router.artifact).score(data.texts, config.pool)
    return Known.of(data, scores, models, PriceTable.build(models))


def drawn(known: Known, count: int, *, seed: int, rows: int = ROWS) -> Iterator[Known]:
    """Backlogs of so many queries, some of them more than once."""
    rng = np.random.default_rng(seed)
    answered = _answered(known)
    for _ in range(count):
        yield known.only(rng.choice(answered, rows))


def of_one_kind(known: Known, count: int, *, seed: int, rows: int = FEW) -> Iterator[Known]:
    """At most `count` backlogs of each source that has so many queries, each at most once in one:
    chance shall be that of so many queries, not of the few that were drawn over again.
    """
    rng = np.random.default_rng(seed)
    answered = _answered(known)
    sources = np.array(known.sources)[answered]
    for source in np.unique(sources):
        mine = answered[sources == source]
        for _ in range(min(count, len(mine) // rows)):
            yield known.only(rng.choice(mine, rows, replace=False))


def _answered(known: Known) -> Ints:
    return np.flatnonzero(np.isfinite(known.backlog.cost_usd).any(axis=(1, 2)))


def coverage(
    backlogs: Iterator[Known],
    objectives: Sequence[str] = tuple(OBJECTIVES),
    budgets: Sequence[float | None] = BUDGETS,
) -> list[Case]:
    """All plans of all backlogs."""
    return [case for known in backlogs for case in known.cases(objectives, budgets)]


def held_out(given: Recordings, models: Sequence[Model]) -> Known:
    """Training queries, each by a router that was fitted on other folds."""
    scores = scores_of(
        train(given.data, given.reading).held_out, given.data.texts, given.tokens_per_feature
    )
    return Known.of(given.data, scores, models, given.prices)


def left_out(given: Recordings, source: str, models: Sequence[Model]) -> Known:
    """A source's queries, by a router that was taught all others."""
    mine = np.array([one == source for one in given.data.sources])
    data, rest = given.data.only(mine), given.data.only(~mine)
    fitted = fit(rest, given.reading.only(~mine), folds=FOLDS)
    predicted = Predictor(fitted.tensors)(*given.reading.only(mine), range(len(models)))
    scores = scores_of(predicted, data.texts, given.tokens_per_feature)
    return Known.of(data, scores, models, given.prices)


def figures(cases: Sequence[Case]) -> dict[str, float]:
    """How often intervals held, how wide they are, and by how much forecasts were off."""
    cost = np.array([case.told.cost_usd.expected for case in cases])
    wide = np.array([case.told.cost_usd.high - case.told.cost_usd.low for case in cases])
    grade_wide = np.array([case.told.grade.high - case.told.grade.low for case in cases])
    off = np.array([case.usd for case in cases]) / cost - 1
    grade_off = np.array([case.grade - case.told.grade.expected for case in cases])
    return {
        "plans": len(cases),
        "cost_held": round(float(np.mean([case.cost_held for case in cases])), 3),
        "cost_width": round(float((wide / cost).mean()), 3),
        "cost_off": round(float(off.mean()), 3),
        "cost_off_deviation": round(float(off.std()), 3),
        "grade_held": round(float(np.mean([case.grade_held for case in cases])), 3),
        "grade_width": round(float(grade_wide.mean()), 4),
        "grade_off": round(float(grade_off.mean()), 4),
        "grade_off_deviation": round(float(grade_off.std()), 4),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlogs", type=int, default=40)
    count = parser.parse_args().backlogs
    importlib.import_module("threadpoolctl").threadpool_limits(1)
    known = demo()
    told = {"demo": coverage(drawn(known, count, seed=1))}
    kinds = (of_one_kind(known, 3, seed=seed, rows=120) for seed in range(max(1, count // 8)))
    told["demo, one kind"] = coverage(chain.from_iterable(kinds))
    given = Recordings.load()
    unseen = held_out(given, known.models)
    told["held out"] = coverage(drawn(unseen, count, seed=2))
    told["one kind"] = coverage(of_one_kind(unseen, max(1, count // 8), seed=3))
    for source in sorted(set(given.data.sources)):
        strange = left_out(given, source, known.models)
        told[f"left out: {source}"] = coverage(drawn(strange, max(1, count // 8), seed=4))
    print(f"\n{'backlogs':36} plans  cost held  width    off  grade held  width     off")
    summary = {name: figures(cases) for name, cases in told.items()}
    for name, one in summary.items():
        tell(name, one)
    for name in OBJECTIVES:
        tell(f"demo, {name}", figures([case for case in told["demo"] if case.objective == name]))
    record("forecast", summary)


def tell(name: str, one: dict[str, float]) -> None:
    """A row."""
    print(
        f"{name:36} {one['plans']:5.0f} {one['cost_held']:10.3f} {one['cost_width']:6.3f} "
        f"{one['cost_off']:+6.3f} {one['grade_held']:11.3f} {one['grade_width']:6.4f} "
        f"{one['grade_off']:+7.4f}"
    )


if __name__ == "__main__":
    main()
