"""What is watched of a run, for Ray's metrics pages (`ray_moa_run_…`)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from moa.catalog import Model
from moa.cluster.meters import Meter, Registry
from moa.dispatch.tallies import Tallied
from moa.pipeline.details import Details, Progress
from moa.pipeline.progress import FEWEST_FOR_A_PACE, Pace, in_hand_s, left_s

TELL_EVERY_S = 2.0
"""Ray exports every 10 s, and forgets a gauge that was not set for 20."""
_RUN = ("run",)
K = TypeVar("K")
N = TypeVar("N", int, Decimal)


class RunMeters:
    """Tells where a run stands. Gauges are there while its driver is at work; counters are of this
    start, and stay as long as the Ray node that it ran on. What a dispatcher has counted since it
    was last asked dies with it, a turn's worth; the bill in gauges is by what was kept.

    Args:
        registry: where meters are made.
        run: its id, a label of all of them.
        models: of its pool.
        deadline: of its plan.
        clock: for the pace.
        now: seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        run: str,
        models: Sequence[Model],
        deadline: datetime | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._run = {"run": run}
        self._providers = {model.id: model.provider for model in models}
        self._deadline = deadline
        self._now = now
        self._pace = Pace(TELL_EVERY_S, clock)
        self._happened: dict[str, Tallied] = {}
        self._untold: Progress | None = None
        """The latest, if it was not time to tell it."""
        self._make_gauges(registry)
        self._make_counters(registry)
        self._started.add(1, self._run)

    def __call__(self, progress: Progress) -> None:
        """Tell where the run stands, if it is time to."""
        # A dispatcher may be gone when it is time to tell.
        self._happened.update(progress.details.happened)
        self._untold = progress
        if self._pace.due(progress):
            self._tell(progress)

    def end(self, how: str) -> None:
        """This start is over: `routed`, `interrupted` or `failed`. What came of it last is told."""
        if self._untold is not None:
            self._tell(self._untold)
        self._ended.add(1, {**self._run, "how": how})

    def _tell(self, progress: Progress) -> None:
        self._untold = None
        self._tell_progress(progress)
        self._tell_money(progress, progress.details)
        self._tell_time(progress, progress.details)
        self._tell_models(progress.details)
        self._tell_decisions(progress.details)
        self._tell_calls(progress.details)

    def _make_gauges(self, registry: Registry) -> None:
        def gauge(name: str, description: str, *labels: str) -> Meter:
            return registry.gauge(f"moa_run_{name}", description, (*_RUN, *labels))

        self._backlog = gauge("backlog_queries", "To be answered")
        self._queries = gauge("queries", "Where they are; done with dead letters", "state")
        self._deciding = gauge("deciding", "1 while the router is at work")
        self._spent_usd = gauge("spent_usd", "The bill so far, of all starts")
        self._budget_usd = gauge("budget_usd", "What may be spent")
        self._forecast_usd = gauge("forecast_usd", "The bill in the end, as it looks now")
        self._deadline_at = gauge("deadline_timestamp_seconds", "When it shall have ended")
        self._forecast_end_at = gauge(
            "forecast_end_timestamp_seconds", "When it will have ended, as it looks now"
        )
        self._oldest_s = gauge("oldest_piece_seconds", "With a dispatcher for so long", "lane")
        self._model_out = gauge("model_out", "1 while nothing can be sent", "provider", "model")
        self._model_waiting = gauge("model_waiting", "Calls that wait", "provider", "model")

    def _make_counters(self, registry: Registry) -> None:
        def counter(name: str, description: str, *labels: str) -> _Total:
            made = registry.counter(f"moa_run_{name}", description, (*_RUN, *labels))
            return _Total(made, self._run, labels)

        by_model = ("provider", "model")
        self._scored = counter("scored", "Queries that the router has scored")
        self._decisions = counter("decisions", "Who was chosen, and why", *by_model, "rule")
        self._calls = counter("calls", "Live calls, by how they ended", *by_model, "status")
        self._cost_usd = counter("cost_usd", "The vendors' bill, in USD", *by_model, "lane")
        self._passed_on = counter("fallbacks", "Left for the next best", *by_model, "reason")
        self._retried = counter("retries", "Calls to be made again")
        self._letters = counter("dead_letters", "Queries that were given up", "reason")
        self._started = registry.counter("moa_run_started", "Starts, redrives too", _RUN)
        self._ended = registry.counter("moa_run_ended", "Starts that are over", (*_RUN, "how"))

    def _tell_progress(self, progress: Progress) -> None:
        self._backlog.add(progress.queries, self._run)
        states = {
            "done": progress.done,
            "dead": progress.dead,
            "in_flight": progress.in_flight,
            "waiting": progress.waiting,
            "in_batches": progress.in_batches,
        }
        for state, queries in states.items():
            self._queries.add(queries, {**self._run, "state": state})
        self._deciding.add(progress.deciding, self._run)

    def _tell_money(self, progress: Progress, details: Details) -> None:
        self._spent_usd.add(float(progress.spent_usd), self._run)
        if details.budget_usd is not None:
            self._budget_usd.add(float(details.budget_usd), self._run)
        forecast_usd = _forecast_usd(progress, details)
        if forecast_usd is not None:
            self._forecast_usd.add(float(forecast_usd), self._run)

    def _tell_time(self, progress: Progress, details: Details) -> None:
        self._oldest_s.add(details.oldest_s, {**self._run, "lane": "live"})
        self._oldest_s.add(details.oldest_batch_s, {**self._run, "lane": "batch"})
        if self._deadline is not None:
            self._deadline_at.add(self._deadline.timestamp(), self._run)
        end_s = _forecast_end_s(progress, details, self._pace.per_s, self._now())
        if end_s is not None:
            self._forecast_end_at.add(end_s, self._run)

    def _tell_models(self, details: Details) -> None:
        for model, line in details.lines.items():
            labels = {**self._run, "provider": self._providers[model], "model": model}
            self._model_out.add(line.out, labels)
            self._model_waiting.add(line.waiting, labels)

    def _tell_decisions(self, details: Details) -> None:
        self._scored.tell(details.scored)
        for one, queries in details.decided.items():
            if one.model is not None and one.rule is not None:
                self._decisions.tell(queries, self._providers[one.model], one.model, one.rule)

    def _tell_calls(self, details: Details) -> None:
        dispatchers = self._happened.values()
        for (model, status), calls in _summed(one.calls for one in dispatchers).items():
            self._calls.tell(calls, self._providers[model], model, status)
        for (model, lane), usd in _summed(one.cost_usd for one in dispatchers).items():
            self._cost_usd.tell(float(usd), self._providers[model], model, lane)
        for (model, reason), queries in _summed(one.passed_on for one in dispatchers).items():
            self._passed_on.tell(queries, self._providers[model], model, reason)
        self._retried.tell(sum(one.retried for one in dispatchers))
        letters = [one.letters for one in dispatchers]
        letters += [{one.reason: n} for one, n in details.decided.items() if one.reason is not None]
        for reason, queries in _summed(letters).items():
            self._letters.tell(queries, reason)


