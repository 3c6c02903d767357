"""Judgements → a grade in [0, 1] for each answer that was judged.

Ratings and thumbs are grades, and several of one answer are averaged. Pairs say how strong models
are in a group of queries (those of one source), and an answer's grade is how often it would win
against an answer of another model of the group, each as likely. For that its strength is its
model's, plus what its own judgements add: as much as is likeliest when answers of one model differ
by `ANSWER_SPREAD`. So one judgement moves a grade less than five, and beating a strong model more
than beating a weak one. Such grades are relative to the pool: 0.5 is as good as the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moa.grading.bradley_terry import Strengths, connected, fit, fitter
from moa.grading.grader import Grade
from moa.grading.judgements import Judgements, Pair, Rating
from moa.schema import OTHER_SOURCE

ANSWER_SPREAD = 1.0
"""Standard deviation of the answers of one model, in log-odds. Assumed, not measured: few answers
are judged often enough to tell. One win against an equal makes 0.60 of 0.50, five make 0.76."""
ENOUGH = 20
"""Judgements of a group; fewer say too little about its models."""
RATINGS = "ratings/1"
JUDGE = "judge/"
"""How a rater's name begins that is a model, see `moa.grading.judge`."""
_ROUNDS = 50


class Given(NamedTuple):
    """A grade by judgements."""

    query_id: str
    model: str
    grade: Grade
    judgements: int
    """How many there are of the answer."""
    grader: str


class Group(NamedTuple):
    """The models of one source, as far as they can be compared."""

    source: str
    strengths: Strengths
    judgements: int
    apart: tuple[str, ...]
    """Models whose comparisons are not connected with these."""


class Preferences(NamedTuple):
    """All that judgements say."""

    given: list[Given]
    """At most one per query and model."""
    groups: list[Group]


def graded_by_judgements(
    judgements: Judgements,
    source_of: Mapping[str, str],
    *,
    enough: int = ENOUGH,
    spread: float = ANSWER_SPREAD,
) -> Preferences:
    """Grade each answer that was judged.

    Args:
        judgements: of whichever queries and models.
        source_of: query → its group, for judgements that do not say it.
        enough: judgements that a group needs.
        spread: of the answers of one model, in log-odds; > 0.

    A rating goes before pairs: it says how good an answer is, not how much better.

    Raises:
        ConfigError: there are pairs, and choix is not installed.
    """
    by_source: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in judgements.pairs:
        source = pair.source or source_of.get(pair.query_id, OTHER_SOURCE)
        by_source[source].append(pair)
    given: dict[tuple[str, str], Given] = {}
    groups = []
    for source, pairs in sorted(by_source.items()):
        group, grades = _grouped(source, pairs, enough, spread)
        groups += [group] if group else []
        given |= {(one.query_id, one.model): one for one in grades}
    given |= {(one.query_id, one.model): one for one in _rated(judgements.ratings)}
    return Preferences(list(given.values()), groups)


def _rated(ratings: Iterable[Rating]) -> Iterator[Given]:
    by_answer: defaultdict[tuple[str, str], list[Rating]] = defaultdict(list)
    for one in ratings:
        by_answer[one.query_id, one.model].append(one)
    for (query_id, model), said in by_answer.items():
        known = [one for one in said if one.grade is not None]
        grades = [one.grade for one in known if one.grade is not None]
        grade = Grade(float(np.mean(grades))) if grades else Grade(None, said[0].reason)
        grader = _by_model(one.rater for one in known or said) or RATINGS
        yield Given(query_id, model, grade, len(grades), grader)


def _grouped(
    source: str, pairs: Sequence[Pair], enough: int, spread: float
) -> tuple[Group | None, Iterable[Given]]:
    """A source's strengths and grades; without strengths where there are too few judgements."""
    largest, *others = connected(pairs)
    inside = [one for one in pairs if one.model_a in largest]
    outside = [one for one in pairs if one.model_a not in largest]
    apart = "its model's comparisons are not connected with those of most"
    missing = _without(outside, apart)
    if len(inside) < enough:
        few = f"too few judgements: {len(inside)} of its group, {enough} are needed"
        return None, [*missing, *_without(inside, few)]
    strengths = fit(inside)
    group = Group(source, strengths, len(inside), tuple(sorted(frozenset().union(*others))))
    return group, [*missing, *_answers(inside, strengths, spread)]


def _without(pairs: Iterable[Pair], why: str) -> list[Given]:
    grader = f"preference/1 {fitter()}"
    return [
        Given(query_id, model, Grade(None, why), len(own), grader)
        for (query_id, model), own in _by_answer(pairs).items()
    ]


class _Judged(NamedTuple):
    """One judgement from the side of one of its answers."""

    opponent: str
    share: float
    weight: float
    rater: str


def _by_answer(pairs: Iterable[Pair]) -> dict[tuple[str, str], list[_Judged]]:
    found: defaultdict[tuple[str, str], list[_Judged]] = defaultdict(list)
    for one in pairs:
        a, b = (one.query_id, one.model_a), (one.query_id, one.model_b)
        found[a].append(_Judged(one.model_b, one.share, one.weight, one.rater))
        found[b].append(_Judged(one.model_a, 1 - one.share, one.weight, one.rater))
    return found


def _answers(pairs: Iterable[Pair], strengths: Strengths, spread: float) -> Iterator[Given]:
    place = {name: n for n, name in enumerate(strengths.models)}
    value = strengths.value.tolist()
    fitted = f"preference/1 {fitter()}"
    for (query_id, model), own in _by_answer(pairs).items():
        number = place[model]
        ahead = [value[number] - value[place[one.opponent]] for one in own]
        grade = Grade(strengths.win_share(number, _added(ahead, own, spread)))
        rater = _by_model(one.rater for one in own)
        yield Given(query_id, model, grade, len(own), f"{fitted} by {rater}" if rater else fitted)


def _added(ahead: Sequence[float], own: Sequence[_Judged], spread: float) -> float:
    """What an answer's own judgements add to its model's strength: the likeliest, by Newton.

    Args:
        ahead: of the opponent of each judgement, in log-odds.
        own: the judgements.
        spread: the prior's standard deviation.
    """
    added = 0.0
    for _ in range(_ROUNDS):
        slope, bend = -added / spread**2, 1 / spread**2
        for by, one in zip(ahead, own, strict=True):
            chance = 0.5 * (1 + math.tanh((by + added) / 2))
            slope += one.weight * (one.share - chance)
            bend += one.weight * chance * (1 - chance)
        step = min(1.0, max(-1.0, slope / bend))
        added += step
        if abs(step) < 1e-9:
            break
    return added


def _by_model(raters: Iterable[str]) -> str:
    """The rater, if there is but one and it is a model; else ""."""
    names = set(raters)
    (name, *others) = names or {""}
    return name if not others and name.startswith(JUDGE) else ""
