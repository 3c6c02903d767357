"""A judge on a run of the demo: replayed, with verdicts that err so often, against known grades.

`python -m tests.bench.bench_judge --run runs/demo-…`: what a judge costs at list prices, how its
agreement is measured, and how its grades come out. Its errors are scripted; so they say nothing of
any real judge.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import JsonValue

from moa.config import ReplayConfig
from moa.grading.judge import Order
from moa.grading.judgements import read_judgements
from moa.pipeline.judge_config import JudgeOutcomesConfig, TrustConfig
from moa.pipeline.judged_answers import JudgedAnswer
from moa.pipeline.judging import judge_outcomes
from tests.bench.results import record
from tests.pipeline.scripted_judge import scripted_judge

RECORDED = Path("moa/recordings/graded_outcomes.parquet")
RUBRIC = "A good answer is right. Where there is a reference answer, it comes to the same."


def chance(text: str) -> float:
    """A number in [0, 1), equal for equal texts."""
    return float(xxhash.xxh3_64_intdigest(text.encode()) / 2**64)


def label(folder: Path, run: str, share: float) -> dict[tuple[str, str], float]:
    """Write known grades of a share of the run's queries as labels; all known grades."""
    outcomes = pq.read_table(f"{run}/outcomes", columns=["query_id"])
    known = pq.read_table(RECORDED, columns=["query_id", "model", "grade"])
    known = known.filter(pc.is_valid(known["grade"]))
    known = known.filter(pc.is_in(known["query_id"], value_set=outcomes["query_id"]))
    labelled = [chance(name) < share for name in known["query_id"].to_pylist()]
    pq.write_table(known.filter(labelled), folder / "labels.parquet")
    return {(row["query_id"], row["model"]): row["grade"] for row in known.to_pylist()}


def measure(run: str, *, errs: float, share: float) -> None:
    """Judge a run and print what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grades = label(folder, run, share)

        def says(one: JudgedAnswer, order: Order | None) -> str:
            right = grades[one.query_id, one.model] >= 0.5
            return "5" if right != (chance(f"errs {one.query_id}") < errs) else "1"

        config = JudgeOutcomesConfig(
            run=run,
            labels=f"{folder}/labels.parquet",
            output=f"{folder}/judged.parquet",
            judge="anthropic/claude-3.5-sonnet",
            rubric=RUBRIC,
            catalog="jobs/configs/demo_catalog.toml",
            folder=f"{folder}/judge",
            trust=TrustConfig(),
        )
        known = {query for query, _ in grades}
        labelled = [query for query in known if chance(query) < share]
        script = scripted_judge(config, labelled, says)
        steps: dict[str, JsonValue] = {key: {"text": text} for key, text in script.items()}
        replay = ReplayConfig(
            recordings="moa/recordings", synthetic=True, script={"queries": steps}
        )
        config = config.model_copy(update={"replay": replay})
        started = time.perf_counter()
        judged = judge_outcomes(config, environ=os.environ, tell=print)
        took_s = time.perf_counter() - started
        print(*(f"REFUSED: {why}" for why in judged.refused), sep="\n")
        figures = {"errs": errs, "written": judged.written, "took_s": round(took_s, 1)}
        if judged.written:
            given = read_judgements([config.output]).ratings
            equal = [
                (one.grade >= 0.5) == (grades[one.query_id, one.model] >= 0.5)
                for one in given
                if one.grade is not None
            ]
            figures["agreement_of_all"] = round(float(np.mean(equal)), 4)
        record("judge", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="folder of a finished run of the demo")
    parser.add_argument("--errs", type=float, default=0.05, help="share of wrong verdicts")
    parser.add_argument("--labelled", type=float, default=0.2, help="share of the queries")
    asked = parser.parse_args()
    measure(asked.run, errs=asked.errs, share=asked.labelled)
