"""How fast, how large and how good plans are, and HiGHS on a backlog that it can solve.

    python -m tests.bench.bench_planner              # to 10,000,000 queries; 20,000,000 streamed
    python -m tests.bench.bench_planner --small

Backlogs are generated, in single precision: unlike difficulties, lognormal lengths, six models and
two lanes, a budget, and requests, output tokens and a batch queue of each model. Each size is
planned in a process of its own, whose peak memory holds the backlog, the plan and Python. Streamed
queries are generated block by block and never held; their prices are from a sample, and what they
come to is compared with the bound that these prices give for all of them, and the prices with those
that a full solve of a part has.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.planning.capacity import Backlog, Capacity, Objective, with_limits
from moa.planning.dual import Dual
from moa.planning.planner import Plan, plan
from moa.planning.prices import Prices, find_prices
from moa.planning.rounding import Pass
from moa.planning.valuation import Terms
from tests.bench.results import record

MODELS, LANES = 6, 2
PRICES = np.geomspace(1e-7, 5e-6, MODELS).astype(np.float32)
"""USD per input token, from gpt-4o-mini's to claude-opus's; output tokens cost four times that."""
SKILLS = np.linspace(-0.5, 1.5, MODELS, dtype=np.float32)
WANTED = Objective(0.05)
BLOCK_ROWS = 100_000
SAMPLE_ROWS = 200_000


def main() -> None:
    """Measure, print a table, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few seconds")
    small = parser.parse_args().small
    sizes = [10_000, 100_000] if small else [100_000, 1_000_000, 10_000_000]
    streamed, part = (300_000, 100_000) if small else (20_000_000, 5_000_000)
    figures = {
        "joint": [alone(joint, rows) for rows in sizes],
        "streamed": alone(stream, streamed, part),
        "highs": alone(against_highs, 1_000 if small else 5_000),
    }
    tell(figures)
    record("planner", figures)


