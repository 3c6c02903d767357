"""Judgements in a graded run: they grade what no grader was asked about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa

from moa.grading.judgements import Judgements
from moa.grading.preference import Group, graded_by_judgements
from moa.pipeline.grade_part import GRADED, REFUSED, UNGRADED

NOT_JUDGED = "no grader for its tags, and nobody judged it"
_SHOWN_DEFECTS = 3


def with_judgements(
    graded: pa.Table, judgements: Judgements, *, enough: int
) -> tuple[pa.Table, list[str]]:
    """Fill in what judgements say, and say it in lines.

    Args:
        graded: `GRADED` of a whole run.
        judgements: by the queries' own ids; of other queries too, which tell of the models.
        enough: pairs that a source needs.

    Raises:
        ConfigError: there are pairs, and choix is not installed.
    """
    if judgements == Judgements([], [], []):
        return graded, []
    rows = graded.to_pylist()
    own_ids = [row["query_id"].partition("/")[2] for row in rows]
    sources = {name: row["source"] for name, row in zip(own_ids, rows, strict=True)}
    found = graded_by_judgements(judgements, sources, enough=enough)
    by_answer = {(one.query_id, one.model): one for one in found.given}
    now, filled = datetime.now(UTC), 0
    for name, row in zip(own_ids, rows, strict=True):
        if row["grader"] != UNGRADED or row["grade"] is not None or row["reason"] == REFUSED:
            continue
        given = by_answer.get((name, row["model"]))
        if given is None:
            row["reason"] = NOT_JUDGED
            continue
        filled += given.grade.value is not None
        row |= {"grade": given.grade.value, "reason": given.grade.reason or None}
        row |= {"grader": given.grader, "graded_at": now}
    lines = [
        f"{len(judgements.pairs):,} pairs and {len(judgements.ratings):,} ratings were read; they "
        f"grade {filled:,} of the run's answers",
        *_of_defects(judgements.defects),
        *(line for group in found.groups for line in _of_group(group)),
    ]
    return pa.Table.from_pylist(rows, schema=GRADED), lines


def _of_defects(defects: list[str]) -> Iterator[str]:
    if defects:
        yield f"{len(defects):,} judgements cannot be read:"
        yield from (f"  {one}" for one in defects[:_SHOWN_DEFECTS])


def _of_group(group: Group) -> Iterator[str]:
    """A source's models, the strongest first."""
    strengths = group.strengths
    yield f"{group.source}, {group.judgements:,} pairs; log-odds, and wins against the others:"
    for number in strengths.value.argsort()[::-1]:
        yield (
            f"  {strengths.models[number]:28} {strengths.value[number]:+.2f} "
            f"({strengths.low[number]:+.2f} to {strengths.high[number]:+.2f}), "
            f"{strengths.win_share(number):.3f}"
        )
    if group.apart:
        yield f"  not connected with these, and so without grades: {', '.join(group.apart)}"
