"""What a finished piece's answers have used, beside what was expected of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.dispatch.outcome import Outcome, outcomes_table
from moa.dispatch.used import Used, used_by
from moa.schema import ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.run_folder import PartName, PieceName, RunFolder

A, B, C = "openai/a", "openai/b", "google/c"
PART = PartName(3, 100, 200)
PIECE = PieceName(PART, "openai")


class Row(NamedTuple):
    """A query of a piece, and what came of it."""

    model: str = A
    """That was decided on."""
    answered_by: str | None = A
    expected: tuple[float, float] = (10.0, 20.0)
    """Input and output tokens."""
    used: tuple[int, int] = (11, 25)
    most: int | None = None
    twins: int = 0


def write(run: RunFolder, rows: list[Row]) -> None:
    """From row 100 on."""
    queries, decisions, outcomes = [], [], []
    for number, row in enumerate(rows, start=PART.first_row):
        place: dict[str, Any] = {"query_id": f"q{number}", "partition": 3, "row": number}
        tokens_in, tokens_out = row.expected
        queries.append(
            {
                **place, "request": "{}", "abilities": [], "tags": [], "followers": [],
                "max_output_tokens": row.most, "expected_grade": [0.5], "novelty": 0.0,
                "expected_input_tokens": [tokens_in], "expected_output_tokens": [tokens_out],
                "most_output_tokens": [2 * tokens_out],
            }
        )  # fmt: skip
        decisions.append(
            {
                **place, "model": row.model, "provider": "openai", "lane": "live",
                "rule": "planned", "fallbacks": [], "expected_grade": [0.5],
                "expected_cost_usd": [0.1], "expected_input_tokens": tokens_in,
                "expected_output_tokens": tokens_out, "novelty": 0.0, "propensity": 1.0,
                "router_s": 0.0, "router_version": "r", "price_version": "p",
            }
        )  # fmt: skip
        outcome = Outcome(
            **place,
            status="dead_letter" if row.answered_by is None else "answered",
            tags=[],
            model=row.answered_by,
            first_model=row.model,
            input_tokens=row.used[0],
            output_tokens=row.used[1],
        )
        outcomes += [outcome, *(outcome.for_follower(f"t{n}", []) for n in range(row.twins))]
    decided = pa.Table.from_pylist(decisions, schema=ROUTING_DECISIONS)
    run.write_queries(PART, pa.Table.from_pylist(queries, schema=SCORED_QUERIES))
    run.write_decisions(PART, decided)
    run.write_outcomes(PIECE, outcomes_table(outcomes))


def used(folder: Path | str, *rows: Row) -> dict[str, Used]:
    run = RunFolder(str(folder))
    write(run, list(rows))
    return used_by(PIECE, run)


def test_answers_are_summed_by_model(tmp_path: Path) -> None:
    found = used(
        tmp_path,
        Row(A, A, (10, 20), (11, 25)),
        Row(B, B, (1, 2), (3, 4)),
        Row(A, A, (30, 40), (50, 60)),
    )

    assert found == {A: Used(2, 40, 61, 60, 85), B: Used(1, 1, 3, 2, 4)}


def test_what_another_model_answered_says_nothing_of_what_was_expected(tmp_path: Path) -> None:
    found = used(tmp_path, Row(A, B), Row(B, C), Row(A, None), Row(B, B))

    assert found == {B: Used(1, 10, 11, 20, 25)}


def test_twins_use_nothing_and_expect_nothing(tmp_path: Path) -> None:
    assert used(tmp_path, Row(twins=3), Row()) == {A: Used(2, 20, 22, 40, 50)}


@pytest.mark.parametrize(("most", "expected"), [(None, 20.0), (5, 5.0), (20, 20.0), (99, 20.0)])
def test_no_more_output_is_expected_than_a_query_allows(
    tmp_path: Path, most: int | None, expected: float
) -> None:
    found = used(tmp_path, Row(most=most))

    assert found[A].expected_output_tokens == expected
    assert found[A].output_tokens == 25


def test_a_piece_without_an_answer_has_used_nothing(tmp_path: Path) -> None:
    assert used(tmp_path, Row(A, None)) == {}


rows = st.builds(
    Row,
    st.sampled_from([A, B]),
    st.sampled_from([A, B, C, None]),
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    st.none() | st.integers(1, 500),
    st.integers(0, 2),
)


@settings(max_examples=40)
@given(st.lists(rows, min_size=1, max_size=12))
def test_each_first_answer_counts_once(rows: list[Row]) -> None:
    wanted: dict[str, Used] = defaultdict(Used)
    for row in rows:
        if row.answered_by == row.model:
            most = row.expected[1] if row.most is None else min(row.most, row.expected[1])
            one = Used(1, row.expected[0], row.used[0], most, row.used[1])
            wanted[row.model] = wanted[row.model].plus(one)

    with TemporaryDirectory() as folder:
        assert used(folder, *rows) == wanted
