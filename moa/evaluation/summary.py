"""An evaluation in a few lines: for a terminal, and for a job that trains."""

from __future__ import annotations

from moa.evaluation.evaluation import Evaluation, PoolEvaluation, Settings, evaluate_pool
from moa.evaluation.judged import Judged
from moa.evaluation.metrics import Point
from moa.intervals import Interval


def quick_look(name: str, judged: Judged, settings: Settings) -> list[str]:
    """What a training job wants to know of a pool: points, AIQ, gap captured, savings, verdict."""
    return pool_lines(evaluate_pool(name, judged, settings))


def pool_lines(one: PoolEvaluation) -> list[str]:
    """One pool."""
    found = one.metrics
    against = found.against_best_constant
    points = (*found.models, found.configured, found.quality_alone, found.oracle)
    lines = [
        f"{one.name}: {found.queries:,} queries, all answered by {len(one.pool)} models; best "
        f"constant {found.best_constant}",
        *(_point(point) for point in points),
        f"  AIQ {told(found.aiq)}; random mix {told(found.aiq_random_mix)}; "
        f"gain {told(found.aiq_gain)}",
        f"  gap captured {told(against.gap_captured)}",
        f"  saving at best constant {told(against.saving.value)}; less 0.01: "
        f"{told(against.saving_with_slack.value)}",
    ]
    if found.strong_weak:
        pair = found.strong_weak
        lines.append(
            f"  {pair.strong} against {pair.weak}: APGR {told(pair.apgr)}, CPT(50 %) "
            f"{told(pair.cpt_50)}, CPT(80 %) {told(pair.cpt_80)}"
        )
    caution = found.caution
    lines.append(
        f"  over-caution {told(caution.over)}, ${caution.over_usd.value:.3f} per 1,000; "
        f"under-caution {told(caution.under)}; abstained {found.abstained.value:.3f}"
    )
    if one.robustness:
        lines.append(f"  flip rate {told(one.robustness.overall.rate)}")
    lines += [
        f"  untaught {stranger.source}: {told(stranger.difference)} with abstention, "
        f"{told(stranger.difference_without_abstention)} without"
        for stranger in one.left_out
    ]
    return [*lines, f"  {one.verdict}"]


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """All pools, the calibration and the gate."""
    lines = [line for pool in evaluation.pools for line in pool_lines(pool)]
    lines += [
        f"  {one.model:28} ECE {told(one.ece)} on {one.queries:,} graded queries; a perfect "
        f"router's {one.ece_of_perfect:.3f}"
        for one in evaluation.calibration
    ]
    for pool in evaluation.pools:
        for check in pool.gate.checks:
            mark = "passed" if check.passed else "FAILED"
            lines.append(f"{mark} {pool.name}: {check.what} {check.measured}, {check.wanted}")
    return lines


def told(found: Interval) -> str:
    """`0.123 (0.100 to 0.150)`."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _point(point: Point) -> str:
    return (
        f"  {point.name:28} grade {told(point.grade)}  ${point.cost_usd.value:.3f} per 1,000  "
        f"arena {point.arena.value:.3f}"
    )
