"""What limits a plan: money, time at each account's rate, queues for batches, shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moa.catalog import Lane, Model
from moa.plan_config import PlanConfig
from moa.planning.capacity import Bools, Capacity, Measure
from moa.planning.pace import DAY_S, MINUTE_S, answer_s

HOUR_S = 3600.0
USED_OF_TIME = 0.95
"""Of the time until the deadline: the rest is for what comes late or has to be asked again."""
BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a run has learnt of a model, beside what its router and its catalog say."""

    input_tokens: float = 1.0
    """What answers have used, to what was expected of them."""
    output_tokens: float = 1.0
    """Likewise."""
    rate_per_s: float | None = None
    """Calls that were answered a second while others waited; `None`: it was never kept busy."""


class Committed(NamedTuple):
    """What is out, or is about to be, of earlier decisions."""

    calls: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a run stands when it is planned."""

    queries: int
    """To be planned."""
    usd: float | None = None
    """Left for them; `None` is without a limit."""
    seconds: float | None = None
    """Until the deadline; `None` where there is none."""
    in_flight: int = 256
    """Calls at once of an account, of all replicas."""
    output_tokens: Sequence[float] = ()
    """Expected mean of an answer of each model, pool order."""
    learnt: Mapping[str, Learnt] = field(default_factory=dict)
    """By catalog id."""
    committed: Mapping[str, Committed] = field(default_factory=dict)
    """By catalog id."""
    given: Mapping[str, float] = field(default_factory=dict)
    """Catalog id → queries that it keeps: shares are of these and of those to be planned."""


def lanes_in_time(config: PlanConfig, seconds: float | None) -> tuple[Lane, ...]:
    """The lanes that end before the deadline, in the config's order."""
    takes_s = {"live": 0.0, "flex": config.flex_minutes * 60, "batch": config.batch_hours * HOUR_S}
    return tuple(lane for lane in config.lanes if seconds is None or takes_s[lane] <= seconds)


def capacities(
    models: Sequence[Model], lanes: Sequence[Lane], config: PlanConfig, now: Situation
) -> list[Capacity]:
    """All limits on a plan.

    Args:
        models: pool order.
        lanes: that may be bought.
        config: with the shares.
        now: where the run stands.
    """
    mask = _Masks(len(models), lanes)
    found = [*_rates(models, mask, now), *_queues(models, mask, config, now)]
    found += _at_once(models, mask, now)
    if now.usd is not None:
        found.insert(0, Capacity(BUDGET, "usd", mask.all(), max(0.0, now.usd)))
    whole = now.queries + sum(now.given.values())
    for number, model in enumerate(models):
        share, given = config.shares.get(model.id), now.given.get(model.id, 0)
        if share is not None and share.max < 1:
            most = max(0.0, share.max * whole - given)
            found.append(Capacity(f"{model.id} max share", "queries", mask.of(number), most))
        if share is not None and share.min * whole > given:
            least = share.min * whole - given
            found.append(
                Capacity(f"{model.id} min share", "queries", mask.of(number), least, at_least=True)
            )
    return found


class _Masks:
    """Which options a limit counts."""

    def __init__(self, models: int, lanes: Sequence[Lane]) -> None:
        self._models = models
        self._lanes = tuple(lanes)

    def all(self) -> Bools:
        return np.ones((self._models, len(self._lanes)), np.bool_)

    def of(self, *models: int, lanes: Sequence[Lane] = ("live", "flex", "batch")) -> Bools:
        mask = np.zeros((self._models, len(self._lanes)), np.bool_)
        for column, lane in enumerate(self._lanes):
            mask[list(models), column] = lane in lanes
        return mask


_CALLS: tuple[Lane, ...] = ("live", "flex")
"""Lanes that share an account's limits of calls."""


def _rates(models: Sequence[Model], mask: _Masks, now: Situation) -> Iterator[Capacity]:
    """What each account may use of a model until the deadline."""
    if now.seconds is None:
        return
    seconds = now.seconds * USED_OF_TIME
    for number, model in enumerate(models):
        out = now.committed.get(model.id, Committed())
        tokens = out.input_tokens + out.output_tokens
        limits = model.limits
        flows: tuple[tuple[str, Measure, float | None, float, float], ...] = (
            ("rpm", "queries", limits.rpm, MINUTE_S, out.calls),
            ("input_tpm", "input_tokens", limits.input_tpm, MINUTE_S, out.input_tokens),
            ("output_tpm", "output_tokens", limits.output_tpm, MINUTE_S, out.output_tokens),
            ("tpm", "tokens", limits.tpm, MINUTE_S, tokens),
            ("rpd", "queries", limits.rpd, DAY_S, out.calls),
        )
        for name, measure, limit, per_s, committed in flows:
            if limit is not None:
                left = max(0.0, limit * seconds / per_s - committed)
                options = mask.of(number, lanes=_CALLS)
                yield Capacity(f"{model.id} {name}", measure, options, left, per_time=True)


def _at_once(models: Sequence[Model], mask: _Masks, now: Situation) -> Iterator[Capacity]:
    """What the calls at once allow: of an account, and of a model that has a limit of its own, by
    what answers take; of a model that was kept busy as it was seen to answer.
    """
    if now.seconds is None:
        return
    accounts: dict[str, list[int]] = defaultdict(list)
    for number, model in enumerate(models):
        accounts[model.provider].append(number)
        rate_per_s = now.learnt.get(model.id, Learnt()).rate_per_s
        if rate_per_s is not None:
            left = rate_per_s * now.seconds * USED_OF_TIME - _calls(now, model)
            options = mask.of(number, lanes=_CALLS)
            name = f"{model.id} as it answers"
            yield Capacity(name, "queries", options, max(0.0, left), per_time=True)
        most = model.limits.max_in_flight
        if rate_per_s is None and most is not None and now.output_tokens:
            answers = most * now.seconds * USED_OF_TIME / answer_s(now.output_tokens[number])
            options = mask.of(number, lanes=_CALLS)
            left = max(0.0, answers - _calls(now, model))
            yield Capacity(f"{model.id} max_in_flight", "queries", options, left, per_time=True)
    for account, numbers in accounts.items():
        if not now.output_tokens:
            continue
        one_s = float(np.mean([answer_s(now.output_tokens[number]) for number in numbers]))
        out = sum(_calls(now, models[number]) for number in numbers)
        left = max(0.0, now.in_flight * now.seconds * USED_OF_TIME / one_s - out)
        options = mask.of(*numbers, lanes=_CALLS)
        yield Capacity(f"{account} calls at once", "queries", options, left, per_time=True)


def _calls(now: Situation, model: Model) -> float:
    return now.committed.get(model.id, Committed()).calls


def _queues(
    models: Sequence[Model], mask: _Masks, config: PlanConfig, now: Situation
) -> Iterator[Capacity]:
    """What may wait in batches, as often as they end before the deadline."""
    if now.seconds is None:
        return
    turns = max(1, int(now.seconds // (config.batch_hours * HOUR_S)))
    for number, model in enumerate(models):
        most = model.limits.batch_queue_tokens
        if most is not None:
            options = mask.of(number, lanes=("batch",))
            yield Capacity(f"{model.id} batch queue", "input_tokens", options, most * turns)
