"""What there is to know of training data before a router is believed: how many grades of what, how
old, how often the same, and whether the queries that judge were learnt from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.grading.grader import RIGHT
from moa.storage.near_duplicates import NearDuplicates, fingerprint, text_group
from moa.training.dataset import Dataset, read_grades, read_queries

Floats = NDArray[np.float64]
TRAIN = "train"


def data_look(data: Dataset, folder: Path | str) -> list[str]:
    """Markdown, a fact a line.

    Args:
        data: what is learnt from: the `train` split of the folder.
        folder: as `read_dataset`.
    """
    queries, grades = read_queries(folder), read_grades(folder)
    mine = grades.filter(
        pc.field("query_id").isin(list(data.query_ids)) & pc.field("model").isin(list(data.models))
    )
    return [
        *(_of_model(data, column) for column in range(len(data.models))),
        _sparseness(data),
        *_age(mine),
        _duplicates(data),
        *_contamination(queries),
    ]


def effective(weight: Floats) -> float:
    """How many grades that each count once would tell as much as these weighted ones.

    Source: Kish, Survey Sampling, 1965.
    """
    return float(weight.sum() ** 2 / max((weight**2).sum(), 1e-9))


def _of_model(data: Dataset, column: int) -> str:
    known = ~np.isnan(data.grade[:, column])
    grade = data.grade[known, column]
    told = (
        f"- {data.models[column]}: {len(grade):,} grades, {_percent((grade >= RIGHT).mean())} of "
        f"them right, mean {grade.mean():.3f}"
    )
    if data.weight is None:
        return told
    weight = data.weight[known, column]
    weighted = np.average(grade, weights=weight)
    return (
        f"{told}; by propensity {weighted:.3f}, which is worth {effective(weight):,.0f} grades "
        f"(weights up to {weight.max():.3g})"
    )


def _sparseness(data: Dataset) -> str:
    each = (~np.isnan(data.grade)).sum(axis=1)
    one = _percent((each == 1).mean())
    return f"- {len(each):,} queries with {each.mean():.2f} grades each; {one} have one"


def _age(grades: pa.Table) -> Iterator[str]:
    if "graded_at" not in grades.column_names or not len(grades):
        return
    days = np.sort(grades.column("graded_at").cast(pa.timestamp("us")).to_numpy())
    oldest, middle, newest = (str(days[int(q * (len(days) - 1))])[:10] for q in (0, 0.5, 1))
    yield f"- graded from {oldest} to {newest}, half of it since {middle}"


def _duplicates(data: Dataset) -> str:
    texts = Counter(map(text_group, data.texts))
    again = len(data.texts) - len(texts)
    groups = Counter(data.groups)
    largest = max(groups.values(), default=0)
    return (
        f"- {again:,} of the queries repeat another's text; {len(groups):,} groups of near "
        f"duplicates, the largest of {largest:,}"
    )


def _contamination(queries: pa.Table) -> Iterator[str]:
    """Other splits' queries that are nearly the same as one that is learnt from."""
    splits = queries.column("split").to_pylist()
    if set(splits) == {TRAIN}:
        return
    prompts = queries.column("prompt").to_pylist()
    known = NearDuplicates()
    for prompt, split in zip(prompts, splits, strict=True):
        if split == TRAIN:
            known.add(fingerprint(prompt), "", TRAIN)
    met: Counter[str] = Counter()
    for prompt, split in zip(prompts, splits, strict=True):
        if split != TRAIN:
            met[split] += bool(known.near(fingerprint(prompt)))
    for split, count in sorted(Counter(splits).items()):
        if split != TRAIN:
            yield (
                f"- {split}: {met[split]:,} of {count:,} queries are nearly the same as one of "
                f"{TRAIN} ({_percent(met[split] / count)})"
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
