from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from moa.evaluation.judged import Judged, at
from moa.evaluation.off_policy import (
    LEAST_EVIDENCE,
    Draws,
    Floats,
    Ints,
    Logged,
    by_domain,
    difference,
    value,
    worths,
)
from tests.evaluation.logs import P3, night, recorded, worth
from tests.evaluation.made import POLICY

PRICE = 0.05
DRAWS = Draws(PRICE, replicates=200)


@pytest.fixture(scope="module")
def truth() -> Judged:
    return recorded(P3)


@pytest.fixture(scope="module")
def decided(truth: Judged) -> Ints:
    return truth.decide(POLICY).chosen


@pytest.fixture(scope="module")
def candidate(truth: Judged) -> Ints:
    return truth.decide(at(POLICY, Decimal("0.2"))).chosen


def log_of(
    grade: Floats, propensity: float | Floats = 1.0, *, domains: list[str] | None = None
) -> Logged:
    queries = len(grade)
    return Logged(
        tuple(f"v/m{n}" for n in range(grade.shape[1])),
        tuple(domains or ["d"] * queries),
        tuple(map(str, range(queries))),
        grade,
        np.where(np.isnan(grade), np.nan, 0.001),
        np.where(np.isnan(grade), np.nan, propensity),
    )


def test_where_every_model_has_answered_the_grades_themselves_count() -> None:
    grade = np.random.default_rng(0).random((40, 3))
    chosen = np.arange(40) % 3

    found = value(worths(log_of(grade)), chosen, DRAWS)

    assert found.grade.value == pytest.approx(grade[np.arange(40), chosen].mean())
    assert found.cost_usd.value == pytest.approx(1)
    assert found.worth_usd is not None
    assert found.worth_usd.value == pytest.approx(PRICE * 1000 * found.grade.value - 1)
    assert found.effective == pytest.approx(40)
    assert (found.known, found.out_of_reach) == (40, 0)


def test_estimates_from_logs_are_right_in_the_mean_and_their_intervals_hold(
    truth: Judged, decided: Ints, candidate: Ints
) -> None:
    earned, rows = worth(truth, PRICE), np.arange(truth.queries)
    real = {
        "value": earned[rows, candidate].mean(),
        "less current": (earned[rows, candidate] - earned[rows, decided]).mean(),
        "less constant": (earned[rows, candidate] - earned[:, 0]).mean(),
    }
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in real}

    for seed in range(60):
        log, drawn = night(truth, decided, share=0.4, queries=1500, seed=seed)
        scores, draws = worths(log), Draws(PRICE, seed, 200)
        mine = candidate[drawn]
        told = {
            "value": value(scores, mine, draws).worth_usd,
            "less current": difference(scores, mine, decided[drawn], draws).worth_usd,
            "less constant": difference(scores, mine, 0 * mine, draws).worth_usd,
        }
        for name, one in told.items():
            assert one is not None
            found[name].append((one.value, one.low <= real[name] <= one.high))

    for name, all_of_it in found.items():
        values = np.array([one for one, _ in all_of_it])
        assert abs(values.mean() - real[name]) < 3 * values.std() / np.sqrt(60), name
        assert np.mean([held for _, held in all_of_it]) >= 0.85, name


def test_the_mean_of_what_was_asked_is_not_what_would_have_been_earned(
    truth: Judged, decided: Ints
) -> None:
    """The reason for all this: a deployed router sends models what it thinks they can do."""
    real, asked, estimated = truth.grade[:, 2].mean(), [], []

    for seed in range(20):
        log, drawn = night(truth, decided, share=0.4, queries=1500, seed=seed)
        asked.append(np.nanmean(log.grade[:, 2]))
        estimated.append(value(worths(log), np.full(len(drawn), 2), DRAWS).grade.value)

    assert abs(np.mean(asked) - real) > 4 * np.std(asked) / np.sqrt(20)
    assert abs(np.mean(estimated) - real) < 3 * np.std(estimated) / np.sqrt(20)


def test_what_was_drawn_of_models_beyond_the_pool_or_was_out_makes_no_difference(
    truth: Judged, decided: Ints
) -> None:
    """A domain is all that a guess knows; inside it, a router's habits choose what is left."""
    pool, mine = [0, 1], np.minimum(decided, 1)
    rows = np.arange(truth.queries)
    real = (truth.grade[rows, mine] - truth.grade[rows, 1]).mean()
    beyond: list[float] = []
    out: list[float] = []

    for seed in range(40):
        log, drawn = night(truth, decided, share=0.4, queries=1500, seed=seed)
        log = replace(log, domains=("all",) * len(drawn))
        smaller = replace(
            log, pool=log.pool[:2],
            grade=log.grade[:, pool], cost_usd=log.cost_usd[:, pool],
            propensity=log.propensity[:, pool],
        )  # fmt: skip
        gone = log.known & (np.arange(3) == 0) & (np.arange(len(drawn)) < 750)[:, None]
        halted = replace(log, grade=np.where(gone, np.nan, log.grade))
        for logged, found in ((smaller, beyond), (halted, out)):
            chosen = mine[drawn]
            one = difference(worths(logged), chosen, np.ones_like(chosen), DRAWS)
            found.append(one.grade.value)

    assert abs(np.mean(beyond) - real) < 3 * np.std(beyond) / np.sqrt(40)
    assert abs(np.mean(out) - real) < 3 * np.std(out) / np.sqrt(40)


