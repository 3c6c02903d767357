"""What it cost that some queries went to drawn models: beside who would have been asked."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from moa.intervals import Interval, Resamples
from moa.planning.policy import EXPLORED
from moa.reports.comparisons import FEWEST_GRADED
from moa.reports.matched import SEED, Matched, usd
from moa.reports.tally import DecisionTally
from moa.reports.wording import (
    better,
    better_bounds,
    extra,
    money,
    price,
    queries,
    right_answers,
    share,
)


@dataclass(frozen=True, slots=True)
class Explored:
    """Numbers of queries and sums of money are of the whole run, though a sample was looked at."""

    queries: int
    """That a model was drawn for."""
    share: float
    """Of all that a model was decided on."""
    compared: int
    """Answered, and what the preferred model costs on them is recorded or expected."""
    elsewhere: int
    """Of these, answered by another model than the preferred one."""
    cost_usd: Decimal
    """Of the compared ones."""
    preferred_usd: Decimal
    """What they would have cost, had nothing been explored."""
    expected_gain: float
    """Right answers, more than expected of the preferred models; below 0 they are lost."""
    loss_usd: Decimal | None
    """Both together, by what a right answer is worth; `None` where the policy does not say."""
    graded_queries: int
    """Compared ones of which both answers are graded."""
    grade_difference: Interval | None
    """Measured mean, theirs less that of the preferred models; `None` when too few are graded."""

    @property
    def extra_usd(self) -> Decimal:
        """What exploration cost."""
        return self.cost_usd - self.preferred_usd


def explored(
    decisions: DecisionTally, matched: Matched, *, value_usd: Decimal | None
) -> Explored | None:
    """What exploration cost; `None` of a run that explored nothing.

    Args:
        decisions: of the run.
        matched: the answered queries that are looked at.
        value_usd: of a right instead of a wrong answer.
    """
    drawn = sum(n for (_, rule), n in decisions.routes.items() if rule == EXPLORED)
    if not drawn:
        return None
    every = np.arange(len(matched))
    preferred, answered_by = np.maximum(matched.preferred, 0), np.maximum(matched.answered_by, 0)
    known = matched.explored & (matched.preferred >= 0) & (matched.answered_by >= 0)
    rows = np.flatnonzero(known & matched.could_answer[every, preferred])
    theirs, ours = preferred[rows], answered_by[rows]
    cost, instead = matched.our_cost[rows].sum(), matched.cost[rows, theirs].sum()
    expected = matched.expected_grade[rows, ours] - matched.expected_grade[rows, theirs]
    gain = float(np.nansum(expected)) * float(matched.scale)
    extra_usd = usd(int(cost) - int(instead)) * matched.scale
    lead = matched.our_grade[rows] - matched.grade[rows, theirs]
    graded = np.isfinite(lead)
    return Explored(
        queries=drawn,
        share=drawn / sum(n for (model, _), n in decisions.routes.items() if model is not None),
        compared=round(len(rows) * matched.scale),
        elsewhere=round(int((theirs != ours).sum()) * matched.scale),
        cost_usd=usd(int(cost)) * matched.scale,
        preferred_usd=usd(int(instead)) * matched.scale,
        expected_gain=gain,
        loss_usd=None if value_usd is None else extra_usd - value_usd * Decimal(str(gain)),
        graded_queries=round(int(graded.sum()) * matched.scale),
        grade_difference=_mean(lead[graded]),
    )


def _mean(lead: np.ndarray) -> Interval | None:
    if len(lead) < FEWEST_GRADED:
        return None
    return Resamples({"lead": lead}, seed=SEED).interval(lambda means: means["lead"])


def explored_sentences(found: Explored | None, value_usd: Decimal | None) -> list[str]:
    """What exploration cost, for people."""
    if found is None:
        return []
    was = "was" if found.queries == 1 else "were"
    told = (
        f"{queries(found.queries)} {was} explored ({share(found.share)}), {found.elsewhere:,} of "
        f"those answered by another model than would have been asked: {extra(found.extra_usd)}"
    )
    sentences = [f"{told}, {right_answers(found.expected_gain)} expected."]
    if found.grade_difference is not None:
        sentences.append(
            f"Measured, their answers are {better(found.grade_difference.value)} "
            f"({better_bounds(found.grade_difference)}), on {found.graded_queries:,} graded ones."
        )
    if found.loss_usd is not None and value_usd is not None:
        what = "cost" if found.loss_usd >= 0 else "gained"
        worth = money(abs(found.loss_usd))
        sentences.append(f"At {price(value_usd)} a right answer, exploring {what} {worth}.")
    return sentences
