"""What is told of a redrive on a terminal: before it, in the middle, and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal

from moa.pipeline.selection import Tally
from moa.pipeline.unfinished import Yield
from moa.reports.wording import money, queries
from moa.storage.run_folder import RunFolder


def done(child: RunFolder, counts: Mapping[str, int], cost_usd: Decimal) -> list[str]:
    """What has come of it."""
    selection = child.selection()
    assert selection is not None
    tally = Tally(sent=Counter(selection["sent"]))
    tally.left.update({(reason, why): number for reason, why, number in selection["left"]})
    answered, refused = counts.get("answered", 0), counts.get("refused", 0)
    name = f"redrive {child.url.rpartition('/')[2]}"
    closed = child.is_abandoned()
    return [
        f"{name}{', closed' if closed else ''}: {queries(sum(counts.values()))} sent again, "
        f"{answered:,} answered, "
        f"{refused:,} refused, {counts.get('dead_letter', 0):,} still dead; {money(cost_usd)}",
        *([] if closed else _sent(tally)),
        *_left(tally),
    ]


def nothing(tally: Tally) -> list[str]:
    """That there is nothing to send."""
    if not tally.left:
        return ["nothing is to be sent again: no query is dead"]
    return ["nothing is to be sent again", *_left(tally)]


def announced(tally: Tally, child: RunFolder, left_usd: Decimal | None) -> list[str]:
    """What would be sent, to whom and at what price.

    Args:
        tally: of all that is dead.
        child: where it would be.
        left_usd: of the budget; `None` is without a limit.
    """
    if not tally.asked:
        return nothing(tally)
    number = sum(tally.sent.values())
    shared = f", {tally.asked:,} of them by a call of their own" if tally.asked < number else ""
    beyond = left_usd is not None and Decimal(tally.expected_usd) > left_usd
    return [
        f"{queries(number)} would be sent again{shared}, as {child.url}",
        *_sent(tally),
        *(f"  to {model:30} {queries(n):>18}" for model, n in tally.models.most_common()),
        *_left(tally),
        f"expected cost {money(tally.expected_usd)}, without fallbacks"
        + (": more than is left, and what that does not cover stays dead" if beyond else ""),
    ]


def going_on(child: RunFolder, so_far: Yield) -> list[str]:
    """How far one is that would go on."""
    selection = child.selection()
    assert selection is not None
    return [
        f"{child.url} is not finished, and would go on: {so_far.settled:,} of "
        f"{queries(selection['queries'])} are settled, for {money(so_far.spent_usd)}"
    ]


def _sent(tally: Tally) -> list[str]:
    return [f"  {reason:33} {queries(number):>18}" for reason, number in tally.sent.most_common()]


def _left(tally: Tally) -> list[str]:
    return [
        f"not sent: {number:,} {reason}: {why}"
        for (reason, why), number in tally.left.most_common()
    ]
