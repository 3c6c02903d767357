"""Decisions of which some are drawn: one query at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.decisions.deciding import live_lanes
from moa.planning.exploration import Exploration
from moa.planning.policy import EXPLORED, NOBODY
from tests.decisions.scored import POOL, deciding, random_scores


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0]), st.sampled_from([None, 0.001]))
def test_a_drawn_model_can_take_its_query_and_the_own_choice_of_the_policy_comes_next(
    seed: int, share: float, most_usd: float | None
) -> None:
    queries = random_scores(80, seed)
    by = replace(deciding(), exploration=Exploration(share, seed, most_usd))
    expected = by.expect(queries)
    alone = by.by_policy(expected)

    decisions, chances = by.by_policy_or_drawn(expected)
    lanes = live_lanes(decisions)
    table = by.table(queries, expected, decisions, lanes, router_s=0.0, chances=chances)

    drawn = np.flatnonzero(decisions.rule == EXPLORED)
    can = expected.candidates.can
    assert can[drawn, decisions.chosen[drawn]].all()
    if most_usd is not None:
        assert (expected.cost_usd[drawn, decisions.chosen[drawn]] <= most_usd).all()
    others = np.flatnonzero(decisions.rule != EXPLORED)
    assert np.array_equal(decisions.chosen[others], alone.chosen[others])
    assert np.array_equal(decisions.rule[others], alone.rule[others])
    rows = dict(zip(expected.good.tolist(), range(len(expected.good)), strict=True))
    for number, row in enumerate(table.to_pylist()):
        if row["model"] is None:
            assert (row["preferred_model"], row["propensity"]) == (None, 1.0)
            continue
        own = POOL[alone.chosen[rows[number]]]
        assert row["preferred_model"] == own
        assert 0 < row["propensity"] <= 1
        if row["model"] != own:
            assert row["fallbacks"][0] == own
        else:
            assert row["propensity"] >= np.float32(1 - share)
    assert (alone.chosen == NOBODY).sum() == (decisions.chosen == NOBODY).sum()


def test_without_exploration_every_choice_is_certain() -> None:
    queries = random_scores(40, 3)
    by = deciding()
    expected = by.expect(queries)

    decisions, chances = by.by_policy_or_drawn(expected)

    assert np.array_equal(decisions.chosen, by.by_policy(expected).chosen)
    assert (chances.propensity == 1).all()


def test_a_rerun_in_other_parts_decides_alike() -> None:
    queries = random_scores(90, 11)
    by = replace(deciding(), exploration=Exploration(0.5, 1))

    def tables(rows: int) -> list[dict[str, object]]:
        found = []
        for start in range(0, 90, rows):
            part = queries.slice(start, rows)
            expected = by.expect(part)
            decisions, chances = by.by_policy_or_drawn(expected)
            lanes = live_lanes(decisions)
            found += by.table(part, expected, decisions, lanes, 0.0, chances).to_pylist()
        return found

    assert tables(90) == tables(7)
    assert any(row["rule"] == EXPLORED for row in tables(90))


def test_probabilities_weigh_a_sample_back_to_what_every_model_would_have_done() -> None:
    """Inverse propensity: the mean grade of one model, from a log in which it is rarely asked."""
    queries = random_scores(3000, 5)
    by = replace(deciding(), exploration=Exploration(0.5, 2))
    expected = by.expect(queries)
    decisions, chances = by.by_policy_or_drawn(expected)
    options = by.exploration.options(expected.candidates.can, expected.cost_usd)  # type: ignore[union-attr]

    for model in range(len(POOL)):
        truth = expected.grade[options[:, model], model].mean()
        mine = (decisions.chosen == model) & options[:, model]
        weight = 1 / chances.propensity[mine]
        told = (weight * expected.grade[mine, model]).sum() / weight.sum()
        assert told == pytest.approx(truth, abs=0.03)
        assert abs(expected.grade[mine, model].mean() - truth) > 0.03  # unweighed it is not
