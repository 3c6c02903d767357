"""A finished run → the answers in it that a judge is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moa.errors import RunError
from moa.grading.judge import Asked
from moa.request import ChatRequest
from moa.schema import OTHER_SOURCE
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, RunFolder

_READ = ["row", "query_id", "request", "tags", "reference", "followers"]


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer, or a pair of them."""

    query_id: str
    model: str
    asked: Asked
    source: str
    other_model: str | None = None
    """Whose `asked.other` is."""
    shared_by: tuple[str, ...] = ()
    """Queries that were given the same answer."""


def judged_answers(
    run: str, against: str | None, *, tags: frozenset[str], show_reference: bool
) -> Iterator[JudgedAnswer]:
    """The answers of a run that are texts; with `against`, those that differ in their model.

    Args:
        run: folder of a finished run.
        against: folder of another one, whose answers are held in memory.
        tags: of the queries; empty for all.
        show_reference: whether the judge sees it.

    Raises:
        RunError: a run has not finished.
    """
    folder = _finished(run)
    others = None if against is None else _answers(_finished(against))
    merged = MergedRun(folder)
    for part in folder.decided_parts():
        for one in _of_part(folder, merged, part, tags, show_reference):
            if others is None:
                yield one
            elif (other := others.get(one.query_id)) and other[0] != one.model:
                model, text = other
                asked = one.asked._replace(other=text)
                yield JudgedAnswer(one.query_id, one.model, asked, one.source, model, one.shared_by)


def _finished(url: str) -> RunFolder:
    run = RunFolder(url)
    if run.manifest() is None:
        raise RunError(
            f"{url} has not finished, or is no run: a judge is asked once all answers are there"
        )
    return run


def _of_part(
    run: RunFolder, merged: MergedRun, part: PartName, tags: frozenset[str], show_reference: bool
) -> Iterator[JudgedAnswer]:
    queries = {row["row"]: row for row in run.read_queries(part, columns=_READ).to_pylist()}
    for table in merged.outcomes_of(part):
        for outcome in table.to_pylist():
            query = queries[outcome["row"]]
            if _is_text(outcome) and (not tags or tags & set(query["tags"])):
                yield _answer(outcome, query, show_reference)


def _answer(
    outcome: Mapping[str, Any], query: Mapping[str, Any], show_reference: bool
) -> JudgedAnswer:
    asked = Asked(
        ChatRequest.model_validate_json(query["request"]).text(),
        outcome["completion"],
        query["reference"] if show_reference else None,
    )
    return JudgedAnswer(
        outcome["query_id"],
        outcome["model"],
        asked,
        query["tags"][0] if query["tags"] else OTHER_SOURCE,
        shared_by=tuple(one["query_id"] for one in query["followers"]),
    )


def _answers(run: RunFolder) -> dict[str, tuple[str, str]]:
    """Query → who answered, and what."""
    return {
        row["query_id"]: (row["model"], row["completion"])
        for table in MergedRun(run).outcomes()
        for row in table.to_pylist()
        if _is_text(row)
    }


def _is_text(outcome: Mapping[str, Any]) -> bool:
    """Whether a judge can read it; one that is shared is judged once, where it was asked for."""
    answered = outcome["status"] == "answered" and outcome["same_as"] is None
    return answered and bool((outcome["completion"] or "").strip())