def test_equal_choices_differ_by_nothing(truth: Judged, decided: Ints) -> None:
    log, rows = night(truth, decided, share=0.02, queries=200, seed=0)

    found = difference(worths(log), decided[rows], decided[rows], DRAWS)

    assert (found.grade.low, found.grade.value, found.grade.high) == (0, 0, 0)
    assert found.measured


def test_without_answers_to_what_is_sent_elsewhere_nothing_is_measured() -> None:
    grade = np.full((300, 2), np.nan)
    grade[:, 0] = 1
    grade[: LEAST_EVIDENCE - 1, 1] = 1
    propensity = np.full(grade.shape, 0.5)
    nearly = log_of(grade, propensity)
    grade[LEAST_EVIDENCE - 1, 1] = 1

    assert not difference(worths(nearly), *choices(300), DRAWS).measured
    assert difference(worths(log_of(grade, propensity)), *choices(300), DRAWS).measured


def choices(queries: int) -> tuple[Ints, Ints]:
    return np.ones(queries, np.intp), np.zeros(queries, np.intp)


def test_what_a_log_without_exploration_cannot_tell_is_told() -> None:
    grade = np.full((100, 2), np.nan)
    grade[:, 0] = 1

    found = value(worths(log_of(grade, 1.0)), np.arange(100) % 2, DRAWS)

    assert found.out_of_reach == 0.5
    assert value(worths(log_of(grade, 0.9)), np.arange(100) % 2, DRAWS).out_of_reach == 0


def test_a_bound_on_weights_leans_on_the_guess() -> None:
    grade = np.full((2000, 2), np.nan)
    explored = np.arange(2000) % 100 == 0
    grade[explored, 1], grade[~explored, 0] = 1, 0
    log = log_of(grade, np.array([0.99, 0.01]))
    everywhere = np.ones(2000, np.intp)

    free = value(worths(log), everywhere, DRAWS)
    bound = value(worths(log, most_weight=10), everywhere, DRAWS)

    assert free.grade.value == pytest.approx(1, abs=0.02)
    assert bound.grade.value < free.grade.value
    assert free.effective == bound.effective == pytest.approx(20)


def test_near_duplicates_are_drawn_together() -> None:
    grade = np.random.default_rng(1).random((100, 1)).repeat(9, axis=0).round()
    alone = log_of(grade)
    together = Logged(
        alone.pool,
        alone.domains,
        tuple(str(n // 9) for n in range(900)),
        alone.grade,
        alone.cost_usd,
        alone.propensity,
    )
    everywhere = np.zeros(900, np.intp)

    narrow = value(worths(alone), everywhere, DRAWS).grade
    wide = value(worths(together), everywhere, DRAWS).grade

    assert wide.value == pytest.approx(narrow.value)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(3, rel=0.2)


def test_domains_of_which_little_is_known_are_taken_together() -> None:
    sizes = {"large": 200, "small": 30, "tiny": 25}
    names = [name for name, count in sizes.items() for _ in range(count)]
    grade = np.random.default_rng(0).random((255, 2))
    log = log_of(grade, domains=names)

    found = by_domain(worths(log), log.domains, *choices(255), DRAWS)

    assert list(found) == ["large", "small + tiny"]
    assert all(one.measured for one in found.values())
    assert sum(one.queries for one in found.values()) == 255


def test_intervals_of_domains_hold_together() -> None:
    grade = np.random.default_rng(0).random((300, 2))
    log = log_of(grade, domains=[("a", "b", "c")[n % 3] for n in range(300)])
    scores = worths(log)
    mask = np.array(log.domains) == "a"

    several = by_domain(scores, log.domains, *choices(300), DRAWS)["a"].grade
    alone = difference(scores, *choices(300), DRAWS, among=mask).grade

    assert several.value == alone.value
    assert several.low < alone.low < alone.high < several.high


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"propensity outside \(0, 1\]"):
        log_of(np.ones((2, 2)), 0.0)
    with pytest.raises(ValueError, match="propensity outside"):
        log_of(np.ones((2, 2)), np.nan)
