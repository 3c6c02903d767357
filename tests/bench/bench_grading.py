"""Our graders against the grades that benchmarks gave to the same completions.

`python -m tests.bench.bench_grading [--recordings FOLDER] [--show N]` grades the raw completions of
all sources with references, but of code, again. Per source and split: how many, how many have no
grade, the share of equal grades and Cohen's kappa, each with 95 % intervals by bootstrap over
queries (where nothing disagrees, from the rule of three), and grades a second in one process.
Disagreements are listed with what was answered; who was right is for people to say:
`moa/grading/README.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from moa.grading.agreement import agreement
from moa.grading.final_answer import final_answer
from moa.grading.grader import Grade, Grader
from moa.grading.graders import open_grader
from moa.intervals import Interval
from tests.bench.results import record

GRADER_OF = {
    "zeroeval-gsm": "maths",
    "zeroeval-math-l5": "maths",
    "zeroeval-numersense-v2": "maths",
    "zeroeval-crux": "exact",
    "farel": "choice",
    "lineage-2024": "choice",
}
SPLITS = ("train", "demo")


@dataclass(frozen=True, slots=True)
class Item:
    """One completion with the grade that its benchmark gave."""

    source: str
    split: str
    query_id: str
    model: str
    completion: str
    reference: str
    grade: float


def read_items(folder: Path) -> list[Item]:
    """All graded completions whose grades are 0 or 1, of the sources above; in order of source."""
    names = ["query_id", "source", "split", "reference"]
    queries = {
        row["query_id"]: row
        for row in pq.read_table(folder / "queries.parquet", columns=names).to_pylist()
    }
    outcomes = pq.read_table(
        folder / "graded_outcomes.parquet", columns=["query_id", "model", "grade"]
    )
    grades = {(row["query_id"], row["model"]): row["grade"] for row in outcomes.to_pylist()}
    items = []
    for row in pq.read_table(folder / "completions.parquet").to_pylist():
        query = queries[row["query_id"]]
        grade = grades.get((row["query_id"], row["model"]))
        if query["source"] in GRADER_OF and grade in (0.0, 1.0):
            items.append(
                Item(
                    query["source"], query["split"], row["query_id"], row["model"],
                    row["completion"], query["reference"], grade,
                )
            )  # fmt: skip
    return sorted(items, key=lambda item: (item.source, item.query_id, item.model))


def compared(items: list[Item], grades: list[Grade]) -> dict[str, Interval | None]:
    """The share of equal grades and Cohen's kappa over what has a grade; queries are drawn."""
    known = [(i, g.value) for i, g in zip(items, grades, strict=True) if g.value is not None]
    found = agreement(
        [(value, item.grade) for item, value in known], [item.query_id for item, _ in known]
    )
    return {"agreement": found.accuracy, "kappa": found.kappa}


def regrade(items: list[Item], graders: dict[str, Grader]) -> tuple[list[Grade], float]:
    """Their grades by us, and the seconds that took."""
    grader = graders[GRADER_OF[items[0].source]]
    start = time.perf_counter()
    grades = [grader.grade(item.completion, item.reference) for item in items]
    return grades, time.perf_counter() - start


def disagreements(items: list[Item], grades: list[Grade]) -> Iterable[str]:
    """A line for each item that is graded otherwise, or not at all."""
    for item, grade in zip(items, grades, strict=True):
        if grade.value != item.grade:
            answer = final_answer(item.completion) or f"…{item.completion[-160:]}"
            ours = grade.reason if grade.value is None else f"{grade.value:g}"
            yield (
                f"  {item.query_id} {item.model}: theirs {item.grade:g}, ours {ours}; "
                f"reference {item.reference!r}, answer {answer[:200]!r}"
            )


def main() -> None:
    """Grade all again, print the table and record its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, default=Path("moa/recordings"))
    parser.add_argument("--show", type=int, default=20, help="disagreements listed of each row")
    parser.add_argument("--split", choices=SPLITS, help="only one; both without it")
    arguments = parser.parse_args()
    graders = {name: open_grader(name) for name in sorted(set(GRADER_OF.values()))}
    graders["maths"].grade("\\sqrt{4}", "2")  # its process starts
    rows = []
    heads = f"{'n':>6} {'none':>5} {'agreement':>24} {'kappa':>24} {'a second':>9}"
    print(f"{'source':24} {'split':6} {heads}")
    for _, group in groupby(read_items(arguments.recordings), key=lambda item: item.source):
        of_source = list(group)
        for split in SPLITS if arguments.split is None else (arguments.split,):
            items = [item for item in of_source if item.split == split]
            rows.append(report(items, graders, show=arguments.show))
    record("grading", {"graders": {n: g.version for n, g in graders.items()}, "rows": rows})


def report(items: list[Item], graders: dict[str, Grader], *, show: int) -> dict[str, object]:
    """Print one row of the table and its disagreements; the figures of it."""
    grades, seconds = regrade(items, graders)
    figures = compared(items, grades)
    missing = sum(grade.value is None for grade in grades)
    first = items[0]
    cells = [
        "-" if one is None else f"{one.value:.4f} ({one.low:.4f}, {one.high:.4f})"
        for one in figures.values()
    ]
    print(
        f"{first.source:24} {first.split:6} {len(items):6} {missing:5} "
        f"{cells[0]:>24} {cells[1]:>24} {len(items) / seconds:9.0f}"
    )
    lines = list(disagreements(items, grades))
    for line in lines[:show]:
        print(line)
    return {
        "source": first.source, "split": first.split, "n": len(items), "missing": missing,
        "disagree": len(lines) - missing, "items_per_s": round(len(items) / seconds),
        **{
            name: None if one is None else [round(x, 4) for x in (one.value, one.low, one.high)]
            for name, one in figures.items()
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