def alone(function: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


def blocks(rows: int) -> Iterator[Backlog]:
    """So many queries, block by block."""
    for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
        yield block(number, min(BLOCK_ROWS, rows - start))


def block(number: int, rows: int) -> Backlog:
    """One block; the same for the same number."""
    random = np.random.default_rng(number)

    def normal(columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32)

    odds = np.exp(normal(1) - SKILLS - np.float32(0.4) * normal(MODELS))
    grade = np.asarray(1 / (1 + odds), np.float32)
    input_tokens = np.asarray(np.exp(6 + normal(1)) * np.ones(MODELS), np.float32)
    output_tokens = np.exp(
        np.float32(5.5) + np.float32(0.8) * normal(1) + np.float32(0.2) * normal(MODELS)
    )
    cost = PRICES * (input_tokens + 4 * output_tokens)
    cost_usd = np.stack([cost, cost / 2], axis=2)
    return Backlog(grade, cost_usd, input_tokens, output_tokens)


def held(rows: int) -> Backlog:
    """So many queries, all in memory, without a copy."""
    single = np.float32
    out = Backlog(
        np.empty((rows, MODELS), single),
        np.empty((rows, MODELS, LANES), single),
        np.empty((rows, MODELS), single),
        np.empty((rows, MODELS), single),
    )
    start = 0
    for one in blocks(rows):
        into = out.take(slice(start, start + one.rows))
        into.grade[:], into.cost_usd[:] = one.grade, one.cost_usd
        for target, source in (
            (into.input_tokens, one.input_tokens),
            (into.output_tokens, one.output_tokens),
        ):
            if target is not None and source is not None:
                target[:] = source
        start += one.rows
    return out


def limits(rows: int) -> list[Capacity]:
    """A budget; of each model live requests and output tokens, and tokens in batches."""
    everything = np.ones((MODELS, LANES), np.bool_)
    live = everything & (np.arange(LANES) == 0)
    out = [Capacity("budget", "usd", everything, 0.0015 * rows)]
    for number in range(MODELS):
        one = everything & (np.arange(MODELS) == number)[:, None]
        out.append(Capacity(f"{number} requests", "queries", one & live, 0.2 * rows, per_time=True))
        out.append(
            Capacity(f"{number} output", "output_tokens", one & live, 70.0 * rows, per_time=True)
        )
        out.append(Capacity(f"{number} batches", "tokens", one & ~live, 100.0 * rows))
    return out


def joint(rows: int) -> dict[str, Any]:
    """All queries planned at once."""
    backlog, capacities = held(rows), limits(rows)
    before_mb = peak_mb()
    found = plan(backlog, capacities, WANTED)
    assert isinstance(found, Plan), found
    check(found.used, capacities)
    return {
        "rows": rows,
        "seconds": found.seconds,
        "prices_s": found.prices.seconds,
        "evaluations": found.prices.iterations,
        "backlog_mb": before_mb,
        "peak_mb": peak_mb(),
        "gap": found.gap,
        "binding": int((found.prices.usd > 0).sum()),
        "capacities": len(capacities),
        "over": found.over,
    }


def stream(rows: int, part: int) -> dict[str, Any]:
    """Prices from a sample, then one pass over queries that are never held."""
    capacities = limits(rows)
    began = time.perf_counter()
    sample = sampled(rows)
    drawn_s = time.perf_counter() - began
    prices = find_prices(sample, with_limits(capacities, sample.rows / rows), WANTED)
    assert isinstance(prices, Prices), prices
    queries = Pass(prices, capacities, WANTED, rows=rows)
    terms = Terms.of((MODELS, LANES), with_limits(capacities, 0.0), WANTED, 0)
    bound = float(prices.usd @ [one.limit for one in capacities])
    passing_s = 0.0
    for one in blocks(rows):
        began = time.perf_counter()
        queries.take(one)
        passing_s += time.perf_counter() - began
        bound += Dual(terms, one).at(prices.usd).value
    check(queries.used, capacities)
    peak = peak_mb()
    full = find_prices(held(part), limits(part), WANTED)
    assert isinstance(full, Prices), full
    used = queries.used / np.array([one.limit for one in capacities])
    return {
        "rows": rows,
        "sample": sample.rows,
        "drawn_s": drawn_s,
        "prices_s": prices.seconds,
        "seconds": passing_s,
        "peak_mb": peak,
        "over": queries.over,
        "most_used": float(used.max()),
        "gap": 1 - queries.worth / bound,
        "full_solve_rows": part,
        "bound_a_query_error": bound / rows / (full.bound / part) - 1,
        "price_error": float(
            np.abs(prices.usd[full.usd > 0] / full.usd[full.usd > 0] - 1).max(initial=0.0)
        ),
    }


def sampled(rows: int) -> Backlog:
    """Some queries of every block."""
    count = -(-rows // BLOCK_ROWS)
    each = max(1, SAMPLE_ROWS // count)
    random = np.random.default_rng(0)
    parts = []
    for one in blocks(rows):
        chosen = random.choice(one.rows, min(each, one.rows), replace=False)
        parts.append(one.take(chosen))
    return Backlog(
        np.concatenate([one.grade for one in parts]),
        np.concatenate([one.cost_usd for one in parts]),
        np.concatenate([one.input_tokens for one in parts if one.input_tokens is not None]),
        np.concatenate([one.output_tokens for one in parts if one.output_tokens is not None]),
    )


def against_highs(rows: int) -> dict[str, Any]:
    """The same backlog by HiGHS, which takes parts of queries."""
    from tests.planning.planner_problems import highs

    backlog, capacities = held(rows), limits(rows)
    found = plan(backlog, capacities, WANTED)
    assert isinstance(found, Plan), found
    began = time.perf_counter()
    best = highs(backlog, capacities, WANTED).worth
    assert best is not None
    return {
        "rows": rows,
        "seconds": found.seconds,
        "highs_s": time.perf_counter() - began,
        "bound_error": found.bound / best - 1,
        "gap": 1 - found.worth / best,
        "over": found.over,
    }


def check(used: NDArray[np.float64], capacities: list[Capacity]) -> None:
    """No limit is exceeded."""
    for amount, capacity in zip(used, capacities, strict=True):
        assert amount <= capacity.limit * (1 + 1e-9), capacity.name


def peak_mb() -> float:
    """Of this process, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tell(figures: dict[str, Any]) -> None:
    """A table."""
    print(f"{'queries':>12} {'seconds':>8} {'peak MB':>8} {'gap':>9}  method")
    for one in figures["joint"]:
        print(
            f"{one['rows']:>12,} {one['seconds']:>8.2f} {one['peak_mb']:>8,.0f} {one['gap']:>9.1e}"
            f"  joint: {one['evaluations']} evaluations in {one['prices_s']:.2f} s, then a pass; "
            f"{one['binding']} of {one['capacities']} capacities bind"
        )
    one = figures["streamed"]
    print(
        f"{one['rows']:>12,} {one['seconds']:>8.2f} {one['peak_mb']:>8,.0f} {one['gap']:>9.1e}"
        f"  streamed: prices from {one['sample']:,} in {one['prices_s']:.2f} s; at most "
        f"{one['most_used']:.6f} of a limit, {one['over']} over; prices are within "
        f"{one['price_error']:.1%} of those from {one['full_solve_rows']:,}"
    )
    one = figures["highs"]
    print(
        f"{one['rows']:>12,} {one['seconds']:>8.2f} {'':>8} {one['gap']:>9.1e}"
        f"  HiGHS: {one['highs_s']:.2f} s; our bound is {one['bound_error']:.1e} above its optimum"
    )


if __name__ == "__main__":
    main()
