"""What a plan's prices mean to those who own the budget and the limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from math import floor, log10
from typing import Any

from moa.planning.capacities import BUDGET, HOUR_S
from moa.planning.capacity import TARGET_GRADE
from moa.planning.pace import DAY_S, MINUTE_S
from moa.planning.policy import BELOW_FLOOR_USD
from moa.reports.wording import duration, moment, money, price, share

Plan = Mapping[str, Any]
"""As `plan_document` gives it."""

_PER_TIME = {
    "rpm": ("requests a minute", MINUTE_S),
    "input_tpm": ("input tokens a minute", MINUTE_S),
    "output_tpm": ("output tokens a minute", MINUTE_S),
    "tpm": ("tokens a minute", MINUTE_S),
    "rpd": ("requests a day", DAY_S),
}
"""Last word of a capacity's name → its rate in words, and the time that it is for."""


def aim(plan: Plan) -> str:
    """What was wanted, as a sentence."""
    objective = plan["objective"]
    if objective["target_grade"] is not None:
        return (
            f"Wanted: a mean expected grade of {objective['target_grade']:g} at least cost "
            "(plan.target_grade)."
        )
    if objective["usd_weight"] == 0:
        return "Wanted: the greatest expected grade within the limits (plan.maximise)."
    if objective["floor"] is not None:
        return (
            f"Wanted: an expected grade of {objective['floor']:g} for each query, at least cost "
            "(policy.quality_floor)."
        )
    if objective["usd_per_grade"] == 0:
        return "Wanted: the least cost; the other aims cannot be reached any more."
    return (
        "Wanted: the most worth, less its cost, where a right instead of a wrong answer is worth "
        f"{price(Decimal(str(objective['usd_per_grade'])))} (policy.willingness_to_pay)."
    )


def best_by(plan: Plan) -> str:
    """How far from the best plan this one can be at most."""
    if plan["gap"] < 1e-6:
        return "No plan within these limits is better."
    least = "below 0.01 %" if plan["gap"] < 1e-4 else f"at most {plan['gap'] * 100:.2f} %"
    of = "right answers" if _counts_answers(plan) else "worth"
    if plan["objective"]["target_grade"] is not None:
        of = "cost"
    return f"The best possible plan is better by {least} of its {of}."


def ends_at(plan: Plan) -> datetime:
    """When the last answer is expected."""
    seconds = plan["forecast"]["ends_in_s"]["expected"]
    return datetime.fromisoformat(plan["created_at"]) + timedelta(seconds=seconds)


def ends(plan: Plan) -> str:
    """When, and after how long, with the interval."""
    span = plan["forecast"]["ends_in_s"]
    low, expected, high = (duration(span[name]) for name in ("low", "expected", "high"))
    return f"{moment(ends_at(plan))}, after {expected} ({low} to {high})"


def steps_of(right_answers: float) -> str:
    """What a dollar buys, for a table; nothing at the dearest plan."""
    return f"{_number(right_answers)} right answers" if right_answers else ""


def binding(plan: Plan) -> list[dict[str, Any]]:
    """The limits that the plan would be better without, dearest first."""
    found = [one for one in plan["capacities"] if one["binds"]]
    return sorted(found, key=lambda one: -one["price"] * abs(one["limit"]))


def what_more_buys(plan: Plan) -> list[str]:
    """A sentence for each limit that binds, and one for the deadline."""
    told = [_sentence(plan, one) for one in binding(plan)]
    return [*told, *_more_time(plan)]


def used_of(one: Mapping[str, Any]) -> str:
    """`98.2 %` of a limit; of nothing, that it is nothing."""
    return share(one["used"] / one["limit"]) if one["limit"] else "no room"


def amount(measure: str, value: float) -> str:
    """A use or a limit in its measure's unit."""
    return money(value) if measure == "usd" else f"{value:,.0f}"


def _counts_answers(plan: Plan) -> bool:
    """Whether worth is a sum of grades instead of money."""
    return bool(plan["objective"]["usd_weight"] == 0)


def _would(plan: Plan, worth: float) -> str:
    """What becomes of more worth."""
    if _counts_answers(plan):
        return f"would buy {_number(worth)} more right answers"
    if plan["objective"]["usd_per_grade"]:
        return f"would be worth {money(round(worth, 9))}"
    return f"would save {money(round(worth, 9))}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def _sentence(plan: Plan, one: Mapping[str, Any]) -> str:
    name = one["name"]
    if name == BUDGET:
        return _more_money(plan, one["price"])
    if name == TARGET_GRADE:
        usd = one["price"] * one["limit"] / max(plan["objective"]["target_grade"], 1e-9) / 100
        return f"One point more of mean grade would cost {money(usd)}."
    what, units = _step(plan, one)
    return f"{what} {_would(plan, one['price'] * units)}."


def _more_money(plan: Plan, worth: float) -> str:
    """The price of the budget is what a dollar brings beyond itself, where worth is money."""
    objective, queries = plan["objective"], max(1, plan["queries"])
    per_grade = objective["usd_per_grade"] or BELOW_FLOOR_USD
    right = (worth + objective["usd_weight"]) / per_grade
    points = right / queries * 100
    return (
        f"One more dollar of budget would buy {_number(right)} more right answers "
        f"({points:.2g} points of mean grade)."
    )


def _step(plan: Plan, one: Mapping[str, Any]) -> tuple[str, float]:
    """More of a limit in words, and how many of its units that is for the whole backlog."""
    owner, _, kind = one["name"].rpartition(" ")
    if one["per_time"] and kind in _PER_TIME and plan["seconds"]:
        what, per_s = _PER_TIME[kind]
        of_rate = plan["seconds"] / per_s
        step = _round_step(one["limit"] / of_rate)
        return f"{step:,.0f} more {what} of {owner}", step * of_rate
    if one["name"].endswith(" max share"):
        return f"One more point of share for {_owner(one)}", 0.01 * plan["queries"]
    if one["name"].endswith(" min share"):
        return f"One point less that {_owner(one)} must be given", 0.01 * plan["queries"]
    if one["name"].endswith(" batch queue"):
        step = _round_step(one["limit"])
        return f"{step:,.0f} more input tokens in the batch queue of {_owner(one)}", step
    if one["name"].endswith(" calls at once"):
        step = _round_step(plan["in_flight"])
        per_call = one["limit"] / plan["in_flight"]
        return f"{step:,.0f} more calls at once of {_owner(one, 3)}", step * per_call
    return f"A tenth more of “{one['name']}”", 0.1 * one["limit"]


def _owner(one: Mapping[str, Any], words: int = 2) -> str:
    return str(one["name"].rsplit(" ", words)[0])


def _round_step(rate: float) -> float:
    """The greatest power of ten that is no more: a step that somebody would ask a vendor for."""
    return float(10 ** floor(log10(rate))) if rate >= 1 else 1.0


def _more_time(plan: Plan) -> Iterator[str]:
    """What grows with time, all at once."""
    if not plan["seconds"]:
        return
    per_s = sum(
        one["price"] * one["limit"] / plan["seconds"]
        for one in plan["capacities"]
        if one["per_time"] and one["binds"]
    )
    if per_s > 0:
        what, seconds = ("One more hour", HOUR_S)
        if plan["seconds"] < 2 * HOUR_S:
            what, seconds = ("One more minute", MINUTE_S)
        yield f"{what} until the deadline {_would(plan, per_s * seconds)}."
