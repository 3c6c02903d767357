"""A part of a run → its grades. No Ray in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from moa.grading.grader import Grade, Grader
from moa.planning.policy import FALLBACK
from moa.request import ChatRequest
from moa.schema import LOGGED_GRADES, LOGGED_QUERIES, OTHER_SOURCE
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, RunFolder

UNGRADED = "none"
"""In place of a grader's version, where no grader was asked."""
REFUSED = "the vendor filtered the answer"
_OF_QUERY = ("prompt", "source", "tags")
_DECIDED = ["row", "model", "rule", "propensity", "router_version"]

GRADED = pa.schema(
    [
        *LOGGED_GRADES,
        *(LOGGED_QUERIES.field(name) for name in _OF_QUERY),
        pa.field("grading_s", pa.float64(), nullable=False),
    ]
)
"""Queries of a part that a model has answered or refused, each with its grade."""


class Choice(NamedTuple):
    """A grader, and whose completions it grades."""

    grader: Grader
    tags: frozenset[str]
    """Empty: everybody's."""


class PartGrader:
    """Grades the completions of one run."""

    def __init__(
        self,
        run: RunFolder,
        choices: Sequence[Choice],
        *,
        share: float = 1.0,
        refusal_grade: float | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Look at what the run has by now.

        Args:
            run: whose folder it is.
            choices: the first one that fits grades a query.
            share: of the queries, by the hash of their ids.
            refusal_grade: of an answer that was filtered; `None`: it has none.
            now: the clock.
        """
        first = run.first_start()
        assert first is not None, f"{run.url} was never begun"
        self._run_id: str = first["config"]["run"]["id"]
        self._run, self._merged = run, MergedRun(run)
        self._choices, self._share = choices, share
        self._refusal_grade, self._now = refusal_grade, now

    def __call__(self, part: PartName) -> pa.Table:
        """`GRADED` of one part. A query that nobody has answered (a dead letter) has no row, and an
        answer that others share (`dedupe`) has one for each of them, by its own reference. How its
        model was chosen is what was decided first: a redrive to that model is no other draw.
        """
        decided = _by_row(self._run.read_decisions(part, columns=_DECIDED))
        columns = ["row", "query_id", "request", "tags", "reference", "followers"]
        queries = _by_row(self._run.read_queries(part, columns=columns))
        rows = [
            self._row(outcome, queries[outcome["row"]], decided[outcome["row"]])
            for table in self._merged.outcomes_of(part)
            for outcome in table.to_pylist()
            if outcome["status"] != "dead_letter" and self._is_in(outcome["query_id"])
        ]
        return pa.Table.from_pylist(rows, schema=GRADED)

    def _is_in(self, query_id: str) -> bool:
        return xxhash.xxh3_64_intdigest(query_id.encode()) < self._share * 2.0**64

    def _row(
        self, outcome: Mapping[str, Any], leader: Mapping[str, Any], decision: Mapping[str, Any]
    ) -> dict[str, Any]:
        query = _asked(outcome, leader)
        started = time.perf_counter()
        grade, version = self._grade(outcome, query)
        tags = query["tags"]
        as_decided = outcome["model"] == decision["model"]
        return {
            "query_id": f"{self._run_id}/{outcome['query_id']}",
            "model": outcome["model"],
            "grade": grade.value,
            "reason": grade.reason or None,
            "grader": version,
            "input_tokens": outcome["input_tokens"],
            "output_tokens": outcome["output_tokens"],
            "propensity": decision["propensity"] if as_decided else 1.0,
            "rule": decision["rule"] if as_decided else FALLBACK,
            "router_version": decision["router_version"],
            "run_id": self._run_id,
            "cost_usd": outcome["cost_usd"],
            "graded_at": self._now(),
            "prompt": ChatRequest.model_validate_json(leader["request"]).text(),
            "source": tags[0] if tags else OTHER_SOURCE,
            "tags": tags,
            "grading_s": time.perf_counter() - started,
        }

    def _grade(self, outcome: Mapping[str, Any], query: Mapping[str, Any]) -> tuple[Grade, str]:
        if outcome["status"] == "refused":
            known = self._refusal_grade is not None
            return Grade(self._refusal_grade, "" if known else REFUSED), UNGRADED
        tags = frozenset(query["tags"])
        for choice in self._choices:
            if not choice.tags or choice.tags & tags:
                return self._asked(choice.grader, outcome, query["reference"])
        return Grade(None, "no grader for its tags"), UNGRADED

    @staticmethod
    def _asked(
        grader: Grader, outcome: Mapping[str, Any], reference: str | None
    ) -> tuple[Grade, str]:
        if outcome["completion"] is None:
            return Grade(None, "no text in the answer"), grader.version
        try:
            return grader.grade(outcome["completion"], reference or ""), grader.version
        except Exception as error:  # a grader's bug costs an item, as Grader promises
            return Grade(None, f"the grader raised {type(error).__name__}"), grader.version


def _asked(outcome: Mapping[str, Any], leader: Mapping[str, Any]) -> Mapping[str, Any]:
    """Who asked: the query that was sent, or one that shares its answer."""
    if outcome["same_as"] is None:
        return leader
    (follower,) = (one for one in leader["followers"] if one["query_id"] == outcome["query_id"])
    return {**leader, **follower}


def _by_row(table: pa.Table) -> dict[int, dict[str, Any]]:
    return {row["row"]: row for row in table.to_pylist()}