class _Total:
    """A counter that is told totals."""

    def __init__(self, meter: Meter, run: Mapping[str, str], labels: Sequence[str]) -> None:
        self._meter, self._run, self._labels = meter, run, labels
        self._told: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def tell(self, total: float, *values: str) -> None:
        """What it has come to so far, of these labels."""
        rise = total - self._told[values]
        if rise > 0:
            self._meter.add(rise, {**self._run, **dict(zip(self._labels, values, strict=True))})
            self._told[values] = total


def _summed(parts: Iterable[Mapping[K, N]]) -> dict[K, N]:
    found: dict[K, N] = {}
    for part in parts:
        for key, number in part.items():
            found[key] = found[key] + number if key in found else number
    return found


def _forecast_end_s(progress: Progress, details: Details, per_s: float, now: float) -> float | None:
    """By the plan, but not before what is in hand is done; without one, by the pace."""
    if details.expects is not None:
        return max(now + (in_hand_s(progress, per_s) or 0), details.expects.end_s)
    left = left_s(progress, per_s)
    return None if left is None else now + left


def _forecast_usd(progress: Progress, details: Details) -> Decimal | None:
    """By the plan; without one, as dear as what is done."""
    if details.expects is not None:
        return max(details.expects.usd, progress.spent_usd)
    if not progress.done or progress.done < FEWEST_FOR_A_PACE * progress.queries:
        return None
    return progress.spent_usd * progress.queries / progress.done
