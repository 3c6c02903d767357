"""An evaluation in a few lines: for a terminal, and for a job that trains."""

from __future__ import annotations

from moa.evaluation.evaluation import Evaluation, PoolEvaluation, Settings, evaluate_pool
from moa.evaluation.judged import Judged
from moa.evaluation.metrics import Point
from moa.evaluation.traffic import TrafficEvaluation
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
    lines += [line for pool in evaluation.traffic for line in traffic_lines(pool)]
    for name, found in evaluation.gates:
        for check in found.checks:
            mark = "passed" if check.passed else "FAILED"
            lines.append(f"{mark} {name}: {check.what} {check.measured}, {check.wanted}")
    return lines


def traffic_lines(one: TrafficEvaluation) -> list[str]:
    """One pool on logged traffic."""
    routers = {"candidate": one.candidate, "in use": one.current}
    values = {**{name: it for name, it in routers.items() if it is not None}, **one.constants}
    lines = [
        f"{one.name} on logged traffic: {one.queries:,} queries with {one.answers:,} graded answers"
    ]
    lines += [
        f"  {name:28} grade {told(it.grade)}  ${it.cost_usd.value:.3f} per 1,000; known of "
        f"{it.known:,}, as good as {it.effective:,.0f}"
        for name, it in values.items()
    ]
    lines += [
        f"  {name}: {told(it.grade)} against {'the router in use' if one.current else 'constant'}"
        for name, it in one.by_domain.items()
    ]
    if one.flip_rate:
        lines.append(f"  flip rate {told(one.flip_rate)}")
    return [*lines, f"  {one.verdict}"]


def told(found: Interval) -> str:
    """`0.123 (0.100 to 0.150)`."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _point(point: Point) -> str:
    return (
        f"  {point.name:28} grade {told(point.grade)}  ${point.cost_usd.value:.3f} per 1,000  "
        f"arena {point.arena.value:.3f}"
    )
