"""Dispatch in five workloads, beside a bare loop (the floor) and the vendors' own SDKs.

    python -m tests.bench.bench_dispatch                      # all; 6 minutes
    python -m tests.bench.bench_dispatch --workload w2 w4     # some
    python -m tests.bench.bench_dispatch --scale 0.1          # a trial: printed, not kept

w1    CPU per call: nothing to wait for, each side alone
job   CPU per call of the whole job on Ray
w2    slow answers, 500 in flight: wall against the best schedule
w3    a rate limit: how much of it is used, how often it is broken
w4    a storm of faults: what is lost or bought twice, and how long it takes
long  memory of the whole job on 200,000 queries, beside 20,000; when asked for: 4 minutes
w5    kill -9 and restart: what is lost, bought twice, told

The other side is the replay server on localhost, in a process of its own; so is each of the sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from tests.bench.dispatch.cpu import each_side, long_job, whole_job
from tests.bench.dispatch.crash import crash
from tests.bench.dispatch.figures import Result
from tests.bench.dispatch.limited import limited
from tests.bench.dispatch.storm import storm
from tests.bench.dispatch.waiting import waiting
from tests.bench.results import record

WORKLOADS: Mapping[str, Callable[[float], Sequence[Result]]] = {
    "w1": each_side,
    "job": whole_job,
    "w2": waiting,
    "w3": limited,
    "w4": storm,
    "w5": crash,
    "long": long_job,
}
WHEN_ASKED_FOR = ("long",)


def main() -> None:
    """Run the workloads, print a table each, keep the figures of a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls")
    options = parser.parse_args()
    figures = {}
    for name in options.workload or [name for name in WORKLOADS if name not in WHEN_ASKED_FOR]:
        results = WORKLOADS[name](options.scale)
        for result in results:
            result.show()
        figures[name] = [result.document() for result in results]
    if options.scale == 1:
        record("dispatch", {"workloads": figures})


if __name__ == "__main__":
    main()
